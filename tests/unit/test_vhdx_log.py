"""The log: what must be replayed, what the file is after it, and logs that can't be replayed (MS-VHDX §2.3)."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Sequence

import pytest

from replicad.model.errors import UnsupportedError
from replicad.vhdx import DamagedVhdxError, LogState, VhdxFacts, check_structure, parse
from tests.support.vhdx_builder import (
    FULLY_PRESENT,
    HEADERS,
    LOG_AT,
    MIB,
    PAGE,
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
    sealed,
)

GUID = uuid.UUID("99999999-8888-7777-6666-555555555555")
OTHER = uuid.UUID("10101010-8888-7777-6666-555555555555")


def logged(**changes: object) -> Image:
    """An image whose header names a log that holds nothing yet."""
    return build(Spec(log_guid=GUID, blocks={0: Block()}, **changes))  # type: ignore[arg-type]  # forwarded as they are


def facts_of(image: Image, reads: Reads | None = None) -> VhdxFacts:
    facts = drive(parse(image.size), image, reads)
    assert isinstance(facts, VhdxFacts)
    return facts


def add(
    image: Image,
    position: int,
    sequence: int,
    *descriptors: Data | Zeros,
    tail: int | None = None,
    guid: uuid.UUID = GUID,
    log_length: int = MIB,
    flushed: int = 0,
    last: int = 0,
) -> int:
    """Put an entry into the log; the position behind it."""
    tail = position if tail is None else tail
    entry = log_entry(guid, sequence, tail, descriptors, flushed=flushed, last=last)
    return put_in_log(image, position, entry, log_length)


def bat_page(image: Image, *states: int) -> Data:
    """Rewrites the first 4 KiB of the BAT: the blocks from 1 on get these states, without a place in the file."""
    page = image.get(image.places["bat"], PAGE)
    entries = b"".join(struct.pack("<Q", state) for state in states)
    return Data(image.places["bat"], page[:8] + entries + page[8 + len(entries) :])


def test_facts_are_those_after_the_replay() -> None:
    image = logged()
    add(image, 0, 5, bat_page(image, ZERO, ZERO, ZERO))
    facts = facts_of(image)
    assert facts.needs_replay
    assert facts.log.state is LogState.REPLAY_NEEDED
    assert (facts.log.entries, facts.log.first_sequence_number, facts.log.last_sequence_number) == (1, 5, 5)
    assert facts.bat is not None
    assert (facts.bat.zero, facts.bat.fully_present) == (3, 1)
    assert facts.warnings == ()


def test_entries_of_a_sequence_are_replayed_in_their_order_from_the_tail_on() -> None:
    image = logged()
    at = add(image, 0, 10, bat_page(image, ZERO, ZERO, ZERO, ZERO))  # not needed any more
    tail = at
    at = add(image, at, 11, bat_page(image, ZERO, ZERO), tail=0)
    at = add(image, at, 12, Zeros(image.places["bat"], PAGE), tail=tail)
    add(image, at, 13, bat_page(image, ZERO), tail=tail)
    facts = facts_of(image)
    assert (facts.log.entries, facts.log.first_sequence_number, facts.log.last_sequence_number) == (3, 11, 13)
    assert facts.bat is not None
    assert facts.bat.zero == 1


def test_zeros_written_by_the_log_empty_the_bat() -> None:
    image = logged()
    add(image, 0, 1, bat_page(image, ZERO), Zeros(image.places["bat"], 2 * PAGE))
    bat = facts_of(image).bat
    assert bat is not None
    assert bat.not_present == 64


@pytest.mark.parametrize("start", [MIB - PAGE, MIB - 2 * PAGE, MIB - 3 * PAGE])
def test_a_sequence_may_go_round_the_end_of_the_log(start: int) -> None:
    image = logged()
    at = add(image, start, 70, bat_page(image, ZERO))
    at = add(image, at, 71, bat_page(image, ZERO, ZERO), tail=start)
    at = add(image, at, 72, bat_page(image, ZERO, ZERO, ZERO), tail=start)
    facts = facts_of(image)
    assert (facts.log.entries, facts.log.first_sequence_number) == (3, 70)
    assert facts.bat is not None
    assert facts.bat.zero == 3


def test_the_sequence_with_the_greater_numbers_is_active() -> None:
    image = logged()
    add(image, 0, 900, bat_page(image, ZERO))
    add(image, MIB // 2, 5000, bat_page(image, ZERO, ZERO))
    add(image, MIB - 64 * PAGE, 30, bat_page(image, ZERO, ZERO, ZERO))
    facts = facts_of(image)
    assert (facts.log.entries, facts.log.first_sequence_number) == (1, 5000)
    assert facts.bat is not None
    assert facts.bat.zero == 2


def test_a_torn_last_entry_is_left_out() -> None:
    image = logged()
    at = add(image, 0, 1, bat_page(image, ZERO))
    torn_at = at
    add(image, at, 2, bat_page(image, ZERO, ZERO), tail=0)
    image.put(LOG_AT + torn_at + PAGE, bytes(PAGE))  # its data sector never got there
    facts = facts_of(image)
    assert (facts.log.entries, facts.log.last_sequence_number) == (1, 1)
    assert facts.bat is not None
    assert facts.bat.zero == 1


def test_entries_of_an_earlier_log_are_passed_over() -> None:
    image = logged()
    add(image, 0, 1000, bat_page(image, ZERO, ZERO, ZERO), guid=OTHER)
    add(image, 64 * PAGE, 3, bat_page(image, ZERO))
    facts = facts_of(image)
    assert (facts.log.entries, facts.log.last_sequence_number) == (1, 3)


def test_a_gap_in_the_numbers_ends_a_sequence() -> None:
    image = logged()
    at = add(image, 0, 1, bat_page(image, ZERO))
    add(image, at, 3, bat_page(image, ZERO, ZERO), tail=0)  # its tail is in no sequence of its own
    facts = facts_of(image)
    assert (facts.log.entries, facts.log.last_sequence_number) == (1, 1)


def test_an_entry_without_descriptors_asks_for_nothing() -> None:
    image = logged()
    add(image, 0, 1)
    facts = facts_of(image)
    assert (facts.needs_replay, facts.log.entries) == (True, 1)


def test_a_region_table_and_metadata_torn_by_a_crash_are_read_from_the_log() -> None:
    image = logged()
    sound = image.copy()
    pages = [
        REGION_TABLES[0],
        REGION_TABLES[1],
        image.places["metadata"],
        image.places["file parameters"] // PAGE * PAGE,
    ]
    for at in pages:
        image.put(at, b"torn" * 1024)
    add(image, 0, 1, *(Data(at, sound.get(at, PAGE)) for at in pages))
    facts = facts_of(image)
    assert facts.region_tables_valid == (True, True)
    assert facts.block_size_bytes == MIB
    structure = drive(check_structure(image.size), image)
    assert isinstance(structure, VhdxFacts)
    assert structure.log == facts.log


def test_blocks_may_lie_where_the_replay_will_extend_the_file() -> None:
    image = logged()
    page = bytearray(image.get(image.places["bat"], PAGE))
    page[8:16] = struct.pack("<Q", image.size // MIB << 20 | FULLY_PRESENT)
    add(image, 0, 1, Data(image.places["bat"], bytes(page)), last=image.size + MIB, flushed=image.size)
    bat = facts_of(image).bat
    assert bat is not None
    assert bat.fully_present == 2


def test_entries_longer_than_a_piece_are_read_in_pieces() -> None:
    length = 8 * MIB
    image = logged(log_length=length, virtual_size=1024 * 1024 * MIB)  # a BAT of 8 MiB
    pages = [Data(image.places["bat"] + i * PAGE, bytes([1, 0, 0, 0, 0, 0, 0, 0]) * 512) for i in range(700)]
    start = length - 300 * PAGE
    at = add(image, start, 8, *pages[:400], log_length=length)
    add(image, at, 9, *pages[400:], Zeros(image.places["bat"], 100 * PAGE), tail=start, log_length=length)
    reads = Reads()
    facts = facts_of(image, reads)
    assert facts.log.entries == 2
    assert facts.bat is not None
    assert facts.bat.undefined == sum(i % 4097 != 4096 for i in range(100 * 512, 700 * 512))
    assert reads.longest_bytes == MIB


def test_the_quick_check_takes_a_long_log_as_it_is() -> None:
    image = logged(log_length=2 * MIB)
    reads = Reads()
    facts = drive(check_structure(image.size), image, reads)
    assert isinstance(facts, VhdxFacts)
    assert facts.needs_replay
    assert facts.log.entries is None
    assert reads.total_bytes < 300_000


def test_the_quick_check_reads_a_bounded_part_of_the_file() -> None:
    image = logged()
    at = 0
    for sequence in range(1, 110):
        at = add(image, at, sequence, bat_page(image, ZERO), tail=0)
    reads = Reads()
    facts = drive(check_structure(image.size), image, reads)
    assert isinstance(facts, VhdxFacts)
    assert facts.log.entries == 109
    assert reads.total_bytes < 1.5 * MIB


def test_a_log_beyond_what_is_examined_is_refused_only_when_in_use() -> None:
    assert facts_of(build(Spec(log_length=65 * MIB))).log.state is LogState.CLEAN
    image = logged(log_length=65 * MIB)
    with pytest.raises(UnsupportedError, match="cannot examine the VHDX log: it is 68157440 bytes long"):
        drive(parse(image.size), image)


def test_a_log_named_before_its_first_entry_is_incomplete() -> None:
    facts = facts_of(logged())
    assert facts.log.state is LogState.INCOMPLETE
    assert not facts.needs_replay
    (warning,) = facts.warnings
    assert warning.startswith(f"the header names the log {GUID}, whose first entry is not complete")


def test_a_torn_first_entry_is_incomplete() -> None:
    image = logged()
    add(image, 0, 1, bat_page(image, ZERO))
    image.put(LOG_AT + PAGE, bytes(PAGE))
    facts = facts_of(image)
    assert facts.log.state is LogState.INCOMPLETE
    assert facts.bat is not None
    assert facts.bat.zero == 0


Rewrite = Callable[[bytearray], None]


def field(at: int, layout: str, value: int) -> Rewrite:
    """Change a field of an entry and make its checksum right again."""

    def rewrite(entry: bytearray) -> None:
        struct.pack_into(layout, entry, at, value)
        entry[:] = sealed(bytes(entry))

    return rewrite


def checksum(entry: bytearray) -> None:
    entry[PAGE + 100] ^= 1


# What is done to each of two entries of one data and one zero descriptor, and the reason given for the second.
BROKEN_ENTRIES: dict[str, tuple[Rewrite, str]] = {
    "checksum": (checksum, "its checksum is 0x"),
    "length odd": (field(8, "<I", 8191), "its length 8191 is not right for 2 descriptors"),
    "length 0": (field(8, "<I", 0), "its length 0 is not right for 2 descriptors"),
    "length longer than the log": (field(8, "<I", 2 * MIB), "its length 2097152 is not right for 2 descriptors"),
    "length without its data": (field(8, "<I", 4096), "its length is 4096, and its 1 data sectors end at 8192"),
    "length with more": (field(8, "<I", 12288), "its length is 12288, and its 1 data sectors end at 8192"),
    "tail": (field(12, "<I", 100), "its tail 100 is not a sector of the log"),
    "tail outside": (field(12, "<I", MIB), "its tail 1048576 is not a sector of the log"),
    "tail elsewhere": (field(12, "<I", 200 * PAGE), "its tail 819200 is not in its own sequence"),
    "sequence number 0": (field(16, "<Q", 0), "its sequence number is 0"),
    "sequence number": (field(16, "<Q", 77), "its descriptor 0 is one of sequence number"),
    "descriptor count": (field(24, "<I", 3), "its descriptor 2 has the signature b'"),
    "descriptor count large": (field(24, "<I", 2**32 - 1), "it counts 4294967295 descriptors, and 65536 is the most"),
    "descriptor signature": (field(64, "<I", 0), r"its descriptor 0 has the signature b'\x00\x00\x00\x00'"),
    "descriptor offset": (field(64 + 16, "<Q", 3 * MIB + 1), "its descriptor 0 is not made of whole 4 KiB"),
    "descriptor sequence": (field(64 + 24, "<Q", 4), "its descriptor 0 is one of sequence number 4"),
    "zero length": (field(96 + 8, "<Q", 4095), "its descriptor 1 is not made of whole 4 KiB"),
    "zero sequence": (field(96 + 24, "<Q", 1), "its descriptor 1 is one of sequence number 1"),
    "data signature": (field(PAGE, "<I", 0), "its data sector at 4096 is not one of sequence number"),
    "data sequence high": (field(PAGE + 4, "<I", 7), "its data sector at 4096 is not one of sequence number"),
    "data sequence low": (field(2 * PAGE - 4, "<I", 7), "its data sector at 4096 is not one of sequence number"),
}


@pytest.mark.parametrize("name", BROKEN_ENTRIES)
def test_a_log_whose_entries_are_all_broken_is_damage(name: str) -> None:
    rewrite, reason = BROKEN_ENTRIES[name]
    image = logged()
    for position, sequence in ((0, 20), (100 * PAGE, 2**33)):
        entry = bytearray(
            log_entry(
                GUID, sequence, position, [bat_page(image, ZERO), Zeros(4 * MIB, PAGE)], flushed=0, last=0
            )
        )  # fmt: skip
        rewrite(entry)
        put_in_log(image, position, bytes(entry))
    with pytest.raises(DamagedVhdxError) as caught:
        drive(parse(image.size), image)
    assert caught.value.structure == "log entry"
    assert reason in caught.value.reason
    assert caught.value.reason.endswith("the log holds no sequence that can be replayed")


@pytest.mark.parametrize(
    ("descriptors", "more", "reason"),
    [
        ((), {"flushed": 99 * MIB}, "the file had at least 103809024 bytes when it was written, and has"),
        ((Zeros(HEADERS[0], PAGE),), {}, "it would overwrite the headers (4096 bytes at 65536)"),
        ((Zeros(0, 3 * MIB),), {}, "it would overwrite the headers (3145728 bytes at 0)"),
        ((Zeros(LOG_AT + MIB - PAGE, 2 * PAGE),), {}, "it would overwrite the log itself (8192 bytes at 2093056)"),
    ],
)
def test_an_entry_that_asks_for_what_must_not_be_is_damage(
    descriptors: Sequence[Zeros], more: dict[str, int], reason: str
) -> None:
    image = logged()
    add(image, 0, 1, *descriptors, **more)  # type: ignore[arg-type]  # only integers are given
    with pytest.raises(DamagedVhdxError) as caught:
        drive(parse(image.size), image)
    assert (caught.value.structure, caught.value.offset_bytes) == ("log entry", LOG_AT)
    assert reason in caught.value.reason


def test_entries_inside_one_another_cost_no_more_than_the_log() -> None:
    # Each claims the rest of the log: read to their ends one by one they would cost its length squared.
    image = logged(log_length=4 * MIB)
    for number in range(1024):
        entry = bytearray(log_entry(GUID, number + 1, number * PAGE, [], flushed=0, last=0))
        struct.pack_into("<I", entry, 8, (1024 - number) * PAGE)
        struct.pack_into("<I", entry, 24, 60_000)
        put_in_log(image, number * PAGE, sealed(bytes(entry)), 4 * MIB)
    reads = Reads()
    with pytest.raises(DamagedVhdxError, match="log holds no sequence"):
        drive(parse(image.size), image, reads)
    assert reads.total_bytes < 10 * MIB
