"""Whatever the bytes: facts or a refusal, in bounded time and memory; and the replay is what its definition says."""

from __future__ import annotations

import tracemalloc
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicad.model.errors import UnsupportedError
from replicad.vhdx import DamagedVhdxError, NotVhdx, VhdxFacts, check_structure, parse
from replicad.vhdx.reading import LogWrite, View, read, resolve
from tests.support.vhdx_builder import (
    HEADERS,
    LOG_AT,
    MIB,
    PAGE,
    PARTIALLY_PRESENT,
    REGION_TABLES,
    ZERO,
    Block,
    Data,
    Image,
    Reads,
    Spec,
    Zeros,
    build,
    drive,
    log_entry,
    put_in_log,
)

GUID = uuid.UUID("99999999-8888-7777-6666-555555555555")
PARENT = {"parent_linkage": "{aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee}", "relative_path": ".\\a.vhdx"}
MAX_MEMORY = 24 * MIB
MAX_TOTAL = 80 * MIB


def _with_log() -> Image:
    image = build(Spec(log_guid=GUID, blocks={0: Block(), 1: Block(), 9: Block(ZERO)}))
    page = Data(image.places["bat"], image.get(image.places["bat"], PAGE))
    at = put_in_log(image, 0, log_entry(GUID, 1, 0, [page], flushed=0, last=0))
    at = put_in_log(image, at, log_entry(GUID, 2, 0, [page, Zeros(image.places["bat"], PAGE)], flushed=0, last=0))
    put_in_log(image, at, log_entry(GUID, 3, at, [page, page], flushed=0, last=image.size))
    return image


IMAGES = (
    build(Spec(blocks={0: Block(), 1: Block(), 5: Block(ZERO)})),
    build(Spec(parent=PARENT, blocks={0: Block(PARTIALLY_PRESENT), 7: Block(), 4100: Block()}, virtual_size=5 << 30)),
    _with_log(),
)


def outcome(image: Image) -> object:
    """Run both parsers; everything but facts and the refusals that they promise is a failure of the test."""
    result: object = None
    for step in (check_structure, parse):
        reads = Reads()
        try:
            result = drive(step(image.size), image, reads)
        except (DamagedVhdxError, UnsupportedError) as error:
            result = error
        assert isinstance(result, VhdxFacts | NotVhdx | DamagedVhdxError | UnsupportedError)
        assert reads.total_bytes < MAX_TOTAL
    return result


# Places where structures are, so that most mutations meet one; their offsets within reach of every image.
_STRUCTURES = st.sampled_from(
    [0, *HEADERS, *REGION_TABLES, LOG_AT, LOG_AT + 2 * PAGE, LOG_AT + 4 * PAGE, 2 * MIB, 2 * MIB + 65536, 3 * MIB]
)
_OFFSETS = st.one_of(
    st.builds(int.__add__, _STRUCTURES, st.integers(0, 300)),
    st.integers(0, 4 * MIB),
    st.integers(3 * MIB, 3 * MIB + 40_000),
)
_INTERESTING = st.sampled_from(
    [
        bytes(8),
        b"\xff" * 8,
        b"\xff" * 4,
        b"\1",
        b"\x80",
        (MIB).to_bytes(8, "little"),
        (2**63).to_bytes(8, "little"),
        b"\0\0\x10",
    ]
)
_CHANGES = st.lists(
    st.tuples(_OFFSETS, st.one_of(st.binary(min_size=1, max_size=16), _INTERESTING)), min_size=1, max_size=6
)


@given(st.sampled_from(range(len(IMAGES))), _CHANGES, st.booleans(), st.one_of(st.none(), st.integers(0, 6 * MIB)))
@settings(max_examples=200, deadline=10_000)
def test_a_sound_image_with_some_bytes_changed(
    which: int, changes: list[tuple[int, bytes]], reseal: bool, cut_to: int | None
) -> None:
    outcome(changed(which, changes, reseal, cut_to))


@given(st.sampled_from(range(len(IMAGES))), _CHANGES)
@settings(max_examples=4, deadline=30_000)  # tracing makes every integer dear
def test_hostile_bytes_get_little_memory(which: int, changes: list[tuple[int, bytes]]) -> None:
    image = changed(which, changes, True, None)
    tracemalloc.start()
    try:
        outcome(image)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_MEMORY


