"""The metadata region: its table, the known items, and the parent locator (MS-VHDX §2.6). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct

from .facts import PATH_KEYS, DamagedVhdxError, Kind, RegionFacts
from .headers import MAX_ENTRIES
from .reading import MIB, Step, View, guid, read

TABLE_BYTES = 64 * 1024
_HEADER_BYTES = 32
MAX_ITEM_BYTES = MIB
_ENTRY = Struct("<16sIII4x")
ITEM_PLACE_AT = 16
"""Where in its entry of the table the offset and the length of an item lie, 4 bytes each."""
_MAX_VIRTUAL_BYTES = 64 * MIB * MIB  # 64 TiB
_MAX_BLOCK_BYTES = 256 * MIB

_FILE_PARAMETERS = "caa16737-fa36-4d43-b3b6-33f0aa44e76b"
_VIRTUAL_DISK_SIZE = "2fa54224-cd1b-4876-b211-5dbed83bf4b8"
_VIRTUAL_DISK_ID = "beca12ab-b2e6-4523-93ef-c309e000c746"
_LOGICAL_SECTOR_SIZE = "8141bf1d-a96f-4709-ba47-f233a8faab5f"
_PHYSICAL_SECTOR_SIZE = "cda348c7-445d-4471-9cc9-e9885251c556"
PARENT_LOCATOR = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c"
_ITEMS = {  # name, length (None: any)
    _FILE_PARAMETERS: ("file parameters", 8),
    _VIRTUAL_DISK_SIZE: ("virtual disk size", 8),
    _VIRTUAL_DISK_ID: ("virtual disk id", 16),
    _LOGICAL_SECTOR_SIZE: ("logical sector size", 4),
    _PHYSICAL_SECTOR_SIZE: ("physical sector size", 4),
    PARENT_LOCATOR: ("parent locator", None),
}

VHDX_LOCATOR = "b04aefb7-d19e-4a81-b789-25b8e9445913"
LOCATOR_HEADER = Struct("<16sHH")
LOCATOR_ENTRY = Struct("<IIHH")
_BRACED_GUID = re.compile(r"\{[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}")


@dataclass(frozen=True, slots=True)
class Metadata:
    """The values of the known items."""

    kind: Kind
    block_size_bytes: int
    virtual_size_bytes: int
    disk_id: str
    logical_sector_bytes: int
    physical_sector_bytes: int
    parent_locator: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """Where one known system item lies in the file, and where its entry in the table does."""

    name: str
    entry_at_bytes: int
    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Items:
    """The metadata table: the known system items by GUID, and the room that each item takes, unknown ones included.

    `spans` are (start, end) in bytes from the start of the region, sorted, without overlaps.
    """

    known: dict[str, Item]
    spans: tuple[tuple[int, int], ...]


def read_metadata(view: View, region: RegionFacts) -> Step[Metadata]:
    """Read the metadata table and every known item.

    DamagedVhdxError if the table is not one; if an item lies outside the region, overlaps another, occurs twice or
    has the wrong length; if a required item is unknown, or a known one missing; or if a value is not allowed.
    """
    items = (yield from read_items(view, region)).known
    for identifier, (name, _) in _ITEMS.items():
        if identifier not in items and identifier != PARENT_LOCATOR:
            raise DamagedVhdxError("metadata table", region.offset_bytes, f"the {name} is missing")
    block, flags = Struct("<II").unpack((yield from _value(view, items[_FILE_PARAMETERS])))
    if block & (block - 1) or not MIB <= block <= _MAX_BLOCK_BYTES:
        raise _refuse(items[_FILE_PARAMETERS], f"the block size {block} is not a power of two from 1 MiB to 256 MiB")
    logical = yield from _sector_size(view, items[_LOGICAL_SECTOR_SIZE])
    physical = yield from _sector_size(view, items[_PHYSICAL_SECTOR_SIZE])
    size = int.from_bytes((yield from _value(view, items[_VIRTUAL_DISK_SIZE])), "little")
    if size > _MAX_VIRTUAL_BYTES or size % logical:
        raise _refuse(
            items[_VIRTUAL_DISK_SIZE],
            f"{size} bytes is not a number of {logical}-byte sectors of at most 64 TiB in all",
        )
    disk_id = guid((yield from _value(view, items[_VIRTUAL_DISK_ID])))
    locator: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    has_parent = bool(flags & 2)
    if has_parent and PARENT_LOCATOR not in items:
        raise _refuse(items[_FILE_PARAMETERS], "the disk has a parent, and the parent locator is missing")
    if has_parent:
        data = yield from _value(view, items[PARENT_LOCATOR])
        locator = _parse_locator(items[PARENT_LOCATOR], data)
    elif PARENT_LOCATOR in items:
        warnings = ("there is a parent locator, and the disk says to have no parent: it is ignored",)
    kind = Kind.DIFFERENCING if has_parent else Kind.FIXED if flags & 1 else Kind.DYNAMIC
    return Metadata(kind, block, size, disk_id, logical, physical, locator, warnings)


def _refuse(item: Item, reason: str) -> DamagedVhdxError:
    return DamagedVhdxError(item.name, item.offset_bytes, reason)


def _value(view: View, item: Item) -> Step[bytes]:
    return (yield from read(view, item.offset_bytes, item.length_bytes, item.name))


def _sector_size(view: View, item: Item) -> Step[int]:
    size = int.from_bytes((yield from _value(view, item)), "little")
    if size not in (512, 4096):
        raise _refuse(item, f"it is {size}, and only 512 and 4096 are allowed")
    return size


def read_items(view: View, region: RegionFacts) -> Step[Items]:
    """The metadata table (MS-VHDX §2.6.1). All entries are checked, the unknown ones too.

    DamagedVhdxError as `read_metadata` has it, but for what depends upon values and for items that are missing.
    """
    data = yield from read(view, region.offset_bytes, TABLE_BYTES, "metadata table")
    if data[:8] != b"metadata":
        raise DamagedVhdxError(
            "metadata table", region.offset_bytes, f"its signature is {data[:8]!r} instead of {b'metadata'!r}"
        )
    count = int.from_bytes(data[10:12], "little")
    if count > MAX_ENTRIES:
        raise DamagedVhdxError(
            "metadata table", region.offset_bytes, f"it counts {count} entries, and {MAX_ENTRIES} is the most"
        )
    seen: set[tuple[str, bool]] = set()
    items: dict[str, Item] = {}
    spans: list[tuple[int, int, str]] = []
    for index in range(count):
        at = _HEADER_BYTES + index * _ENTRY.size
        raw_guid, offset, length, flags = _ENTRY.unpack_from(data, at)
        identifier, is_user = guid(raw_guid), bool(flags & 1)
        name, wanted = ("", None) if is_user else _ITEMS.get(identifier, ("", None))

        fault = None
        if (identifier, is_user) in seen:
            fault = "is listed twice"
        elif not name and flags & 4:
            fault = "is marked as required, and nobody knows it"
        elif length > MAX_ITEM_BYTES or (length and offset < TABLE_BYTES) or offset + length > region.length_bytes:
            fault = (
                f"has {length} bytes at {offset}, outside of the region's {region.length_bytes} bytes or in its table"
            )
        elif wanted is not None and length != wanted:
            fault = f"has {length} bytes instead of {wanted}"
        if fault:
            raise DamagedVhdxError("metadata table", region.offset_bytes + at, f"the item {name or identifier} {fault}")
        seen.add((identifier, is_user))
        if length:
            spans.append((offset, offset + length, name or identifier))
        if name:
            items[identifier] = Item(name, region.offset_bytes + at, region.offset_bytes + offset, length)
    spans.sort()
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end:
            raise DamagedVhdxError("metadata table", region.offset_bytes, f"the items {name} and {other} overlap")
    return Items(items, tuple((start, end) for start, end, _ in spans))


def _parse_locator(item: Item, data: bytes) -> tuple[tuple[str, str], ...]:
    """The keys and values of a parent locator (MS-VHDX §2.6.2.6)."""
    if len(data) < LOCATOR_HEADER.size:
        raise _refuse(item, f"it has {len(data)} bytes, and its header alone needs {LOCATOR_HEADER.size}")
    raw_type, _, count = LOCATOR_HEADER.unpack_from(data)
    if guid(raw_type) != VHDX_LOCATOR:
        raise _refuse(item, f"it is of the type {guid(raw_type)}, and only that of a VHDX parent is known")
    texts_at = LOCATOR_HEADER.size + count * LOCATOR_ENTRY.size
    if texts_at > len(data):
        raise _refuse(item, f"it counts {count} entries, more than its {len(data)} bytes can hold")
    result: dict[str, str] = {}
    room = len(data) - texts_at
    for index in range(count):
        places = LOCATOR_ENTRY.unpack_from(data, LOCATOR_HEADER.size + index * LOCATOR_ENTRY.size)
        key_at, value_at, key_length, value_length = places
        room -= key_length + value_length  # what texts share would let a few bytes grow without bound
        if room < 0:
            raise _refuse(item, f"its keys and values are longer than its {len(data)} bytes")
        key = _text(item, data, key_at, key_length, f"key {index}")
        if key in result:
            raise _refuse(item, f"the key {key!r} occurs twice")
        result[key] = _text(item, data, value_at, value_length, f"value of {key!r}")
    linkage = result.get("parent_linkage")
    if linkage is None or not _BRACED_GUID.fullmatch(linkage):
        raise _refuse(item, f"its parent_linkage is {linkage!r}, not a GUID in braces")
    if not any(key in result for key in PATH_KEYS):
        raise _refuse(item, f"it holds none of the paths {', '.join(PATH_KEYS)}")
    return tuple(result.items())


def _text(item: Item, data: bytes, offset: int, length: int, what: str) -> str:
    if not length or length % 2 or offset + length > len(data):
        raise _refuse(item, f"the {what} ({length} bytes at {offset}) is no text inside the locator")
    try:
        return data[offset : offset + length].decode("utf-16-le")
    except UnicodeDecodeError:
        raise _refuse(item, f"the {what} is not UTF-16") from None
