"""Any bytes give a value or a typed error, in bounded time and memory: random bytes, and sound ones that were changed.

Quick and always the same in `make test`; long and always different in `make soak`.
"""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from replicad.model.errors import IntegrityError
from replicad.model.manifest import Manifest, ManifestEdit
from replicad.model.points import (
    FORMAT_VERSION,
    Change,
    Consistency,
    CycleKind,
    CycleRecord,
    DiskState,
    FileKind,
    ManifestReference,
    PendingDisk,
    Provenance,
    RecoveryPoint,
    RemovedDisk,
    ReplicaRecord,
    Role,
    Statistics,
    UndoReference,
)
from replicad.replica.manifest_file import read_manifest, write_manifest
from replicad.replica.records import decode, encode
from replicad.replica.undo_format import EntryKind, UndoEntry, encode_batch, encode_file_header
from replicad.replica.undo_log import UndoIndex, index_undo_log
from replicad.storage import holder
from replicad.storage.memory import MemoryShare
from replicad.storage.port import LockHolder, OpenMode
from replicad.storage.smb.data import frame, protect
from tests.support.fuzz_targets import (
    CHUNK,
    DISK_ID,
    OWNER,
    REPLICA_ID,
    TARGETS,
    UNDO_HEADER,
    patched_disk,
    reseal_log,
    reseal_manifest,
    seal_record,
)
from tests.support.vhdx_builder import Block, Image, Spec, build

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
MOST_MEMORY = 48 << 20
CONFIG = Path(__file__).parents[2] / "config"


# Sound examples of everything.

_UNDO = UndoReference(UNDO_HEADER.previous_size_bytes, 8192, 1, "44" * 32, "하위%2Fweb.vhdx.undo")
_DISK = DiskState(
    DISK_ID, "하위/web.vhdx", FileKind.DISK, 7 * CHUNK, CHUNK, Change.DELTA, Provenance.FULL_SCAN,
    ManifestReference(2, "33" * 32), _UNDO, Statistics(1, 2, 3, 4, 5),
)  # fmt: skip
_GONE = RemovedDisk("55" * 16, "gone.vhdx", ManifestReference(1, "66" * 32), 2)
REPLICA = ReplicaRecord(FORMAT_VERSION, REPLICA_ID, "웹", r"\\nas\vms\웹", "77" * 8, 1, Role.REPLICA, NOW, "host 0.1")
POINT = RecoveryPoint(
    FORMAT_VERSION, REPLICA_ID, "웹", 2, 1, NOW, CycleKind.DELTA, Consistency.COLD, 1, "host", (_DISK,), (_GONE,),
    ("a warning",), Statistics(1, 2, 3, 4, 5),
)  # fmt: skip
CYCLE = CycleRecord(FORMAT_VERSION, REPLICA_ID, 2, 1, NOW, "host", (PendingDisk("88" * 16, "new.vhdx", CHUNK),))


def _sound_log() -> bytes:
    entries = (
        UndoEntry(0, EntryKind.SAVED, b"o" * 16, b"n" * 16),
        UndoEntry(3, EntryKind.ZERO, bytes(16), b"n" * 16),
        UndoEntry(5, EntryKind.SAVED, b"o" * 16, b"n" * 16),
        UndoEntry(6, EntryKind.BEYOND, bytes(16), b"n" * 16),
    )
    log = encode_file_header(UNDO_HEADER)
    first = encode_batch(0, 0, entries, UNDO_HEADER, log[-32:])
    again = (UndoEntry(0, EntryKind.AGAIN, bytes(16), b"m" * 16),)
    return log + first + bytes(CHUNK + 4096) + encode_batch(1, 1, again, UNDO_HEADER, first[-32:])


