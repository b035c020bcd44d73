"""The header section: file type identifier, headers and region tables (MS-VHDX §2.2). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from struct import Struct

from .crc32c import crc32c
from .facts import DamagedVhdxError, HeaderFacts, RegionFacts
from .reading import MIB, Step, View, guid, read, read_raw

SIGNATURE = b"vhdxfile"
HEADER_OFFSETS = (64 * 1024, 128 * 1024)
HEADER_BYTES = 4096
REGION_TABLE_OFFSETS = (192 * 1024, 256 * 1024)
REGION_TABLE_BYTES = 64 * 1024
MAX_ENTRIES = 2047  # of a region table, and of the metadata table

_HEADER = Struct("<4sIQ16s16s16sHHIQ")
_TABLE = Struct("<4sIII")
_ENTRY = Struct("<16sQII")

BAT_GUID = "2dc27766-f623-4200-9d64-115e9bfd4a08"
METADATA_GUID = "8b7ca206-4790-4b9a-b8fe-575f050f886e"
_REGION_NAMES = {BAT_GUID: "BAT", METADATA_GUID: "metadata"}


@dataclass(frozen=True, slots=True)
class Headers:
    """Both copies: which are valid, the current one, and where it lies."""

    valid: tuple[bool, bool]
    current: HeaderFacts
    offset_bytes: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Regions:
    """The region table in use, and which of its copies are valid."""

    valid: tuple[bool, bool]
    regions: tuple[RegionFacts, ...]
    warnings: tuple[str, ...]

    def named(self, name: str) -> RegionFacts:
        """The BAT or the metadata region; both are always there."""
        return next(region for region in self.regions if region.name == name)


def checksum_fault(data: bytes, signature: bytes) -> str | None:
    """What is wrong with the signature or the CRC-32C that a header, region table or log entry begins with."""
    if data[:4] != signature:
        return f"its signature is {data[:4]!r} instead of {signature!r}"
    stated = int.from_bytes(data[4:8], "little")
    actual = crc32c(data[8:], crc32c(data[:4] + bytes(4)))
    return None if stated == actual else f"its checksum is {stated:#010x}, and its content gives {actual:#010x}"


def read_creator(file_size_bytes: int) -> Step[str]:
    """Who says to have made the file (MS-VHDX §2.2.1)."""
    data = yield from read_raw(file_size_bytes, len(SIGNATURE), 512, "file type identifier")
    return data.decode("utf-16-le", "replace").split("\0")[0]


def read_headers(file_size_bytes: int) -> Step[Headers]:
    """Read both headers and choose the current one (MS-VHDX §2.2.2). DamagedVhdxError if there is none."""
    copies: list[HeaderFacts | str] = []
    raw: list[bytes] = []
    for number, offset in enumerate(HEADER_OFFSETS, 1):
        data = yield from read_raw(file_size_bytes, offset, HEADER_BYTES, f"header {number}")
        raw.append(data)
        copies.append(checksum_fault(data, b"head") or _header(data))
    warnings = [
        f"header {number} at byte {offset} is damaged: {copy}"
        for number, offset, copy in zip((1, 2), HEADER_OFFSETS, copies, strict=True)
        if isinstance(copy, str)
    ]
    valid = {index: copy for index, copy in enumerate(copies) if isinstance(copy, HeaderFacts)}
    if not valid:
        raise DamagedVhdxError("header 1", HEADER_OFFSETS[0], f"{copies[0]}; header 2 is no better: {copies[1]}")
    if len(valid) == 2 and valid[0].sequence_number == valid[1].sequence_number:
        if raw[0] != raw[1]:
            raise DamagedVhdxError(
                "header 2", HEADER_OFFSETS[1],
                f"both headers have the sequence number {valid[0].sequence_number}, and they differ",
            )  # fmt: skip
        warnings.append("both headers are the same, sequence number included (Disk2vhd makes such files)")
    index = max(valid, key=lambda i: valid[i].sequence_number)
    current = valid[index]
    _check_header(current, HEADER_OFFSETS[index], f"header {index + 1}", file_size_bytes)
    return Headers((0 in valid, 1 in valid), current, HEADER_OFFSETS[index], tuple(warnings))


def _header(data: bytes) -> HeaderFacts:
    _, _, sequence, file_write, data_write, log, log_version, version, length, offset = _HEADER.unpack_from(data)
    return HeaderFacts(
        sequence_number=sequence, file_write_guid=guid(file_write), data_write_guid=guid(data_write),
        log_guid=guid(log) if any(log) else None, log_version=log_version, version=version,
        log_offset_bytes=offset, log_length_bytes=length,
    )  # fmt: skip


def _check_header(header: HeaderFacts, at: int, name: str, file_size_bytes: int) -> None:
    def refuse(reason: str) -> DamagedVhdxError:
        return DamagedVhdxError(name, at, reason)

    if header.version != 1:
        raise refuse(f"its version is {header.version}, and only 1 is defined")
    if header.log_guid is not None and header.log_version != 0:
        raise refuse(f"its log version is {header.log_version}, and only 0 is defined")
    offset, length = header.log_offset_bytes, header.log_length_bytes
    if offset % MIB or length % MIB or (length and offset < MIB):
        raise refuse(f"the log of {length} bytes at {offset} is not made of whole MiB behind the first one")
    if length and offset + length > file_size_bytes:
        raise refuse(f"the log of {length} bytes at {offset} ends beyond the file's {file_size_bytes} bytes")
    if not length and header.log_guid is not None:
        raise refuse("it names a log to replay and gives it no room")


def read_regions(view: View, header: HeaderFacts) -> Step[Regions]:
    """Read both region tables, take the first valid one (MS-VHDX §2.2.3), and check where its regions lie.

    DamagedVhdxError if neither copy is valid; if a required region is unknown; if the BAT or the metadata is
    missing; if a region occurs twice, is misaligned, lies outside the file, or overlaps another one, the log
    or the header section.
    """
    faults: list[str | None] = []
    raw: list[bytes] = []
    for number, offset in enumerate(REGION_TABLE_OFFSETS, 1):
        data = yield from read(view, offset, REGION_TABLE_BYTES, f"region table {number}")
        count = int.from_bytes(data[8:12], "little")
        fault = checksum_fault(data, b"regi")
        if not fault and count > MAX_ENTRIES:
            fault = f"it counts {count} entries, and {MAX_ENTRIES} is the most"
        raw.append(data)
        faults.append(fault)
    if None not in faults:
        raise DamagedVhdxError(
            "region table 1", REGION_TABLE_OFFSETS[0], f"{faults[0]}; region table 2 is no better: {faults[1]}"
        )
    warnings = [
        f"region table {number} at byte {offset} is damaged: {fault}"
        for number, offset, fault in zip((1, 2), REGION_TABLE_OFFSETS, faults, strict=True)
        if fault
    ]
    if not warnings and raw[0] != raw[1]:
        warnings.append("the two region tables differ; the first is used")
    index = faults.index(None)
    regions = _regions(raw[index], REGION_TABLE_OFFSETS[index], f"region table {index + 1}", view.size_bytes)
    _check_overlaps(regions, header, REGION_TABLE_OFFSETS[index], f"region table {index + 1}")
    return Regions((faults[0] is None, faults[1] is None), regions, tuple(warnings))


def _regions(data: bytes, at: int, table: str, size_bytes: int) -> tuple[RegionFacts, ...]:
    def refuse(reason: str) -> DamagedVhdxError:
        return DamagedVhdxError(table, at + entry_at, reason)

    count = _TABLE.unpack_from(data)[2]
    regions: dict[str, RegionFacts] = {}
    entry_at = 0
    for index in range(count):
        entry_at = _TABLE.size + index * _ENTRY.size
        raw_guid, offset, length, flags = _ENTRY.unpack_from(data, entry_at)
        identifier = guid(raw_guid)
        name = _REGION_NAMES.get(identifier, identifier)
        if identifier in regions:
            raise refuse(f"the {name} region is listed twice")
        if name == identifier and flags & 1:
            raise refuse(f"the region {name} is marked as required, and nobody knows it")
        if offset % MIB or length % MIB or offset < MIB or not length:
            raise refuse(
                f"the {name} region of {length} bytes at {offset} is not made of whole MiB behind the first one"
            )
        if offset + length > size_bytes:
            raise refuse(f"the {name} region of {length} bytes at {offset} ends beyond the file's {size_bytes} bytes")
        regions[identifier] = RegionFacts(name, identifier, offset, length, bool(flags & 1))
    entry_at = 0
    for identifier, name in _REGION_NAMES.items():
        if identifier not in regions:
            raise refuse(f"the {name} region is missing")
    return tuple(regions.values())


def occupied(regions: tuple[RegionFacts, ...], header: HeaderFacts) -> list[tuple[int, int, str]]:
    """Where no block may lie: (start, end, name) of the header section, the log and the regions, sorted."""
    spans = [(0, MIB, "header section")]
    if header.log_length_bytes:
        spans.append((header.log_offset_bytes, header.log_offset_bytes + header.log_length_bytes, "log"))
    spans += [(r.offset_bytes, r.offset_bytes + r.length_bytes, f"{r.name} region") for r in regions]
    return sorted(spans)


def _check_overlaps(regions: tuple[RegionFacts, ...], header: HeaderFacts, at: int, table: str) -> None:
    spans = occupied(regions, header)
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end:
            raise DamagedVhdxError(table, at, f"the {name} and the {other} overlap at byte {start}")
