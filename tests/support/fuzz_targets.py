"""What must hold of every reader of bytes that came from elsewhere: it gives a value, or refuses in the way it says.

A target takes any bytes and raises only if that is broken. The readers behind seals and digests are given the bytes as
they are, and once more with every seal made right, so that what lies behind is reached. Memory and time are bounded by
whoever runs them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from cryptography.exceptions import InvalidTag

from replicad.cli.points import _facts, _row
from replicad.model.errors import IntegrityError, ReplicadError, UnsupportedError
from replicad.model.health import Observation, judge
from replicad.model.manifest import PAGE_BYTES, Manifest
from replicad.model.names import printable
from replicad.model.points import CycleRecord, RecoveryPoint, ReplicaRecord
from replicad.replica.known_chunks import KnownChunks
from replicad.replica.manifest_file import HEADER_BYTES, ManifestOwner, read_manifest
from replicad.replica.records import decode, encode
from replicad.replica.recovery_text import recovery_text
from replicad.replica.undo_format import BLOCK_BYTES, UndoHeader
from replicad.replica.undo_log import index_undo_log, read_batches, read_file_header, resume_undo_log
from replicad.settings import SettingsError
from replicad.settings.load import parse as parse_settings
from replicad.storage import holder
from replicad.storage.memory import MemoryShare
from replicad.storage.port import LockHolder, OpenMode
from replicad.storage.smb.data import frame, protect
from replicad.vhdx import DamagedVhdxError, NotVhdx, VhdxFacts, check_structure, parse
from tests.support.vhdx_builder import Image, Reads, drive

T = TypeVar("T")

CHUNK = 64 * 1024
REPLICA_ID, DISK_ID = "11" * 16, "22" * 16
UNDO_HEADER = UndoHeader(REPLICA_ID, DISK_ID, 2, CHUNK, 5 * CHUNK + 9)
OWNER = ManifestOwner(REPLICA_ID, DISK_ID)
_NOW = datetime(2026, 6, 1, tzinfo=UTC)
MAX_READ_BYTES = 80 << 20


def _now(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner() as runner:
        return runner.run(work)


# Sealed records


def replica_record(data: bytes) -> None:
    """replica.json"""
    if (found := _record(data, ReplicaRecord)) is not None:
        assert 0 <= int(found.hash_seed, 16) < 1 << 64
        recovery_text(found).encode()


def point_record(data: bytes) -> None:
    """point.json"""
    if (found := _record(data, RecoveryPoint)) is not None:
        json.dumps(_facts(found, ("latest",)), ensure_ascii=False).encode()
        assert all("\n" not in cell for cell in _row(found, ("latest",)))
        judge(Observation(found.time, found.consistency), 300, _NOW)


def cycle_record(data: bytes) -> None:
    """cycle.json"""
    _record(data, CycleRecord)


Record = TypeVar("Record", ReplicaRecord, RecoveryPoint, CycleRecord)


def _record(data: bytes, kind: type[Record]) -> Record | None:
    try:
        found = decode(data, kind, "it")
    except IntegrityError:
        return None
    assert decode(encode(found), kind, "it") == found
    return found


def sealed(target: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """The same for a record that is sealed whatever it says."""

    def with_seal(data: bytes) -> None:
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            return
        if isinstance(document, dict):
            with suppress(ValueError, RecursionError):
                target(seal_record(document))

    return with_seal


def seal_record(document: dict[str, Any]) -> bytes:
    """The canonical bytes of a record (docs/format.md)."""

    def canonical(value: object) -> bytes:
        return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    content = {key: value for key, value in document.items() if key != "seal"}
    seal = hashlib.blake2b(canonical(content), digest_size=32, person=b"replicad.record").hexdigest()
    return canonical({**content, "seal": seal})


# Undo logs and manifests


def undo_log(data: bytes) -> None:
    """A log as a reader has it, and as the next writer goes on with it."""
    _now(_undo_log(data))


async def _undo_log(data: bytes) -> None:
    share = MemoryShare()
    await _put(share, "log", data)
    await _put(share, "disk", bytes(UNDO_HEADER.previous_size_bytes))

    async def previous() -> Manifest:
        return Manifest(CHUNK, UNDO_HEADER.previous_size_bytes)

    async with await share.open("log", OpenMode.WRITE) as file, await share.open("disk", OpenMode.WRITE) as disk:
        with suppress(IntegrityError):
            index = await index_undo_log(file, "it", None)
            assert sorted(set(index.chunks)) == list(index.chunks)
            assert len(index.hashes) == 16 * len(index.chunks) == 16 * len(index.positions)
            assert all(0 <= position < len(data) for position in index.positions)
        with suppress(IntegrityError):
            resumed = await resume_undo_log(file, UNDO_HEADER, disk, previous, 7, "it")
            if resumed is not None:
                assert 0 <= resumed.durable_batches <= resumed.log.batches
                header, digest = await read_file_header(file, "it")
                known = KnownChunks(Manifest(CHUNK, header.previous_size_bytes), 3 * CHUNK)
                async for batch in read_batches(file, header, digest):
                    for entry in batch.header.entries:
                        known.replay(entry, durable=batch.header.number < resumed.durable_batches)


def reseal_log(data: bytes) -> bytes:
    """The same log with all its digests right, as far as its headers can be followed."""
    log = bytearray(data)
    if len(log) < BLOCK_BYTES:
        return data
    digest = _seal_header(log, 0, BLOCK_BYTES)
    position = BLOCK_BYTES
    while position + BLOCK_BYTES <= len(log) and log[position : position + 8] == b"RPLBATCH":
        count, data_bytes = struct.unpack_from("<IQ", log, position + 12)
        length = -(-(64 + 48 * count + 32) // BLOCK_BYTES) * BLOCK_BYTES
        if position + length > len(log):
            break
        log[position + 32 : position + 64] = digest
        digest = _seal_header(log, position, length)
        position += length + data_bytes
    return bytes(log)


def _seal_header(log: bytearray, start: int, length: int) -> bytes:
    end = start + length
    digest = hashlib.blake2b(log[start : end - 32], digest_size=32, person=b"replicad.undo").digest()
    log[end - 32 : end] = digest
    return digest


def manifest(data: bytes) -> None:
    """A manifest's file, for a point that names the digest in it."""
    _now(_manifest(data))


