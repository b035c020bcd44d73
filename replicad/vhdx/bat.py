"""The block allocation table (MS-VHDX §2.5), read in pieces of at most 1 MiB. Pure.

The table of a 64 TiB disk with blocks of 1 MiB has 512 MiB. No more than a piece of it is ever kept; which MiB of the
file are taken is kept as one byte each, in pages that exist only where blocks do.
"""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass

from .facts import BatFacts, DamagedVhdxError, RegionFacts
from .reading import MAX_READ_BYTES, MIB, Step, View, read

_ENTRY_BYTES = 8
_NOT_PRESENT, _UNDEFINED, _ZERO, _UNMAPPED, _FULLY_PRESENT, _PARTIALLY_PRESENT = 0, 1, 2, 3, 6, 7
_MAX_FILE_UNITS = 128 * MIB
"""128 TiB in MiB. A disk of 64 TiB needs no room beyond it, and it bounds the memory for what is taken to 128 MiB."""
_PAGE_UNITS = 64 * 1024
_STATE_OF_LOW_BYTE = bytes(value & 7 for value in range(256))
_PRESENT_OF_STATE = bytes(value in (_FULLY_PRESENT, _PARTIALLY_PRESENT) for value in range(256))


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the table is laid out: after every `chunk_ratio` payload entries comes one for their sector bitmap."""

    virtual_bytes: int
    payload_blocks: int
    chunk_ratio: int
    entries: int
    block_bytes: int
    differencing: bool

    @property
    def last_block_units(self) -> int:
        """How many MiB of the last block the disk has a use for: QEMU cuts fixed disks there."""
        used_bytes = self.virtual_bytes - (self.payload_blocks - 1) * self.block_bytes
        return -(-used_bytes // MIB)

    @property
    def chunk_bytes(self) -> int:
        """The table's length for one chunk: at least 136 bytes, at most 256 KiB and 8 bytes."""
        return (self.chunk_ratio + 1) * _ENTRY_BYTES


