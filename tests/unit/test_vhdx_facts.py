"""What the parser says of sound images."""

from __future__ import annotations

import struct
import uuid

import pytest

from replicad.vhdx import DamagedVhdxError, Kind, LogState, NotVhdx, VhdxFacts, check_structure, parse
from tests.support.vhdx_builder import (
    FULLY_PRESENT,
    HEADERS,
    METADATA,
    MIB,
    PARTIALLY_PRESENT,
    REGION_TABLES,
    UNDEFINED,
    UNMAPPED,
    ZERO,
    Block,
    Image,
    Reads,
    Spec,
    bat_entry_at,
    bitmap_entry_at,
    build,
    drive,
    header,
    set_entry,
)

GIB = 1024 * MIB
TIB = 1024 * GIB
PARENT = {
    "parent_linkage": "{aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee}",
    "absolute_win32_path": "C:\\디스크\\base 💽.vhdx",
    "relative_path": ".\\base 💽.vhdx",
}


def facts_of(image: Image, reads: Reads | None = None) -> VhdxFacts:
    facts = drive(parse(image.size), image, reads)
    assert isinstance(facts, VhdxFacts)
    return facts


@pytest.mark.parametrize("block_size", [MIB << n for n in range(9)])
@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("differencing", [False, True])
def test_last_block_is_found_behind_every_interleaved_bitmap_entry(
    block_size: int, sector: int, differencing: bool
) -> None:
    ratio = (1 << 23) * sector // block_size
    last = ratio * 2 + 3  # in the third chunk
    spec = Spec(
        virtual_size=(last + 1) * block_size - 4096, block_size=block_size, logical_sector=sector,
        parent=PARENT if differencing else None, blocks={last: Block(), 0: Block(ZERO)},
    )  # fmt: skip
    bat = facts_of(build(spec)).bat
    assert bat is not None
    assert (bat.fully_present, bat.zero, bat.not_present) == (1, 1, last - 1)
    assert bat.entries == (3 * (ratio + 1) if differencing else last + 1 + 2)
    assert bat.allocated_bytes == block_size


def test_every_state_is_counted() -> None:
    states = [UNDEFINED, UNDEFINED, ZERO, ZERO, ZERO, UNMAPPED, FULLY_PRESENT, FULLY_PRESENT]
    bat = facts_of(build(Spec(blocks={i: Block(state) for i, state in enumerate(states)}))).bat
    assert bat is not None
    assert (bat.not_present, bat.undefined, bat.zero, bat.unmapped, bat.fully_present) == (56, 2, 3, 1, 2)
    assert (bat.partially_present, bat.sector_bitmaps_present, bat.allocated_bytes) == (0, 0, 2 * MIB)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (Spec(), Kind.DYNAMIC),
        (Spec(fixed=True), Kind.FIXED),
        (Spec(parent=PARENT), Kind.DIFFERENCING),
        (Spec(parent=PARENT, fixed=True), Kind.DIFFERENCING),
    ],
)
def test_kind(spec: Spec, kind: Kind) -> None:
    assert facts_of(build(spec)).kind is kind


def test_differencing_disk_tells_its_parent_and_its_partial_blocks() -> None:
    blocks = {2: Block(PARTIALLY_PRESENT, b"x", (0, 9)), 4097: Block(PARTIALLY_PRESENT), 5: Block()}
    facts = facts_of(build(Spec(virtual_size=5 * GIB, parent=PARENT, blocks=blocks)))
    assert dict(facts.parent_locator) == PARENT
    assert facts.parent_paths == (PARENT["relative_path"], PARENT["absolute_win32_path"])
    assert facts.bat is not None
    assert (facts.bat.partially_present, facts.bat.fully_present, facts.bat.sector_bitmaps_present) == (2, 1, 2)
    assert facts.bat.allocated_bytes == 5 * MIB


def test_entries_beyond_the_end_of_a_differencing_disk_mean_nothing() -> None:
    image = build(Spec(parent=PARENT))
    image.put(bat_entry_at(image, 64), b"\xff" * 8)
    image.put(bat_entry_at(image, 4095), b"\xff" * 8)
    bat = facts_of(image).bat
    assert bat is not None
    assert bat.not_present == 64


def test_header_with_the_greater_sequence_number_is_current() -> None:
    image = build(Spec(sequence=2**40))
    assert facts_of(image).header.sequence_number == 2**40 + 1
    image.put(HEADERS[0], header(Spec(), 2**40 + 2))
    assert facts_of(image).header.sequence_number == 2**40 + 2


@pytest.mark.parametrize("number", [0, 1])
def test_one_broken_header_copy_is_a_warning(number: int) -> None:
    image = build()
    image.flip(HEADERS[number] + 4000)
    facts = facts_of(image)
    assert facts.header_copies_valid == (number == 1, number == 0)
    assert facts.header.sequence_number == (9 if number == 0 else 8)
    (warning,) = facts.warnings
    assert warning.startswith(f"header {number + 1} at byte {HEADERS[number]} is damaged: its checksum is 0x")


@pytest.mark.parametrize("number", [0, 1])
def test_one_broken_region_table_copy_is_a_warning(number: int) -> None:
    image = build()
    image.put(REGION_TABLES[number], b"reGi")
    facts = facts_of(image)
    assert facts.region_tables_valid == (number == 1, number == 0)
    assert facts.regions == facts_of(build()).regions
    assert facts.warnings == (
        f"region table {number + 1} at byte {REGION_TABLES[number]} is damaged: "
        "its signature is b'reGi' instead of b'regi'",
    )