async def _manifest(data: bytes) -> None:
    share = MemoryShare()
    await _put(share, "m", data)
    with suppress(IntegrityError):
        found = await read_manifest(share, "m", OWNER, data[HEADER_BYTES - 32 : HEADER_BYTES].hex())
        assert all(0 <= number < found.page_count and len(page) == PAGE_BYTES for number, page in found.pages.items())


def reseal_manifest(data: bytes) -> bytes:
    """The same manifest with the digests of all its pages, and of its head, right."""
    file = bytearray(data)
    if len(file) < HEADER_BYTES:
        return data
    chunk_bytes, size_bytes = struct.unpack_from("<IQ", file, 12)
    chunks = -(-size_bytes // max(1, chunk_bytes))
    pages = -(-chunks // 256)
    index_bytes = -(-16 * pages // 4096) * 4096
    if HEADER_BYTES + index_bytes + 4096 * pages <= len(file):
        for number in range(pages):
            page = file[HEADER_BYTES + index_bytes + 4096 * number :][:4096]
            digest = hashlib.blake2b(page, digest_size=16, person=b"replicad.page").digest() if any(page) else bytes(16)
            file[HEADER_BYTES + 16 * number : HEADER_BYTES + 16 * number + 16] = digest
    head = hashlib.blake2b(file[: HEADER_BYTES - 32], digest_size=32, person=b"replicad.manif")
    head.update(file[HEADER_BYTES : HEADER_BYTES + index_bytes])
    file[HEADER_BYTES - 32 : HEADER_BYTES] = head.digest()
    return bytes(file)


async def _put(share: MemoryShare, path: str, data: bytes) -> None:
    async with await share.open(path, OpenMode.CREATE) as file:
        await file.write(data, 0)


# Locks, configuration, SMB, disks


def lock_holder(data: bytes) -> None:
    """The text of a lock file."""
    found = holder.decode(data)
    if found is None:
        return
    assert holder.decode(holder.encode(found)) == found or len(holder.encode(found)) > holder.MAX_HOLDER_BYTES
    assert printable(holder.describe(found)) == holder.describe(found)
    me = LockHolder("host", "machine", "boot", 1, "1", "2026-01-01T00:00:00Z")
    assert holder.is_dead(found, me, lambda _: "1") in (True, False)


def configuration(data: bytes) -> None:
    """A configuration file."""
    with suppress(SettingsError):
        parse_settings(data, Path("any.yaml"), {"HOME": "/home/u"})


def smb_answer(data: bytes) -> None:
    """What comes on a connection: the header of an answer, its fixed part, and that of an encrypted message."""
    for message in (data, memoryview(bytearray(data))):
        found = frame.parse_answer(message)
        assert (found is None) == (len(data) < 64 or bytes(data[:6]) != b"\xfeSMB\x40\x00")
        for length in (len(data), 1 << 24):
            place = frame.parse_read_answer(message, length)
            if place is not None:
                start, count = place
                assert start >= frame.ANSWER_BYTES
                assert count == 0 or start + count <= length
        written = frame.parse_write_answer(message)
        assert written is None or 0 <= written < 1 << 32


_KEY = bytes(range(32))


def smb_sealed(data: bytes) -> None:
    """An encrypted message, to be opened with each cipher: nobody but its peer can have sealed it, so nothing opens."""
    transform = frame.parse_transform(data)
    if transform is None:
        return
    message = memoryview(bytearray(data))
    ciphertext = message[frame.TRANSFORM_BYTES :]
    for cipher in protect.Sealing:
        key = _KEY[: 32 if cipher in (protect.Sealing.AES_256_CCM, protect.Sealing.AES_256_GCM) else 16]
        try:
            opening = protect.open_sealed(cipher, key, message, transform, ciphertext)
            opening.take(memoryview(bytearray(min(80, len(ciphertext)))))
            opening.take(memoryview(bytearray(max(0, len(ciphertext) - 80))))
            opening.finish()
        except InvalidTag:
            continue
        raise AssertionError(f"{cipher.name} opened a message that nobody sealed")


def disk_image(image: Image) -> None:
    """A virtual disk: facts or a refusal, with bounded reading."""
    for step in (check_structure, parse):
        reads = Reads()
        try:
            found = drive(step(image.size), image, reads)
        except (DamagedVhdxError, UnsupportedError):
            continue
        finally:
            assert reads.total_bytes < MAX_READ_BYTES
        assert isinstance(found, VhdxFacts | NotVhdx)


def disk(data: bytes) -> None:
    """The same for a file of these bytes."""
    image = Image(0)
    image.put(0, data)
    image.size = len(data)
    disk_image(image)


def patched_disk(data: bytes, template: Image) -> None:
    """The same for a sound image that was changed: `data` are 16-byte patches (offset, length, 8 bytes), and checksums
    are made right afterwards."""
    image = template.copy()
    for start in range(0, len(data) - 15, 16):
        offset, length = struct.unpack_from("<II", data, start)
        image.put(offset % image.size, data[start + 8 : start + 8 + 1 + length % 8])
    image.seal_all()
    disk_image(image)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "replica_record": replica_record,
    "replica_record_sealed": sealed(replica_record),
    "point_record": point_record,
    "point_record_sealed": sealed(point_record),
    "cycle_record_sealed": sealed(cycle_record),
    "undo_log": undo_log,
    "undo_log_sealed": lambda data: undo_log(reseal_log(data)),
    "manifest": manifest,
    "manifest_sealed": lambda data: manifest(reseal_manifest(data)),
    "lock_holder": lock_holder,
    "configuration": configuration,
    "smb_answer": smb_answer,
    "smb_sealed": smb_sealed,
    "disk": disk,
}

__all__ = ["TARGETS", "ReplicadError"]
