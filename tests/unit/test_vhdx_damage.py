"""Damages by name: each is told with the structure, where it lies, and what is wrong."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable

import pytest

from replicad.model.errors import IntegrityError
from replicad.vhdx import DamagedVhdxError, parse
from tests.support.vhdx_builder import (
    BAT,
    FULLY_PRESENT,
    HEADERS,
    METADATA,
    MIB,
    PARTIALLY_PRESENT,
    REGION_TABLES,
    Block,
    Image,
    Spec,
    bat_entry_at,
    bitmap_entry_at,
    build,
    drive,
    locator,
    set_entry,
)

GIB = 1024 * MIB
LINK = "{aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee}"
PARENT = {"parent_linkage": LINK, "relative_path": ".\\a.vhdx"}
DYNAMIC = Spec(blocks={1: Block(), 2: Block()})
DIFFERENCING = Spec(parent=PARENT, blocks={1: Block(PARTIALLY_PRESENT), 2: Block()})
UNKNOWN = uuid.UUID("12345678-1234-1234-1234-123456789abc")

Damage = Callable[[Image], None]


def header_field(offset: int, data: bytes) -> Damage:
    """Change a field of both headers, and make their checksums right."""

    def damage(image: Image) -> None:
        for at in HEADERS:
            image.put(at + offset, data)
        image.seal_all()

    return damage


def both(places: tuple[int, int], offset: int, data: bytes) -> Damage:
    """Change both copies of something, leaving the checksums as they are."""

    def damage(image: Image) -> None:
        for at in places:
            image.put(at + offset, data)

    return damage


def regions(*entries: tuple[uuid.UUID, int, int, int]) -> Damage:
    """Write other region tables; offsets and lengths in MiB."""

    def damage(image: Image) -> None:
        for at in REGION_TABLES:
            image.put(at + 8, struct.pack("<I", len(entries)))
            for index, (guid, offset, length, flags) in enumerate(entries):
                entry = struct.pack("<16sQII", guid.bytes_le, offset * MIB, length * MIB, flags)
                image.put(at + 16 + index * 32, entry)
        image.seal_all()

    return damage


def region_field(offset: int, data: bytes) -> Damage:
    """Change a field of the first entry (the BAT's) of both region tables."""

    def damage(image: Image) -> None:
        for at in REGION_TABLES:
            image.put(at + 16 + offset, data)
        image.seal_all()

    return damage


def metadata(offset: int, data: bytes) -> Damage:
    return lambda image: image.put(image.places["metadata"] + offset, data)


def value(item: str, data: bytes, offset: int = 0) -> Damage:
    return lambda image: image.put(image.places[item] + offset, data)


def item_entry(item: str, offset: int, data: bytes) -> Damage:
    return lambda image: image.put(image.places[f"{item} entry"] + offset, data)


def new_locator(data: bytes) -> Damage:
    def damage(image: Image) -> None:
        image.put(image.places["parent locator"], data)
        image.put(image.places["parent locator entry"] + 20, struct.pack("<I", len(data)))

    return damage


def extra_item(guid: uuid.UUID, offset: int, length: int, flags: int) -> Damage:
    def damage(image: Image) -> None:
        at = image.places["metadata"]
        image.put(at + 10, struct.pack("<H", 6))
        image.put(at + 32 + 5 * 32, struct.pack("<16sIIII", guid.bytes_le, offset, length, flags, 0))

    return damage


def entry(block: int, state: int, offset_mib: int) -> Damage:
    return lambda image: set_entry(image, bat_entry_at(image, block), state, offset_mib * MIB)


def bitmap(chunk: int, state: int, offset_mib: int) -> Damage:
    return lambda image: set_entry(image, bitmap_entry_at(image, chunk), state, offset_mib * MIB)


def reserved_bits(image: Image) -> None:
    at = bat_entry_at(image, 1)
    image.put(at, bytes([image.get(at, 1)[0] | 8]))


def cut(size: int) -> Damage:
    def damage(image: Image) -> None:
        image.size = size

    return damage


# Layout of the images: log at 1 MiB, metadata at 2, BAT at 3, the blocks at 4, 5 (6 with a sector bitmap between).
# name: (spec, damage, structure, offset or None for any, part of the reason)
DAMAGES: dict[str, tuple[Spec, Damage, str, int | None, str]] = {
    # file type identifier, headers (§2.2.1, §2.2.2)
    "signature gone": (
        DYNAMIC,
        lambda i: i.put(0, b"VHDXFILE"),
        "file type identifier",
        0,
        "though the header at byte",
    ),
    "file ends in identifier": (DYNAMIC, cut(100), "file type identifier", 8, "the file ends at 100"),
    "file ends before headers": (DYNAMIC, cut(64 * 1024), "header 1", HEADERS[0], "the file ends at 65536"),
    "file ends between headers": (DYNAMIC, cut(128 * 1024 + 5), "header 2", HEADERS[1], "the file ends at 131077"),
    "both header checksums": (DYNAMIC, both(HEADERS, 100, b"x"), "header 1", HEADERS[0], "its content gives"),
    "both header signatures": (
        DYNAMIC,
        both(HEADERS, 0, b"HEAD"),
        "header 1",
        HEADERS[0],
        "b'HEAD' instead of b'head'",
    ),
    "version": (DYNAMIC, header_field(66, b"\x02\x00"), "header 2", HEADERS[1], "its version is 2"),
    "log version": (DYNAMIC, header_field(48, b"g" * 16 + b"\x01\x00"), "header 2", HEADERS[1], "its log version is 1"),
    "log length": (DYNAMIC, header_field(68, struct.pack("<I", 4096)), "header 2", HEADERS[1], "not made of whole MiB"),
    "log offset": (DYNAMIC, header_field(72, struct.pack("<Q", 5)), "header 2", HEADERS[1], "not made of whole MiB"),
    "log at the start": (DYNAMIC, header_field(72, bytes(8)), "header 2", HEADERS[1], "not made of whole MiB"),
    "log outside": (DYNAMIC, header_field(72, struct.pack("<Q", 64 * MIB)), "header 2", HEADERS[1], "ends beyond"),
    # region tables (§2.2.3)
    "file ends before the regions": (DYNAMIC, cut(2 * MIB), "region table 1", None, "ends beyond"),
    "both region tables": (DYNAMIC, both(REGION_TABLES, 50, b"x"), "region table 1", REGION_TABLES[0], "no better"),
    "region count": (
        DYNAMIC,
        regions(*[(BAT, 3, 1, 1)] * 2047, (BAT, 3, 1, 1)),
        "region table 1",
        None,
        "2048 entries",
    ),
    "no BAT": (DYNAMIC, regions((METADATA, 2, 1, 1)), "region table 1", None, "the BAT region is missing"),
    "no metadata": (DYNAMIC, regions((BAT, 3, 1, 1)), "region table 1", None, "the metadata region is missing"),
    "no regions": (DYNAMIC, regions(), "region table 1", None, "the BAT region is missing"),
    "BAT twice": (DYNAMIC, regions((BAT, 3, 1, 1), (BAT, 3, 1, 1)), "region table 1", REGION_TABLES[0] + 48, "twice"),
    "required unknown region": (
        DYNAMIC,
        regions((BAT, 3, 1, 1), (METADATA, 2, 1, 1), (UNKNOWN, 4, 1, 1)),
        "region table 1",
        REGION_TABLES[0] + 80,
        f"the region {UNKNOWN} is marked as required, and nobody knows it",
    ),
    "region misaligned": (
        DYNAMIC,
        region_field(16, struct.pack("<Q", 3 * MIB + 512)),
        "region table 1",
        None,
        "whole MiB",
    ),
    "region length misaligned": (
        DYNAMIC,
        region_field(24, struct.pack("<I", 4096)),
        "region table 1",
        None,
        "whole MiB",
    ),
    "region empty": (DYNAMIC, region_field(24, bytes(4)), "region table 1", None, "whole MiB"),
    "region outside": (DYNAMIC, region_field(16, struct.pack("<Q", 99 * MIB)), "region table 1", None, "ends beyond"),
    "region offset overflows": (
        DYNAMIC,
        region_field(16, b"\0\0\xf0" + b"\xff" * 5),
        "region table 1",
        None,
        "ends beyond",
    ),
    "region at the start": (DYNAMIC, region_field(16, bytes(8)), "region table 1", None, "behind the first one"),
    "regions overlap": (
        DYNAMIC,
        regions((BAT, 2, 2, 1), (METADATA, 3, 1, 1)),
        "region table 1",
        REGION_TABLES[0],
        "the BAT region and the metadata region overlap at byte 3145728",
    ),
    "region upon the log": (DYNAMIC, regions((BAT, 1, 1, 1), (METADATA, 2, 1, 1)), "region table 1", None, "overlap"),
    # metadata (§2.6)
    "metadata signature": (DYNAMIC, metadata(0, b"Metadata"), "metadata table", 2 * MIB, "b'Metadata' instead of"),
    "metadata count": (DYNAMIC, metadata(10, b"\x00\x08"), "metadata table", 2 * MIB, "2048 entries"),
    "metadata empty": (DYNAMIC, metadata(10, b"\x00\x00"), "metadata table", 2 * MIB, "the file parameters is missing"),
    "item missing": (DYNAMIC, metadata(10, b"\x04\x00"), "metadata table", 2 * MIB, "physical sector size is missing"),
    "item in the table": (
        DYNAMIC,
        item_entry("virtual disk id", 16, struct.pack("<I", 100)),
        "metadata table",
        None,
        "in its table",
    ),
    "item outside": (
        DYNAMIC,
        item_entry("virtual disk id", 16, struct.pack("<I", MIB - 8)),
        "metadata table",
        None,
        "outside",
    ),
    "item too long": (DYNAMIC, extra_item(UNKNOWN, 70000, 2**32 - 1, 0), "metadata table", None, "outside"),
    "item length": (
        DYNAMIC,
        item_entry("virtual disk size", 20, b"\x10"),
        "metadata table",
        None,
        "16 bytes instead of 8",
    ),
    "item absent": (
        DYNAMIC,
        item_entry("virtual disk size", 20, b"\0"),
        "metadata table",
        None,
        "0 bytes instead of 8",
    ),
    "items overlap": (DYNAMIC, extra_item(UNKNOWN, 65537, 4, 0), "metadata table", None, "overlap"),
    "required unknown item": (
        DYNAMIC,
        extra_item(UNKNOWN, 70000, 4, 4),
        "metadata table",
        2 * MIB + 192,
        f"the item {UNKNOWN} is marked",
    ),
    "block size": (
        DYNAMIC,
        value("file parameters", struct.pack("<I", 3 * MIB)),
        "file parameters",
        None,
        "power of two",
    ),
    "block size 0": (DYNAMIC, value("file parameters", bytes(4)), "file parameters", None, "power of two"),
    "block size small": (
        DYNAMIC,
        value("file parameters", struct.pack("<I", MIB // 2)),
        "file parameters",
        None,
        "power of two",
    ),
    "block size large": (
        DYNAMIC,
        value("file parameters", struct.pack("<I", 512 * MIB)),
        "file parameters",
        None,
        "power of two",
    ),
    "disk size odd": (
        DYNAMIC,
        value("virtual disk size", struct.pack("<Q", MIB + 1)),
        "virtual disk size",
        None,
        "512-byte sectors",
    ),
    "disk size large": (
        DYNAMIC,
        value("virtual disk size", struct.pack("<Q", 64 * 1024 * GIB + 512)),
        "virtual disk size",
        None,
        "64 TiB",
    ),
    "logical sector": (
        DYNAMIC,
        value("logical sector size", struct.pack("<I", 1024)),
        "logical sector size",
        None,
        "it is 1024",
    ),
    "physical sector": (DYNAMIC, value("physical sector size", bytes(4)), "physical sector size", None, "it is 0"),
    "parent without locator": (
        DYNAMIC,
        value("file parameters", b"\x02", 4),
        "file parameters",
        None,
        "locator is missing",
    ),
    # parent locator (§2.6.2.6)
    "locator short": (DIFFERENCING, new_locator(b"x" * 19), "parent locator", None, "its header alone needs 20"),
    "locator type": (
        DIFFERENCING,
        value("parent locator", b"x" * 16),
        "parent locator",
        None,
        "it is of the type 78787878",
    ),
    "locator count": (DIFFERENCING, value("parent locator", b"\xff\xff", 18), "parent locator", None, "65535 entries"),
    "locator key outside": (
        DIFFERENCING,
        value("parent locator", b"\xff\xff", 20),
        "parent locator",
        None,
        "no text inside",
    ),
    "locator key odd": (
        DIFFERENCING,
        value("parent locator", b"\x03\x00", 28),
        "parent locator",
        None,
        "no text inside",
    ),
    "locator value empty": (
        DIFFERENCING,
        value("parent locator", b"\x00\x00", 30),
        "parent locator",
        None,
        "no text inside",
    ),
    "locator text too long": (
        DIFFERENCING,
        value("parent locator", b"\xfe\xff", 30),
        "parent locator",
        None,
        "longer than",
    ),
    "locator not UTF-16": (
        DIFFERENCING,
        value("parent locator", b"\x00\xd8", 44),
        "parent locator",
        None,
        "is not UTF-16",
    ),
    "locator key twice": (
        DIFFERENCING,
        new_locator(locator({"ab": "1", "cb": "2"}).replace(b"c\0b\0", b"a\0b\0")),
        "parent locator",
        None,
        "the key 'ab' occurs twice",
    ),
    "linkage missing": (
        DIFFERENCING,
        new_locator(locator({"relative_path": "x"})),
        "parent locator",
        None,
        "its parent_linkage is None",
    ),
    "linkage no GUID": (
        DIFFERENCING,
        new_locator(locator({"relative_path": "x", "parent_linkage": LINK[:-1]})),
        "parent locator",
        None,
        "not a GUID in braces",
    ),
    "no parent path": (
        DIFFERENCING,
        new_locator(locator({"parent_linkage": LINK})),
        "parent locator",
        None,
        "none of the paths",
    ),
    # BAT (§2.5)
    "BAT too short": (
        DYNAMIC,
        value("virtual disk size", struct.pack("<Q", 1024 * GIB)),
        "BAT",
        3 * MIB,
        "has no room for them",
    ),
    "reserved state": (DYNAMIC, entry(9, 4, 0), "BAT entry 9 (block 9)", 3 * MIB + 72, "the state 4 is not allowed"),
    "partial without parent": (DYNAMIC, entry(9, 7, 4), "BAT entry 9 (block 9)", None, "the state 7 is not allowed"),
    "reserved bits": (
        DYNAMIC,
        reserved_bits,
        "BAT entry 1 (block 1)",
        None,
        "the reserved bits of 0x000000000040000e are not 0",
    ),
    "block outside": (
        DYNAMIC,
        entry(1, FULLY_PRESENT, 6),
        "BAT entry 1 (block 1)",
        None,
        "outside of the file's 6291456",
    ),
    "block far outside": (
        DYNAMIC,
        entry(1, FULLY_PRESENT, 2**44 - 1),
        "BAT entry 1 (block 1)",
        None,
        "outside of the file",
    ),
    "file cut short": (DYNAMIC, cut(6 * MIB - 1), "BAT entry 2 (block 2)", None, "outside of the file's 6291455"),
    "block in the header section": (
        DYNAMIC,
        entry(1, FULLY_PRESENT, 0),
        "BAT entry 1 (block 1)",
        None,
        "overlap the header section",
    ),
    "block in the log": (DYNAMIC, entry(1, FULLY_PRESENT, 1), "BAT entry 1 (block 1)", None, "overlap the log"),
    "block in the metadata": (
        DYNAMIC,
        entry(1, FULLY_PRESENT, 2),
        "BAT entry 1 (block 1)",
        None,
        "overlap the metadata region",
    ),
    "block in the BAT": (DYNAMIC, entry(1, FULLY_PRESENT, 3), "BAT entry 1 (block 1)", None, "overlap the BAT region"),
    "blocks overlap": (DYNAMIC, entry(2, FULLY_PRESENT, 4), "BAT entry 2 (block 2)", None, "overlap another block"),
    "bitmap upon a block": (
        DIFFERENCING,
        bitmap(0, 6, 4),
        "BAT entry 4096 (sector bitmap of chunk 0)",
        None,
        "overlap another",
    ),
    "bitmap outside": (
        DIFFERENCING,
        bitmap(0, 6, 77),
        "BAT entry 4096 (sector bitmap of chunk 0)",
        None,
        "outside of the file",
    ),
    "bitmap state": (
        DIFFERENCING,
        bitmap(0, 3, 5),
        "BAT entry 4096 (sector bitmap of chunk 0)",
        None,
        "is none of a sector bitmap",
    ),
    "bitmap missing": (
        DIFFERENCING,
        bitmap(0, 0, 0),
        "BAT entry 4096 (sector bitmap of chunk 0)",
        3 * MIB + 4096 * 8,
        "block 1 is partially present and has no sector bitmap",
    ),
}


def same_sequence(image: Image) -> None:
    header_field(8, struct.pack("<Q", 5))(image)
    image.put(HEADERS[0] + 20, b"!")
    image.seal_all()


def no_room_for_the_log(image: Image) -> None:
    header_field(48, b"g" * 16)(image)
    header_field(68, bytes(4))(image)


def item_twice(image: Image) -> None:
    guid = image.get(image.places["virtual disk id entry"], 16)
    extra_item(uuid.UUID(bytes_le=guid), 70000, 16, 6)(image)


DAMAGES["same sequence number"] = (DYNAMIC, same_sequence, "header 2", HEADERS[1], "sequence number 5, and they differ")
DAMAGES["log without room"] = (DYNAMIC, no_room_for_the_log, "header 2", HEADERS[1], "gives it no room")
DAMAGES["item twice"] = (DYNAMIC, item_twice, "metadata table", None, "the item virtual disk id is listed twice")


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_told(name: str) -> None:
    spec, damage, structure, offset, reason = DAMAGES[name]
    image = build(spec)
    drive(parse(image.size), image)  # sound before
    damage(image)
    with pytest.raises(DamagedVhdxError) as caught:
        drive(parse(image.size), image)
    error = caught.value
    assert isinstance(error, IntegrityError)
    assert error.structure == structure
    assert reason in error.reason
    if offset is not None:
        assert error.offset_bytes == offset
    assert f"the VHDX {structure} at byte {error.offset_bytes}" in str(error)


def test_larger_blocks_that_overlap_in_part_are_told() -> None:
    image = build(Spec(block_size=32 * MIB, virtual_size=GIB, blocks={0: Block(), 1: Block()}))
    image.size += 64 * MIB
    set_entry(image, bat_entry_at(image, 0), FULLY_PRESENT, image.places["block 1"] + 31 * MIB)
    with pytest.raises(DamagedVhdxError, match="overlap another block"):
        drive(parse(image.size), image)


def test_a_block_that_reaches_into_a_region_behind_it_is_told() -> None:
    image = build(Spec(block_size=2 * MIB, blocks={0: Block()}))
    far = image.size + MIB
    for at in REGION_TABLES:
        image.put(at + 8, struct.pack("<I", 3))
        image.put(at + 16 + 64, struct.pack("<16sQII", UNKNOWN.bytes_le, far, MIB, 0))
    image.size = far + MIB
    image.seal_all()
    set_entry(image, bat_entry_at(image, 0), FULLY_PRESENT, far - MIB)
    with pytest.raises(DamagedVhdxError, match=f"overlap the {UNKNOWN} region"):
        drive(parse(image.size), image)


def test_a_file_that_becomes_shorter_while_being_read_is_told() -> None:
    image = build()
    step = parse(image.size)
    request = next(step)
    with pytest.raises(DamagedVhdxError, match="became shorter than 4194304 bytes while being read"):
        step.send(image.get(request.offset_bytes, request.length_bytes - 1))