def geometry(virtual_size_bytes: int, block_bytes: int, logical_sector_bytes: int, *, differencing: bool) -> Geometry:
    """The layout of the table of such a disk (MS-VHDX §2.5)."""
    ratio = (1 << 23) * logical_sector_bytes // block_bytes
    blocks = -(-virtual_size_bytes // block_bytes)
    entries = -(-blocks // ratio) * (ratio + 1) if differencing else blocks + max(blocks - 1, 0) // ratio
    return Geometry(virtual_size_bytes, blocks, ratio, entries, block_bytes, differencing)


def read_bat(
    view: View, region: RegionFacts, layout: Geometry, occupied: list[tuple[int, int, str]]
) -> Step[tuple[BatFacts, tuple[str, ...]]]:
    """Read and check the whole table; the counts, and warnings.

    DamagedVhdxError if the region is too short for the table; if a state or a reserved bit is not allowed; if a present
    block or sector bitmap lies outside the file, in one of the `occupied` places or upon another one; or if a
    partially present block has no sector bitmap. Of the last block only the part counts that the disk uses.
    """
    if layout.entries * _ENTRY_BYTES > region.length_bytes:
        raise DamagedVhdxError(
            "BAT", region.offset_bytes,
            f"it needs {layout.entries} entries, and its region of {region.length_bytes} bytes has no room for them",
        )  # fmt: skip
    reader = _Reader(view, region, layout, occupied)
    piece_bytes = MAX_READ_BYTES // layout.chunk_bytes * layout.chunk_bytes  # whole chunks
    table_bytes = layout.entries * _ENTRY_BYTES
    for start in range(0, table_bytes, piece_bytes):
        size = min(piece_bytes, table_bytes - start)
        piece = yield from read(view, region.offset_bytes + start, size, "BAT")
        reader.take(start // _ENTRY_BYTES, piece)
    return reader.facts(), reader.warnings()


class _Reader:
    """What has been seen of one table so far."""

    def __init__(self, view: View, region: RegionFacts, layout: Geometry, occupied: list[tuple[int, int, str]]) -> None:
        self.view, self.region, self.layout, self.occupied = view, region, layout, occupied
        self.counts = [0] * 8
        self.bitmaps = 0
        self.odd_bitmaps = 0
        self.taken = _Taken()
        for start, end, _ in occupied:
            if start < _MAX_FILE_UNITS * MIB:
                self.taken.claim(start // MIB, min(end // MIB, _MAX_FILE_UNITS) - start // MIB)

    def take(self, first_entry: int, piece: bytes) -> None:
        """Count and check a piece of whole chunks (the last one may be cut short)."""
        ratio, chunk = self.layout.chunk_ratio, self.layout.chunk_ratio + 1
        first_block = first_entry // chunk * ratio
        low = bytearray(piece[0::_ENTRY_BYTES])
        bitmaps = len(low[ratio::chunk])
        if piece.count(0) == len(piece):  # most of the table of most disks
            blocks = len(low) - bitmaps
            self.counts[_NOT_PRESENT] += min(blocks, self.layout.payload_blocks - first_block)
            return
        entries = array("Q", piece)
        if sys.byteorder == "big":
            entries.byteswap()
        bitmap_entries = entries[ratio::chunk]
        del low[ratio::chunk], entries[ratio::chunk]
        # The last chunk of a differencing disk has entries for blocks beyond the disk's end: they mean nothing.
        del low[self.layout.payload_blocks - first_block :], entries[self.layout.payload_blocks - first_block :]
        states = low.translate(_STATE_OF_LOW_BYTE)
        self._check_payload(first_block, states, entries)
        for index, entry in enumerate(bitmap_entries):
            partial = states.find(_PARTIALLY_PRESENT, index * ratio, (index + 1) * ratio)
            self._check_bitmap(first_block // ratio + index, entry, None if partial < 0 else first_block + partial)

    def _check_payload(self, first_block: int, states: bytearray, entries: array[int]) -> None:
        for state in range(8):
            self.counts[state] += states.count(state)
        allowed = (0, 1, 2, 3, 6, 7) if self.layout.differencing else (0, 1, 2, 3, 6)
        for state in {*states}.difference(allowed):
            raise self._refuse(first_block + states.index(state), f"the state {state} is not allowed here")
        if any(map(0xFFFF8.__and__, entries)):
            index = next(i for i, entry in enumerate(entries) if entry & 0xFFFF8)
            raise self._refuse(first_block + index, f"the reserved bits of {entries[index]:#018x} are not 0")
        units = self.layout.block_bytes // MIB
        present = states.translate(_PRESENT_OF_STATE)
        index = present.find(1)
        while index >= 0:
            block = first_block + index
            last = block == self.layout.payload_blocks - 1
            self._place(entries[index] >> 20, self.layout.last_block_units if last else units, block)
            index = present.find(1, index + 1)

    def _check_bitmap(self, chunk: int, entry: int, partial_block: int | None) -> None:
        if not self.layout.differencing:
            self.odd_bitmaps += entry != 0
            return
        block = chunk * self.layout.chunk_ratio
        if entry & 7 not in (_NOT_PRESENT, _FULLY_PRESENT) or entry & 0xFFFF8:
            raise self._refuse(block, f"the entry {entry:#018x} is none of a sector bitmap", bitmap=True)
        if entry & 7 == _FULLY_PRESENT:
            self.bitmaps += 1
            self._place(entry >> 20, 1, block, bitmap=True)
        elif partial_block is not None:
            raise self._refuse(
                block, f"block {partial_block} is partially present and has no sector bitmap", bitmap=True
            )

    def _place(self, unit: int, units: int, block: int, *, bitmap: bool = False) -> None:
        """Note that a block takes these MiB of the file."""
        start, end = unit * MIB, (unit + units) * MIB
        if end > self.view.size_bytes:
            raise self._refuse(
                block, f"bytes {start} to {end} lie outside of the file's {self.view.size_bytes} bytes", bitmap=bitmap
            )
        if unit + units > _MAX_FILE_UNITS:
            raise self._refuse(block, f"bytes {start} to {end} lie beyond the first 128 TiB of the file", bitmap=bitmap)
        if not self.taken.claim(unit, units):
            other = next((name for low, high, name in self.occupied if low < end and start < high), "another block")
            what = f"the {other}" if other != "another block" else other
            raise self._refuse(block, f"bytes {start} to {end} overlap {what}", bitmap=bitmap)

    def _refuse(self, block: int, reason: str, *, bitmap: bool = False) -> DamagedVhdxError:
        ratio = self.layout.chunk_ratio
        entry = block // ratio * (ratio + 1) + (ratio if bitmap else block % ratio)
        what = f"sector bitmap of chunk {block // ratio}" if bitmap else f"block {block}"
        return DamagedVhdxError(f"BAT entry {entry} ({what})", self.region.offset_bytes + entry * _ENTRY_BYTES, reason)

    def facts(self) -> BatFacts:
        """The counts."""
        present = self.counts[_FULLY_PRESENT] + self.counts[_PARTIALLY_PRESENT]
        return BatFacts(
            entries=self.layout.entries,
            not_present=self.counts[_NOT_PRESENT], undefined=self.counts[_UNDEFINED],
            zero=self.counts[_ZERO], unmapped=self.counts[_UNMAPPED],
            fully_present=self.counts[_FULLY_PRESENT], partially_present=self.counts[_PARTIALLY_PRESENT],
            sector_bitmaps_present=self.bitmaps,
            allocated_bytes=present * self.layout.block_bytes + self.bitmaps * MIB,
        )  # fmt: skip

    def warnings(self) -> tuple[str, ...]:
        """What is not as it should be without putting data in doubt."""
        if not self.odd_bitmaps:
            return ()
        return (
            f"{self.odd_bitmaps} sector-bitmap entries of the BAT are in use though the disk has no parent "
            "(older versions of QEMU make such files); they are ignored",
        )


class _Taken:
    """Which MiB of the file are taken: a byte each, in pages."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}

    def claim(self, unit: int, units: int) -> bool:
        """Take `units` MiB from `unit` on; False, if one of them was taken before."""
        free = True
        while units > 0:
            number, low = divmod(unit, _PAGE_UNITS)
            high = min(low + units, _PAGE_UNITS)
            page = self.pages.get(number)
            if page is None:
                page = self.pages[number] = bytearray(_PAGE_UNITS)
            free = free and page.find(1, low, high) < 0
            page[low:high] = b"\1" * (high - low)
            unit, units = unit + high - low, units - (high - low)
        return free
