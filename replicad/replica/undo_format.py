"""The bytes of an undo log (docs/format.md). Pure.

::

    file header   4096 bytes   magic, version, chunk size, ids, point, size of the disk before; last 32 bytes: digest
    batch         header       magic, number, entries, data length, durable batches, digest of the header before,
                               48 bytes an entry, zeros up to a multiple of 4096; last 32 bytes: digest
                  data         the old bytes of the entries of kind SAVED, in their order, padded with zeros to 4096

Every header's digest covers all of that header, and through the digest of the header before all headers up to there.
The old bytes are covered by the hashes in the entries.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from replicad.model.chunks import chunk_length, is_chunk_size
from replicad.model.errors import FormatVersionError, IntegrityError
from replicad.model.manifest import HASH_BYTES, ZERO_HASH

from .manifest_file import MAX_DISK_BYTES

BLOCK_BYTES = 4096
MAX_ENTRIES = 4096
DIGEST_BYTES = 32
_FILE_MAGIC = b"RPLUNDO1"
_BATCH_MAGIC = b"RPLBATCH"
_VERSION = 1
_FILE = struct.Struct("<8sII16s16sQQ")
_BATCH = struct.Struct("<8sIIQII32s")
_ENTRY = struct.Struct("<QII16s16s")

NOT_WRITTEN = b"\xff" * HASH_BYTES
"""Stands for the new hash of a chunk that is cut off, or of which it is not known what the disk holds from here on."""


class EntryKind(IntEnum):
    """What an entry saves of its chunk."""

    SAVED = 1
    """The old bytes, in the batch's data."""
    ZERO = 2
    """Nothing: the old bytes were zeros."""
    BEYOND = 3
    """Nothing: the disk ended before this chunk."""
    AGAIN = 4
    """Nothing: an earlier entry of this log saved the chunk, and it is written once more."""


@dataclass(frozen=True, slots=True)
class UndoHeader:
    """What an undo log is for. Ids are hexadecimal; `previous_size_bytes` is the disk's size before the point."""

    replica_id: str
    disk_id: str
    point: int
    chunk_bytes: int
    previous_size_bytes: int


class UndoEntry(NamedTuple):
    """One chunk that the cycle overwrites: the hash of what was there and of what it writes.

    A tuple, since a dense disk of 64 GiB has a million of them.
    """

    chunk: int
    kind: EntryKind
    old_hash: bytes
    new_hash: bytes


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """One batch of entries.

    `durable_batches`: when this header was written, the new bytes of so many batches from the first on had been
    flushed to the disk.
    """

    number: int
    durable_batches: int
    entries: tuple[UndoEntry, ...]
    data_bytes: int
    header_bytes: int
    digest: bytes


def saved_length(entry: UndoEntry, header: UndoHeader) -> int:
    """How many old bytes an entry has in its batch's data."""
    if entry.kind is not EntryKind.SAVED:
        return 0
    return chunk_length(entry.chunk, header.previous_size_bytes, header.chunk_bytes)


