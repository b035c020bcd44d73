"""Reading a VHDX file from its first byte to its verdict. Pure: see `reading` for how it asks for bytes."""

from __future__ import annotations

from .bat import geometry, read_bat
from .facts import BatFacts, DamagedVhdxError, Kind, NotVhdx, VhdxFacts
from .headers import (
    HEADER_BYTES,
    HEADER_OFFSETS,
    SIGNATURE,
    checksum_fault,
    occupied,
    read_creator,
    read_headers,
    read_regions,
)
from .log import read_log
from .metadata import read_metadata
from .reading import MIB, Step, read_raw
from .vhd import FOOTER_BYTES, parse_footer

_STRUCTURE_LOG_BYTES = MIB


def parse(file_size_bytes: int) -> Step[VhdxFacts | NotVhdx]:
    """Read and check everything but the blocks themselves; the log's updates are taken as replayed.

    Raises DamagedVhdxError if the file is a VHDX and is damaged, UnsupportedError if its log must be replayed and is
    longer than 64 MiB. The work and memory are bounded by the size of the file and by the limits of MS-VHDX.
    """
    return (yield from _parse(file_size_bytes, with_bat=True))


def check_structure(file_size_bytes: int) -> Step[VhdxFacts | NotVhdx]:
    """Read and check everything but the BAT and the blocks: at most 3.5 MiB, and 0.2 MiB if the log is clean.

    A log longer than 1 MiB is said to need a replay without being looked at. Raises DamagedVhdxError as `parse` does.
    """
    return (yield from _parse(file_size_bytes, with_bat=False))


def _parse(file_size_bytes: int, *, with_bat: bool) -> Step[VhdxFacts | NotVhdx]:
    other = yield from _identify(file_size_bytes)
    if other is not None:
        return other
    creator = yield from read_creator(file_size_bytes)
    headers = yield from read_headers(file_size_bytes)
    header = headers.current
    log, view, log_warnings = yield from read_log(file_size_bytes, header, None if with_bat else _STRUCTURE_LOG_BYTES)
    table = yield from read_regions(view, header)
    metadata = yield from read_metadata(view, table.named("metadata"))
    warnings = headers.warnings + log_warnings + table.warnings + metadata.warnings
    bat: BatFacts | None = None
    if with_bat:
        layout = geometry(
            metadata.virtual_size_bytes, metadata.block_size_bytes, metadata.logical_sector_bytes,
            differencing=metadata.kind is Kind.DIFFERENCING,
        )  # fmt: skip
        bat, more = yield from read_bat(view, table.named("BAT"), layout, occupied(table.regions, header))
        warnings += more
    return VhdxFacts(
        creator=creator, file_size_bytes=file_size_bytes, kind=metadata.kind,
        virtual_size_bytes=metadata.virtual_size_bytes, block_size_bytes=metadata.block_size_bytes,
        logical_sector_bytes=metadata.logical_sector_bytes, physical_sector_bytes=metadata.physical_sector_bytes,
        disk_id=metadata.disk_id, header=header, header_copies_valid=headers.valid,
        region_tables_valid=table.valid, regions=table.regions, log=log,
        parent_locator=metadata.parent_locator, bat=bat, warnings=warnings,
    )  # fmt: skip


def _identify(file_size_bytes: int) -> Step[NotVhdx | None]:
    """None if the file is a VHDX. DamagedVhdxError if only its signature is gone."""
    if not file_size_bytes:
        return NotVhdx(0, "it is empty")
    start = yield from read_raw(file_size_bytes, 0, min(file_size_bytes, len(SIGNATURE)), "file type identifier")
    if start == SIGNATURE:
        return None
    for offset in HEADER_OFFSETS:
        if offset + HEADER_BYTES <= file_size_bytes:
            header = yield from read_raw(file_size_bytes, offset, HEADER_BYTES, "header")
            if checksum_fault(header, b"head") is None:
                raise DamagedVhdxError(
                    "file type identifier", 0,
                    f"its signature is {start!r} instead of {SIGNATURE!r}, though the header at byte {offset} is good",
                )  # fmt: skip
    if file_size_bytes >= FOOTER_BYTES:
        footer = yield from read_raw(file_size_bytes, file_size_bytes - FOOTER_BYTES, FOOTER_BYTES, "footer")
        vhd = parse_footer(footer)
        if vhd is not None:
            return NotVhdx(file_size_bytes, f"it is a {vhd.kind.value} disk in the older VHD format", vhd)
        copy = yield from read_raw(file_size_bytes, 0, FOOTER_BYTES, "footer")
        vhd = parse_footer(copy)
        if vhd is not None:
            return NotVhdx(file_size_bytes, f"it is a {vhd.kind.value} disk in the older VHD format, cut short", vhd)
    return NotVhdx(file_size_bytes, f"it begins with {start!r} instead of {SIGNATURE!r}")