async def _sound_manifest() -> bytes:
    share = MemoryShare()
    edit = ManifestEdit(Manifest(CHUNK, 0), 700 * CHUNK + 5)
    edit.put(3, b"h" * 16 * 40)
    edit.put(690, b"h" * 16)
    await write_manifest(share, "m", edit.finish(), OWNER)
    async with await share.open("m", OpenMode.READ) as file:
        buffer = bytearray((await file.identity()).size_bytes)
        await file.read_into(buffer, 0)
        return bytes(buffer)


def _sound_answer(body: bytes) -> bytes:
    head = frame.read_request(frame.Request(5, 6, 7, 1, 1, bytes(16), 0, 9), signed=True)[: frame.HEADER_BYTES]
    return bytes(head) + body


def _sound_sealed() -> bytes:
    sealer = protect.Sealer(protect.Sealing.AES_256_GCM, b"k" * 32, 6, bytes(12))
    return bytes(sealer.seal([b"message" * 20], bytearray(300)))


_HOLDER = LockHolder("시험", "machine", "boot", 7, "1", "2026-01-01T00:00:00Z", 9, {"pid_namespace": "pid:[1]"})
_LOG, _MANIFEST = _sound_log(), asyncio.run(_sound_manifest())
SOUND: dict[str, list[bytes]] = {
    "replica_record": [encode(REPLICA)],
    "replica_record_sealed": [encode(REPLICA)],
    "point_record": [encode(POINT)],
    "point_record_sealed": [encode(POINT)],
    "cycle_record_sealed": [encode(CYCLE)],
    "undo_log": [_LOG],
    "undo_log_sealed": [_LOG],
    "manifest": [_MANIFEST],
    "manifest_sealed": [_MANIFEST],
    "lock_holder": [holder.encode(_HOLDER)],
    "configuration": [file.read_bytes() for file in sorted(CONFIG.rglob("*.yaml"))],
    "smb_answer": [_sound_answer(b"\x11\0\x50\0\x08\0\0\0" + bytes(8) + b"12345678")],
    "smb_sealed": [_sound_sealed()],
    "disk": [b"conectix" + bytes(504), b"vhdxfile" + bytes(200_000)],
}


# What becomes of them.

_NUMBERS = [0, 1, 2, 0x7F, 0xFF, 255, 4095, 4096, 4097, CHUNK, 2**31, 2**32 - 1, 2**47, 2**63, 2**64 - 1]
_SIZES = st.sampled_from([1, 2, 4, 8])
_PIECES = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.builds(lambda n, size: (n % 256**size).to_bytes(size, "little"), st.sampled_from(_NUMBERS), _SIZES),
)