def stored_length(entry: UndoEntry, header: UndoHeader) -> int:
    """The same, rounded up to whole blocks, as it lies in the file."""
    return -(-saved_length(entry, header) // BLOCK_BYTES) * BLOCK_BYTES


def batch_header_bytes(entries: int) -> int:
    """The length of the header of a batch with so many entries."""
    return -(-(_BATCH.size + entries * _ENTRY.size + DIGEST_BYTES) // BLOCK_BYTES) * BLOCK_BYTES


def _digest(block: bytes | bytearray) -> bytes:
    content = memoryview(block)[:-DIGEST_BYTES]
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES, person=b"replicad.undo").digest()


def encode_file_header(header: UndoHeader) -> bytes:
    """The first 4096 bytes of a log; the last 32 of them start the chain of digests."""
    block = bytearray(BLOCK_BYTES)
    _FILE.pack_into(
        block, 0, _FILE_MAGIC, _VERSION, header.chunk_bytes, bytes.fromhex(header.replica_id),
        bytes.fromhex(header.disk_id), header.point, header.previous_size_bytes,
    )  # fmt: skip
    block[-DIGEST_BYTES:] = _digest(block)
    return bytes(block)


def decode_file_header(block: bytes, subject: str) -> UndoHeader:
    """Raises IntegrityError or FormatVersionError."""
    if len(block) != BLOCK_BYTES or not block.startswith(_FILE_MAGIC) or block[-DIGEST_BYTES:] != _digest(block):
        raise damaged(subject, "its header does not match its digest")
    _, version, chunk_bytes, replica_id, disk_id, point, previous_size_bytes = _FILE.unpack_from(block)
    if version != _VERSION:
        raise FormatVersionError(
            "use", subject, f"it is in format {version}, and this version knows only format {_VERSION}",
            "Use the version of replicad that wrote it, or a newer one.",
        )  # fmt: skip
    if not is_chunk_size(chunk_bytes):
        raise damaged(subject, f"its chunk size {chunk_bytes} is impossible")
    if previous_size_bytes > MAX_DISK_BYTES:
        raise damaged(subject, f"no disk has {previous_size_bytes} bytes")
    return UndoHeader(replica_id.hex(), disk_id.hex(), point, chunk_bytes, previous_size_bytes)


def encode_batch(
    number: int, durable_batches: int, entries: tuple[UndoEntry, ...], header: UndoHeader, previous_digest: bytes
) -> bytes:
    """The header of one batch; its data follows directly."""
    if not 0 < len(entries) <= MAX_ENTRIES:
        raise ValueError(f"a batch takes 1 to {MAX_ENTRIES} entries, got {len(entries)}")
    data_bytes = sum(stored_length(e, header) for e in entries if e.kind is EntryKind.SAVED)
    packed = b"".join([_ENTRY.pack(chunk, kind, 0, old_hash, new_hash) for chunk, kind, old_hash, new_hash in entries])
    block = bytearray(batch_header_bytes(len(entries)))
    _BATCH.pack_into(block, 0, _BATCH_MAGIC, number, len(entries), data_bytes, durable_batches, 0, previous_digest)
    block[_BATCH.size : _BATCH.size + len(packed)] = packed
    block[-DIGEST_BYTES:] = _digest(block)
    return bytes(block)


def peek_batch(first_block: bytes) -> int | None:
    """The length of the batch header that begins with these 4096 bytes; None if none begins there."""
    if len(first_block) < BLOCK_BYTES or not first_block.startswith(_BATCH_MAGIC):
        return None
    count = _BATCH.unpack_from(first_block)[2]
    return batch_header_bytes(count) if 0 < count <= MAX_ENTRIES else None


def decode_batch(block: bytes, number: int, header: UndoHeader, previous_digest: bytes) -> BatchHeader | None:
    """The batch whose whole header is `block`; None if it is not a sound header in this place of this log."""
    if len(block) < BLOCK_BYTES or block[-DIGEST_BYTES:] != _digest(block):
        return None
    magic, its_number, count, data_bytes, durable_batches, _, previous = _BATCH.unpack_from(block)
    if magic != _BATCH_MAGIC or its_number != number or previous != previous_digest or durable_batches > number:
        return None
    if not 0 < count <= MAX_ENTRIES or batch_header_bytes(count) != len(block):
        return None
    entries = []
    for position in range(_BATCH.size, _BATCH.size + count * _ENTRY.size, _ENTRY.size):
        chunk, kind, _, old_hash, new_hash = _ENTRY.unpack_from(block, position)
        if kind not in EntryKind.__members__.values() or (kind == EntryKind.ZERO and old_hash != ZERO_HASH):
            return None
        entries.append(UndoEntry(chunk, EntryKind(kind), old_hash, new_hash))
    if sum(stored_length(e, header) for e in entries) != data_bytes:
        return None
    return BatchHeader(number, durable_batches, tuple(entries), data_bytes, len(block), block[-DIGEST_BYTES:])


def claimed_header_bytes(first_block: bytes) -> int:
    """How long the header is that begins with these 4096 bytes, if only its number of entries is as it was."""
    return batch_header_bytes(min(_BATCH.unpack_from(first_block)[2], MAX_ENTRIES))


def follows(later: bytes, block: bytes) -> bool:
    """Whether the 4096 bytes `later` begin the batch that was written after the one whose whole header is `block`, if
    only the content of that header or only its digest is damaged."""
    if peek_batch(later) is None:
        return False
    previous_digest = _BATCH.unpack_from(later)[6]
    return previous_digest in (block[-DIGEST_BYTES:], _digest(block))


def damaged(subject: str, reason: str) -> IntegrityError:
    """The error for an undo log that can't be what was written."""
    return IntegrityError(
        "use", subject, f"it is damaged: {reason}",
        "Recovery points older than this log can't be restored in full; newer ones are not affected.",
    )  # fmt: skip
