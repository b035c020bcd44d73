"""Rewriting a parent locator in place: when a chain was moved, its disks must find their parents again. Pure.

MS-VHDX §2.3 has every change of metadata made through the log. The order of the stages:

1. both headers, with a new FileWriteGuid (§2.2.2.1); a log that the file still names is replayed (replaying.py)
2. one log entry with every 4 KiB that will change, while the headers name no log: so far it means nothing
3. both headers name that log: from the first of them on, the file is the new one to whoever reads it
4. the metadata itself
5. both headers name no log

§2.2.2 wants the log named before room in it is overwritten. That way round there would be a moment in which the log is
named and has no valid entry, at which §2.3.3 calls the file corrupt. Nobody reads a log that is not named, so it is
written first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from replicad.model.errors import InvalidNameError, UnsupportedError

from .facts import PATH_KEYS, Kind, RegionFacts
from .headers import read_headers, read_regions
from .log import read_log
from .metadata import (
    ITEM_PLACE_AT,
    LOCATOR_ENTRY,
    LOCATOR_HEADER,
    MAX_ITEM_BYTES,
    PARENT_LOCATOR,
    TABLE_BYTES,
    VHDX_LOCATOR,
    Item,
    Items,
    read_items,
    read_metadata,
)
from .parent_paths import ParentPaths
from .reading import MIB, SECTOR_BYTES, Step, View, guid_bytes, read
from .replaying import replay_stages
from .writing import HeaderUpdates, Stages, Write, log_entry

_MAX_TEXT_BYTES = 0xFFFE
_ALIGNED_BYTES = 8  # where an item is put that finds no room at its old place


def rewrite_parent_locator(
    file_size_bytes: int, paths: ParentPaths, *, file_write_guid: str, log_guid: str
) -> Step[Stages]:
    """What makes a differencing VHDX name its parent by `paths` and by no other path; nothing, if it does already.

    Both GUIDs are new random ones. Everything else stays: parent_linkage, parent_linkage2 (set while a merge is under
    way, §2.6.2.6.3) and keys that nobody knows, as they are; DataWriteGuid, because what is read from the disk is what
    it was, and its own children know it by that. A log that is to be replayed is replayed first.

    Wherever the stages are cut short, the file is sound and, to whoever replays its log, the old or the new one.

    Raises DamagedVhdxError as `check_structure` does; UnsupportedError if it has no parent, or no log or room to do
    this with; InvalidNameError if a path can't be written.
    """
    headers = yield from read_headers(file_size_bytes)
    header = headers.current
    log, view, _ = yield from read_log(file_size_bytes, header, None)
    region = (yield from read_regions(view, header)).named("metadata")
    metadata = yield from read_metadata(view, region)
    if metadata.kind is not Kind.DIFFERENCING:
        raise _refuse(f"the disk is {metadata.kind.value} and has no parent")
    wanted = renamed(metadata.parent_locator, paths)
    if wanted == metadata.parent_locator:
        return ()
    items = yield from read_items(view, region)
    sectors = yield from _changed_sectors(view, region, items, locator_bytes(wanted))
    entry = log_entry(log_guid, sectors, view.size_bytes // MIB * MIB, -(-view.size_bytes // MIB) * MIB)
    if len(entry) >= header.log_length_bytes:  # QEMU wants one sector free: full and empty look alike to it
        raise _refuse(f"its log has {header.log_length_bytes} bytes, and {len(entry) + SECTOR_BYTES} are needed")

    updates = HeaderUpdates(headers, file_write_guid)
    replayed = yield from replay_stages(updates, log.state, view, header)
    return (
        *(replayed or updates.naming(None)),
        (Write(header.log_offset_bytes, entry),),
        *updates.naming(log_guid),
        tuple(Write(offset, data) for offset, data in sectors),
        *updates.naming(None),
    )


def renamed(locator: Iterable[tuple[str, str]], paths: ParentPaths) -> tuple[tuple[str, str], ...]:
    """The keys and values of a locator with these paths and no others. Keys stay where they are, new ones follow."""
    new = {key: value for key in PATH_KEYS if (value := getattr(paths, key)) is not None}
    if not new:
        raise _refuse("none of its paths is given")
    kept = {key: new.get(key, value) for key, value in locator if key not in PATH_KEYS or key in new}
    return tuple((kept | {key: value for key, value in new.items() if key not in kept}).items())


def locator_bytes(entries: Sequence[tuple[str, str]]) -> bytes:
    """A parent locator of the VHDX type (MS-VHDX §2.6.2.6).

    InvalidNameError if a text is empty, longer than 32,767 units of UTF-16, or holds a NUL or half a surrogate pair.
    """
    at = LOCATOR_HEADER.size + len(entries) * LOCATOR_ENTRY.size
    table, texts = b"", b""
    for key, value in entries:
        raw_key, raw_value = _encoded(key, "a key"), _encoded(value, f"the {key}")
        key_at = at + len(texts)
        table += LOCATOR_ENTRY.pack(key_at, key_at + len(raw_key), len(raw_key), len(raw_value))
        texts += raw_key + raw_value
    return LOCATOR_HEADER.pack(guid_bytes(VHDX_LOCATOR), 0, len(entries)) + table + texts


def _encoded(text: str, what: str) -> bytes:
    try:
        raw = text.encode("utf-16-le")
    except UnicodeEncodeError:
        raise InvalidNameError("write", f"{what} of the parent locator", "it holds half a surrogate pair") from None
    if not raw or len(raw) > _MAX_TEXT_BYTES or "\0" in text:
        reason = f"it has {len(raw)} bytes in UTF-16, from 2 to {_MAX_TEXT_BYTES} are allowed, and no NUL among them"
        raise InvalidNameError("write", f"{what} of the parent locator", reason)
    return raw


def _changed_sectors(view: View, region: RegionFacts, items: Items, new: bytes) -> Step[list[tuple[int, bytes]]]:
    """The 4 KiB of the metadata region in which the new locator, in a place of its own, makes a difference."""
    old = items.known[PARENT_LOCATOR]
    at = _room(region, items, old, len(new))
    patches = [
        (old.offset_bytes, bytes(old.length_bytes)),  # no trace of paths of the past
        (region.offset_bytes + at, new),
        (old.entry_at_bytes + ITEM_PLACE_AT, at.to_bytes(4, "little") + len(new).to_bytes(4, "little")),
    ]
    sectors: dict[int, bytearray] = {}
    before: dict[int, bytes] = {}
    for offset, data in patches:
        for start in range(offset // SECTOR_BYTES * SECTOR_BYTES, offset + len(data), SECTOR_BYTES):
            if start not in sectors:
                before[start] = yield from read(view, start, SECTOR_BYTES, "metadata region")
                sectors[start] = bytearray(before[start])
            low, high = max(offset, start), min(offset + len(data), start + SECTOR_BYTES)
            sectors[start][low - start : high - start] = data[low - offset : high - offset]
    return [(start, bytes(sectors[start])) for start in sorted(sectors) if sectors[start] != before[start]]


def _room(region: RegionFacts, items: Items, old: Item, length: int) -> int:
    """Where in the region an item of this length has room: the old place if it has, else the first."""
    if length > MAX_ITEM_BYTES:
        raise _refuse(f"it would have {length} bytes, and {MAX_ITEM_BYTES} is the most")
    here = old.offset_bytes - region.offset_bytes
    others = [span for span in items.spans if span != (here, here + old.length_bytes)]
    starts = [here, TABLE_BYTES, *(-(-end // _ALIGNED_BYTES) * _ALIGNED_BYTES for _, end in others)]
    for start in starts:
        if start + length <= region.length_bytes and all(
            start + length <= low or high <= start for low, high in others
        ):
            return start
    raise _refuse(f"its metadata region of {region.length_bytes} bytes has no room for {length} more")


def _refuse(reason: str) -> UnsupportedError:
    return UnsupportedError("rewrite", "the parent locator", reason)
