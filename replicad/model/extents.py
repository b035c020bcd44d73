"""Byte ranges of a disk file. Pure.

A *normal* sequence of extents is sorted by offset, without empty, touching or overlapping members.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """The bytes [offset_bytes, offset_bytes + length_bytes) of one file."""

    offset_bytes: int
    length_bytes: int

    def __post_init__(self) -> None:
        if self.offset_bytes < 0 or self.length_bytes < 0:
            raise ValueError(f"an extent needs an offset and a length of 0 or more, got {self!r}")

    @property
    def end_bytes(self) -> int:
        """The offset of the first byte after the extent."""
        return self.offset_bytes + self.length_bytes


def normalise(extents: Iterable[Extent]) -> list[Extent]:
    """The normal sequence that covers the same bytes."""
    result: list[Extent] = []
    for extent in sorted(e for e in extents if e.length_bytes):
        if result and extent.offset_bytes <= result[-1].end_bytes:
            last = result[-1]
            if extent.end_bytes > last.end_bytes:
                result[-1] = Extent(last.offset_bytes, extent.end_bytes - last.offset_bytes)
        else:
            result.append(extent)
    return result


def clip(extents: Iterable[Extent], size_bytes: int) -> list[Extent]:
    """The parts of `extents` that lie below `size_bytes`, in the given order."""
    return [
        Extent(e.offset_bytes, min(e.end_bytes, size_bytes) - e.offset_bytes)
        for e in extents
        if e.offset_bytes < size_bytes and e.length_bytes
    ]


def widen(extents: Iterable[Extent], unit_bytes: int, size_bytes: int) -> list[Extent]:
    """The normal sequence of whole units (the last one cut at `size_bytes`) that touch `extents`."""
    return clip(
        normalise(
            Extent(
                start := e.offset_bytes // unit_bytes * unit_bytes,
                -(-e.end_bytes // unit_bytes) * unit_bytes - start,
            )
            for e in extents
            if e.length_bytes
        ),
        size_bytes,
    )


def gaps(extents: Iterable[Extent], size_bytes: int) -> list[Extent]:
    """What a normal sequence leaves uncovered in [0, size_bytes)."""
    result: list[Extent] = []
    position = 0
    for extent in clip(extents, size_bytes):
        if extent.offset_bytes > position:
            result.append(Extent(position, extent.offset_bytes - position))
        position = extent.end_bytes
    if position < size_bytes:
        result.append(Extent(position, size_bytes - position))
    return result


def total_bytes(extents: Iterable[Extent]) -> int:
    """The sum of the lengths."""
    return sum(e.length_bytes for e in extents)


def split(extent: Extent, piece_bytes: int) -> Iterator[Extent]:
    """`extent` in pieces that end at multiples of `piece_bytes` (and at its own end)."""
    position = extent.offset_bytes
    while position < extent.end_bytes:
        end = min((position // piece_bytes + 1) * piece_bytes, extent.end_bytes)
        yield Extent(position, end - position)
        position = end