def test_region_tables_that_differ_are_a_warning() -> None:
    image = build()
    image.put(REGION_TABLES[1] + 16 + 28, bytes(4))
    image.seal_all()
    assert facts_of(image).warnings == ("the two region tables differ; the first is used",)


def test_two_equal_headers_are_taken() -> None:
    image = build()
    image.put(HEADERS[0], image.get(HEADERS[1], 4096))
    facts = facts_of(image)
    assert facts.header.sequence_number == 9
    assert facts.warnings == ("both headers are the same, sequence number included (Disk2vhd makes such files)",)


def test_log_version_does_not_matter_without_a_log() -> None:
    image = build()
    for offset in HEADERS:
        image.put(offset + 64, b"\x05\x00")
    image.seal_all()
    assert facts_of(image).header.log_version == 5


def test_unknown_optional_region_and_user_metadata_are_passed_over() -> None:
    image = build()
    region = uuid.uuid5(uuid.NAMESPACE_DNS, "region")
    for offset in REGION_TABLES:
        image.put(offset + 8, struct.pack("<I", 3))
        image.put(offset + 16 + 64, struct.pack("<16sQII", region.bytes_le, image.size, MIB, 0))
    image.size += MIB
    image.seal_all()
    at = image.places["metadata"]
    image.put(at + 10, struct.pack("<H", 6))
    # A user item may even have the id of a system item (MS-VHDX §2.6.1.2).
    image.put(at + 32 + 5 * 32, struct.pack("<16sIIII", METADATA.bytes_le, 70000, 5, 1, 0))
    facts = facts_of(image)
    assert facts.regions[2].name == str(region)
    assert facts.warnings == ()


def test_sector_bitmap_entries_without_a_parent_are_a_warning() -> None:
    image = build(Spec(virtual_size=5 * GIB))
    set_entry(image, bitmap_entry_at(image, 0), FULLY_PRESENT, 7 * MIB)
    (warning,) = facts_of(image).warnings
    assert warning.startswith("1 sector-bitmap entries of the BAT are in use though the disk has no parent")


def test_parent_locator_without_a_parent_is_a_warning() -> None:
    image = build(Spec(parent=PARENT))
    image.put(image.places["file parameters"] + 4, bytes(4))
    facts = facts_of(image)
    assert facts.kind is Kind.DYNAMIC
    assert facts.parent_locator == ()
    assert facts.warnings == ("there is a parent locator, and the disk says to have no parent: it is ignored",)


def test_clean_log() -> None:
    log = facts_of(build()).log
    assert (log.state, log.entries, log.first_sequence_number) == (LogState.CLEAN, 0, None)


def test_largest_disk_of_the_format_is_read_in_small_pieces() -> None:
    last = 64 * MIB - 1
    image = build(Spec(virtual_size=64 * TIB, blocks={0: Block(), last: Block()}))
    reads = Reads()
    bat = facts_of(image, reads).bat
    assert bat is not None
    assert (bat.entries, bat.fully_present) == (64 * MIB + (64 * MIB - 1) // 4096, 2)
    assert reads.longest_bytes <= MIB
    assert reads.total_bytes < 514 * MIB


def test_blocks_far_into_a_huge_file_are_checked_in_little_memory() -> None:
    image = build(Spec(virtual_size=64 * TIB, block_size=256 * MIB))
    image.size = 100 * TIB
    for block in range(10):
        set_entry(image, bat_entry_at(image, block), FULLY_PRESENT, (10 * block + 1) * TIB - 3 * MIB)
    bat = facts_of(image).bat
    assert bat is not None
    assert bat.fully_present == 10


def test_structure_of_a_clean_file_takes_few_bytes() -> None:
    image = build(Spec(virtual_size=64 * TIB, parent=PARENT))
    reads = Reads()
    facts = drive(check_structure(image.size), image, reads)
    assert isinstance(facts, VhdxFacts)
    assert facts.bat is None
    assert facts.parent_paths == facts_of(build(Spec(parent=PARENT))).parent_paths
    assert not facts.needs_replay
    assert reads.total_bytes < 300_000


def test_creator_ends_at_the_first_nul() -> None:
    assert facts_of(build(Spec(creator="한국 VM\0rest"))).creator == "한국 VM"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"vhd", "it begins with b'vhd' instead of b'vhdxfile'"),
        (bytes(3 * MIB), r"it begins with b'\x00\x00\x00\x00\x00\x00\x00\x00' instead of b'vhdxfile'"),
        (b"plain bytes" * 100_000, "it begins with b'plain by' instead of b'vhdxfile'"),
    ],
)
def test_what_is_not_a_vhdx_is_told_and_is_no_damage(content: bytes, reason: str) -> None:
    image = Image(0)
    image.put(0, content)
    for step in (parse, check_structure):
        result = drive(step(image.size), image)
        assert result == NotVhdx(len(content), reason)


def test_last_block_may_be_cut_where_the_disk_ends() -> None:
    spec = Spec(virtual_size=33 * MIB + 512, block_size=32 * MIB, blocks={0: Block(), 1: Block()})
    image = build(spec)
    image.size = image.places["block 1"] + 2 * MIB
    bat = facts_of(image).bat
    assert bat is not None
    assert bat.fully_present == 2
    image.size -= 1
    with pytest.raises(DamagedVhdxError, match="outside of the file"):
        facts_of(image)
