"""Where the bytes of a file lie on its file system, and what two files on it are certain to have in common. Pure.

A block that two files share is copied before either of them is written, so bytes at one physical place, seen at one
time, are the same bytes. Whatever is less clear than that counts as different.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

from .extents import Extent, clip, normalise, widen

BLOCK_BYTES = 4096
"""What file systems map is no finer than that, and no coarser near a file's end."""


class MapFlag(IntFlag):
    """What a file system says of an extent, by the numbers of Linux' FIEMAP."""

    LAST = 0x1
    UNKNOWN = 0x2
    DELAYED = 0x4
    ENCODED = 0x8
    ENCRYPTED = 0x80
    NOT_ALIGNED = 0x100
    INLINE = 0x200
    TAIL = 0x400
    UNWRITTEN = 0x800
    MERGED = 0x1000
    SHARED = 0x2000


_PLAIN = MapFlag.LAST | MapFlag.UNWRITTEN | MapFlag.MERGED | MapFlag.SHARED


class MappedExtent(NamedTuple):
    """`length_bytes` from `offset_bytes` of a file, which lie at `physical_bytes`. `flags` are those of `MapFlag`, and
    any that are not known here."""

    offset_bytes: int
    physical_bytes: int
    length_bytes: int
    flags: int

    @property
    def end_bytes(self) -> int:
        """The offset of the first byte after it."""
        return self.offset_bytes + self.length_bytes

    @property
    def is_doubtful(self) -> bool:
        """Whether its place tells nothing: it may be shared by other bytes, or change with no write (compressed,
        delayed, inline and unaligned extents, and those with a flag that is not known here)."""
        return bool(self.flags & ~_PLAIN)

    @property
    def is_zeros(self) -> bool:
        """Whether it reads as zeros, as what no extent covers does."""
        return self.flags & ~(_PLAIN & ~MapFlag.UNWRITTEN) == MapFlag.UNWRITTEN


@dataclass(frozen=True, slots=True)
class ExtentMap:
    """A file's extents, in ascending order; what they leave out reads as zeros. Some may lie beyond `size_bytes`.

    ValueError if they overlap, are out of order or empty: then the file changed while they were read.
    """

    size_bytes: int
    extents: tuple[MappedExtent, ...]

    def __post_init__(self) -> None:
        position = 0
        for extent in self.extents:
            if extent.offset_bytes < position or extent.length_bytes <= 0:
                raise ValueError(f"{extent} does not follow what ends at {position}")
            position = extent.end_bytes


def differing(before: ExtentMap, after: ExtentMap) -> list[Extent]:
    """Where the file of `after` may hold other bytes than that of `before`: a normal sequence of whole blocks (the last
    one cut at its size). Both files must have been there while the maps were read."""
    found = list(_unlike(before, after, after.size_bytes, doubt_is_alike=False))
    if before.size_bytes != after.size_bytes:
        smaller = min(before.size_bytes, after.size_bytes)
        found.append(Extent(smaller // BLOCK_BYTES * BLOCK_BYTES, BLOCK_BYTES))
    return normalise(clip(widen(found, BLOCK_BYTES, after.size_bytes), after.size_bytes))


def has_moved(before: ExtentMap, after: ExtentMap) -> bool:
    """Whether two maps of one file, read one after the other, put any of its bytes at different places. What was
    doubtful both times is left out: it is taken for different anyway."""
    if before.size_bytes != after.size_bytes:
        return True
    return next(_unlike(before, after, after.size_bytes, doubt_is_alike=True), None) is not None


def unshared_bytes(extents: ExtentMap) -> int:
    """How much room the file takes that no other file has a share in: what its removal gives back."""
    return sum(extent.length_bytes for extent in extents.extents if not extent.flags & MapFlag.SHARED)


_Place = int | str | None
"""Where bytes lie: their physical place less their offset; None for zeros."""
_DOUBT = "doubt"


def _unlike(before: ExtentMap, after: ExtentMap, size_bytes: int, *, doubt_is_alike: bool) -> Iterator[Extent]:
    old, new = _places(before), _places(after)
    old_until, old_place = next(old)
    new_until, new_place = next(new)
    position = 0
    while position < size_bytes:
        until = min(old_until, new_until, size_bytes)
        doubtful = not doubt_is_alike and _DOUBT in (old_place, new_place)
        if until > position and (doubtful or old_place != new_place):
            yield Extent(position, until - position)
        position = until
        if old_until == position:
            old_until, old_place = next(old, (size_bytes + 1, None))
        if new_until == position:
            new_until, new_place = next(new, (size_bytes + 1, None))


def _places(extents: ExtentMap) -> Iterator[tuple[int, _Place]]:
    """Where each part lies and where it ends, in ascending order; zeros without end come last.

    The block that holds the file's end counts whole: what lies there beyond the end is kept zero.
    """
    end = -(-extents.size_bytes // BLOCK_BYTES) * BLOCK_BYTES
    position = 0
    for extent in extents.extents:
        if extent.offset_bytes >= end:
            break
        if extent.offset_bytes > position:
            yield extent.offset_bytes, None
        position = min(extent.end_bytes, end)
        if extent.is_doubtful:
            yield position, _DOUBT
        elif extent.is_zeros:
            yield position, None
        else:
            yield position, extent.physical_bytes - extent.offset_bytes
    yield 1 << 63, None