def changed(which: int, changes: list[tuple[int, bytes]], reseal: bool, cut_to: int | None) -> Image:
    image = IMAGES[which].copy()
    for offset, data in changes:
        image.put(offset, data)
    if reseal:  # checksums that fit let the changes through to what lies behind them
        image.seal_all()
        for at in (0, 2 * PAGE, 4 * PAGE):
            image.seal(LOG_AT + at, 2 * PAGE if at < 4 * PAGE else 3 * PAGE)
    if cut_to is not None:
        image.size = min(image.size, cut_to)
    return image


@given(st.binary(max_size=2048), st.integers(0, 400_000), st.booleans())
@settings(max_examples=150, deadline=10_000)
def test_any_bytes(data: bytes, size: int, signed: bool) -> None:
    image = Image(size)
    image.put(0, (b"vhdxfile" if signed else b"") + data)
    result = outcome(image)
    assert isinstance(result, DamagedVhdxError if image.get(0, 8) == b"vhdxfile" else NotVhdx)


@given(st.sampled_from(range(len(IMAGES))), st.integers(0, 2**20 - 1), st.integers(0, 7))
@settings(max_examples=150, deadline=10_000)
def test_a_flipped_bit_in_the_first_mebibyte_never_changes_a_fact(which: int, offset: int, bit: int) -> None:
    """Two copies with checksums: one flipped bit is a warning or damage, or lies where nothing is."""
    image = IMAGES[which].copy()
    sound = drive(parse(image.size), image)
    image.flip(offset, 1 << bit)
    result = outcome(image)
    assert isinstance(sound, VhdxFacts)
    if offset < 8:
        assert isinstance(result, DamagedVhdxError)
        return
    if offset < 520:  # the creator's name is under no checksum
        return
    assert isinstance(result, VhdxFacts)
    assert (result.bat, result.regions, result.kind) == (sound.bat, sound.regions, sound.kind)
    spans = [(at, at + PAGE) for at in HEADERS] + [(at, at + 65536) for at in REGION_TABLES]
    assert bool(result.warnings) == any(start <= offset < end for start, end in spans)


_WRITES = st.lists(
    st.one_of(
        st.builds(lambda at, n: LogWrite(at * PAGE, n * PAGE), st.integers(0, 30), st.integers(1, 12)),
        st.builds(
            lambda at, from_at, byte: LogWrite(at * PAGE, PAGE, from_at * PAGE, bytes([byte]) * 8, bytes([byte]) * 4),
            st.integers(0, 40), st.integers(0, 40), st.integers(0, 255),
        ),
    ),
    max_size=12,
)  # fmt: skip


@given(_WRITES, st.integers(0, 40 * PAGE), st.integers(1, 20 * PAGE))
@settings(max_examples=300, deadline=5_000)
def test_reading_through_the_replay_equals_replaying_first(writes: list[LogWrite], offset: int, length: int) -> None:
    size = 42 * PAGE
    length = min(length, size - offset)
    image = Image(size)
    for page in range(42):
        image.put(page * PAGE, bytes([page + 1]) * PAGE)
    replayed = image.copy()
    for write in writes:
        if write.data_at_bytes is None:
            replayed.put(write.offset_bytes, bytes(write.length_bytes))
        else:
            sector = image.get(write.data_at_bytes, PAGE)
            replayed.put(write.offset_bytes, write.leading + sector[8:-4] + write.trailing)
    resolved = resolve(writes)
    ends = [write.offset_bytes + write.length_bytes for write in resolved]
    assert all(end <= write.offset_bytes for end, write in zip(ends, resolved[1:], strict=False))
    assert drive(read(View(size, size, resolved), offset, length, "test"), image) == replayed.get(offset, length)


def test_many_writes_of_the_log_are_resolved_in_little_time() -> None:
    writes = [LogWrite((i * 7919 % 65_536) * PAGE, PAGE, 0, bytes(8), bytes(4)) for i in range(65_536)]
    assert len(resolve(writes)) == 65_536
    assert len(resolve([LogWrite(i * PAGE, 2**40) for i in range(65_536)])) == 65_536


@pytest.mark.parametrize("which", range(len(IMAGES)))
def test_the_images_are_sound_before_they_are_changed(which: int) -> None:
    assert isinstance(outcome(IMAGES[which]), VhdxFacts)