@st.composite
def changed_bytes(draw: st.DrawFn, sound: list[bytes]) -> bytes:
    """Some of the bytes overwritten, most of them in the first ones of each block; then perhaps cut, or made longer."""
    data = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(1, 4))):
        block = draw(st.integers(0, max(0, len(data) - 1) // 4096)) * 4096
        low = draw(st.one_of(st.integers(0, 120), st.integers(0, 4095)))
        place, piece = min(block + low, len(data)), draw(_PIECES)
        data[place : place + (len(piece) if draw(st.integers(0, 9)) else 0)] = piece
    if draw(st.integers(0, 3)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data) + draw(st.sampled_from([b"", b"", b"", b"\0", bytes(4096), b"RPLBATCH" * 600]))


_TEXTS = ["", "..", "a/../b", "/a", "CON", "a.undo", "\x1b[2J\n", "x", "2026-01-31T12:00:00", "2026-01-31"]
_TIMES = ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-01-31T12:00:00+01:00", "2026-01-31T12:00:00Z"]
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=8),
    st.floats(),
    st.integers(-3, 3),
    st.sampled_from([*_NUMBERS, -1, 10**18, 10**400, -(10**400)]),
    st.sampled_from(_TEXTS + _TIMES),
)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def changed_json(draw: st.DrawFn, sound: list[bytes]) -> bytes:
    """Some value of a JSON document replaced, taken away or put in twice, at any depth."""
    document = json.loads(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(1, 3))):
        place = document
        while True:
            keys: list[Any] = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            what = draw(st.integers(0, 5))
            if what == 0:
                del place[key]
            elif what == 1 and isinstance(place, list):
                place.append(place[key])
            else:
                place[key] = draw(_JSON)
            break
    return json.dumps(document, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """What a target is given: any bytes, and sound ones that were changed."""
    sound = SOUND[name]
    kinds = [changed_bytes(sound), st.binary(max_size=300), st.sampled_from(sound)]
    if "record" in name or name == "lock_holder":
        kinds = [changed_json(sound), changed_json(sound), *kinds]
    return st.one_of(kinds)


def fuzz(name: str, examples: int, *, derandomize: bool) -> None:
    """Run one target over so many inputs."""
    target = TARGETS[name]

    @settings(
        max_examples=examples, deadline=10_000, derandomize=derandomize, database=None,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(inputs(name))
    def run(data: bytes) -> None:
        target(data)

    run()


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_give_a_value_or_a_typed_error(name: str) -> None:
    fuzz(name, 60, derandomize=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TARGETS)
def test_many_bytes_give_a_value_or_a_typed_error(name: str) -> None:
    fuzz(name, 20_000, derandomize=False)


@pytest.mark.parametrize("name", TARGETS)
def test_sound_bytes_are_read_and_take_little_memory_when_changed(name: str) -> None:
    target = TARGETS[name]
    tracemalloc.start()
    try:
        for data in SOUND[name][:2]:
            target(data)
            for place in range(0, min(len(data), 9000), 211):
                target(data[:place] + b"\xff\xff\xff\x7f" + data[place + 4 :])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY


def test_the_sound_examples_are_sound() -> None:
    """Else their changes would break what is broken already."""
    assert decode(SOUND["point_record"][0], RecoveryPoint, "it") == POINT

    async def read() -> tuple[UndoIndex, Manifest]:
        share = MemoryShare()
        for name, data in (("log", _LOG), ("m", _MANIFEST)):
            async with await share.open(name, OpenMode.CREATE) as file:
                await file.write(data, 0)
        async with await share.open("log", OpenMode.READ) as file:
            index = await index_undo_log(file, "it", None)
        return index, await read_manifest(share, "m", OWNER, _MANIFEST[4064:4096].hex())

    index, manifest = asyncio.run(read())
    assert (list(index.chunks), index.header) == ([0, 3, 5], UNDO_HEADER)
    assert len(list(manifest.nonzero_chunks(0, manifest.chunks))) == 41
    assert reseal_log(_LOG) == _LOG
    assert reseal_manifest(_MANIFEST) == _MANIFEST


@pytest.mark.parametrize(
    "wrong",
    [
        {"time": "2026-01-31T12:00:00"},
        {"time": "0001-01-01T00:00:00+23:59"},
        {"time": "2026-01-31T12:00:00+01:00"},
        {"statistics": {**asdict(POINT.statistics), "sent_bytes": 10**400}},
        {"statistics": {**asdict(POINT.statistics), "sent_bytes": -1}},
    ],
)
def test_a_sealed_point_with_a_time_or_a_number_that_no_point_has_is_refused(wrong: dict[str, Any]) -> None:
    raw = seal_record({**json.loads(encode(POINT)), **wrong})
    with pytest.raises(IntegrityError, match="makes no sense"):
        decode(raw, RecoveryPoint, "it")


IMAGES = (
    build(Spec(blocks={0: Block(), 1: Block(), 5: Block(2)})),
    build(Spec(parent={"parent_linkage": "{aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee}"}, blocks={0: Block(7), 7: Block()})),
)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("image", IMAGES, ids=["dynamic", "differencing"])
def test_a_sound_disk_image_with_some_bytes_changed(image: Image) -> None:
    @settings(max_examples=5_000, deadline=10_000, database=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(min_size=16, max_size=96))
    def run(data: bytes) -> None:
        patched_disk(data, image)

    run()
