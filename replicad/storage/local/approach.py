"""A clone that most of is made before its file's writers have to stand still.

To clone a file takes time for each of its pieces, and all of its writers wait for all of that time. Here its parts are
cloned one by one, and writers wait for milliseconds. Then, over and over, the places of the file's bytes are compared
with those of the clone's, and what was written meanwhile is cloned again: what the clone shares with the file can't be
overwritten in place, so a part that lies at one place in both is the same in both. The last time the writers stand
still, and the clone is the file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from replicad.model.extent_maps import BLOCK_BYTES, ExtentMap, MappedExtent, differing
from replicad.model.extents import Extent, normalise

from . import fiemap

_PART_EXTENTS = 256
"""1.5 to 4 ms are needed to clone so many."""
_REST = 2.0
"""How many times as long as a part took its writers are left alone after it."""
_LONGEST_REST_S = 0.1


@dataclass(slots=True)
class _Part:
    """A range of the file, and how the clone's bytes of it lay when they were last looked at: None, nobody knows."""

    start: int
    end: int
    places: bytes | None = None
    plain: bool = False
    """Whether none of those places is doubtful."""
    alike: bytes | None = None
    """How the file's bytes lay when they were found to lie as the clone's do, holes and unwritten extents being one."""
    cloned: tuple[Extent, ...] = ()
    """What was cloned since."""

    @property
    def extent(self) -> Extent:
        return Extent(self.start, self.end - self.start)


class Approach:
    """One file and its clone to be, which is empty at first and nobody else's; both are given by their descriptors in
    each call. All calls block, and raise OSError or ValueError where it can't be done this way: start over, with a
    whole clone, then."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._size = 0

    def begin(self, source_fd: int, target_fd: int) -> None:
        """Clone all of it, part by part."""
        if os.fstatvfs(source_fd).f_bsize != BLOCK_BYTES:
            raise ValueError("parts of other blocks than those that are compared can't be cloned")
        self._size = os.fstat(source_fd).st_size
        os.ftruncate(target_fd, self._size)
        starts = sorted({e.offset_bytes for e in fiemap.extents(source_fd)[_PART_EXTENTS::_PART_EXTENTS]})
        starts = [0, *(start for start in starts if 0 < start < self._size and not start % BLOCK_BYTES)]
        self._parts = [_Part(a, b) for a, b in zip(starts, [*starts[1:], _whole(self._size)], strict=True)]
        for part in self._parts:
            began_s = time.monotonic()
            self._clone(source_fd, target_fd, part, (part.extent,))
            # To sync one record takes its writer several writes, and each of them may have to wait for a part.
            time.sleep(min(_REST * (time.monotonic() - began_s), _LONGEST_REST_S))
        self._look(target_fd)

    def catch_up(self, source_fd: int, target_fd: int) -> int:
        """Clone again what has changed since; how many ranges that were."""
        cloned = self._follow(source_fd, target_fd)
        self._look(target_fd)
        return cloned

    def finish(self, source_fd: int, target_fd: int) -> bool:
        """The same while writers stand still: on return the clone is the file. False if somebody wrote it meanwhile:
        then it may be no state that the file ever had."""
        before = os.fstat(source_fd)
        self._follow(source_fd, target_fd)
        after = os.fstat(source_fd)
        return all(getattr(before, name) == getattr(after, name) for name in ("st_size", "st_mtime_ns", "st_ctime_ns"))

    def has_held(self, target_fd: int) -> bool:
        """Asked after `finish`: whether the clone's bytes lay where they were believed to lie until then. A file system
        that moves them (balancing, defragmentation) may have given their old places to the file."""
        return all(_lies_still(part, fiemap.places(target_fd, part.start, part.end)) for part in self._parts)

    def _follow(self, source_fd: int, target_fd: int) -> int:
        size = os.fstat(source_fd).st_size
        if size != self._size:
            self._resize(target_fd, size)
        count = 0
        for part in self._parts:
            now = fiemap.places(source_fd, part.start, part.end)
            found = () if now == part.alike else _unlike(part, now)
            part.alike = None if found else now
            self._clone(source_fd, target_fd, part, found)
            count += len(found)
        return count

    def _clone(self, source_fd: int, target_fd: int, part: _Part, ranges: Sequence[Extent]) -> None:
        for extent in ranges:
            # The last block of a file is cloned with its end, wherever that is in it.
            length = 0 if extent.end_bytes >= self._size else extent.length_bytes
            if extent.offset_bytes < self._size:
                fiemap.clone_range(source_fd, target_fd, extent.offset_bytes, length)
        part.cloned = (*part.cloned, *ranges)

    def _look(self, target_fd: int) -> None:
        for part in self._parts:
            if part.cloned or part.places is None:
                part.places, part.cloned = fiemap.places(target_fd, part.start, part.end), ()
                part.plain = fiemap.are_plain(part.places)
                part.alike = part.places if part.plain else None

    def _resize(self, target_fd: int, size: int) -> None:
        """Parts end where the file ends; the one with the old or the new end is not known any more."""
        os.ftruncate(target_fd, size)
        whole, touched = _whole(size), min(self._size, size)
        self._size = size
        self._parts = [part for part in self._parts if part.start < whole] or [_Part(0, whole)]
        last = self._parts[-1]
        if last.end != whole or last.end > touched:
            self._parts[-1] = _Part(last.start, whole)


def _whole(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _unlike(part: _Part, now: bytes) -> tuple[Extent, ...]:
    """Where the file, whose bytes of a part lie so now, may differ from the clone."""
    if part.places is None:
        return (part.extent,)
    return _between(part, part.places, now)


def _between(part: _Part, before: bytes, after: bytes) -> tuple[Extent, ...]:
    """Where bytes that lay so and lie so may differ. Extents that are in both, and plain, are left out at once: to look
    at each would take longer than the file's writers should wait."""
    old, new = fiemap.records(before), fiemap.records(after)
    if part.plain:
        same = old & new
        old, new = old - same, new - same
    try:
        return tuple(differing(_map(part, old), _map(part, new)))
    except ValueError:
        return (part.extent,)


def _lies_still(part: _Part, now: bytes) -> bool:
    if part.places is None:
        return part.extent in part.cloned
    if now == part.places:
        return True
    known = normalise(part.cloned)
    return all(
        any(k.offset_bytes <= e.offset_bytes and e.end_bytes <= k.end_bytes for k in known)
        for e in _between(part, part.places, now)
    )


def _map(part: _Part, records: Collection[bytes]) -> ExtentMap:
    """The places of one part, as if there were nothing before it."""
    return ExtentMap(part.end, tuple(sorted(_cut(part, fiemap.extent_of(record)) for record in records)))


def _cut(part: _Part, extent: MappedExtent) -> MappedExtent:
    start, end = max(extent.offset_bytes, part.start), min(extent.end_bytes, part.end)
    return MappedExtent(start, extent.physical_bytes + start - extent.offset_bytes, end - start, extent.flags)
