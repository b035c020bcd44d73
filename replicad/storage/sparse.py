"""The content of one file of the in-memory share: sparse, and able to forget what was never flushed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from random import Random

from replicad.model.errors import OutOfSpaceError
from replicad.model.extents import Extent, clip, normalise

PAGE_BYTES = 64 * 1024
SECTOR_BYTES = 512
"""What reaches a storage medium whole or not at all."""
_ZEROS = bytes(PAGE_BYTES)


@dataclass(slots=True)
class Room:
    """The pages of one share: how many are in use, and how many there may be (None: no limit)."""

    used_pages: int = 0
    most_pages: int | None = None

    def take(self) -> None:
        """Take one page. OutOfSpaceError if none is left."""
        if self.most_pages is not None and self.used_pages >= self.most_pages:
            raise OutOfSpaceError("write", "the in-memory share", "no space is left", "Free some space.")
        self.used_pages += 1

    def give(self, pages: int) -> None:
        """Give pages back."""
        self.used_pages -= pages


class SparseBytes:
    """A growing array of bytes in pages; a page that is missing reads as zeros.

    With `volatile`, it remembers the state at the last `flush` and what each page and the size have been since. Pages
    are immutable, so that all of these share what has not changed, and are kept without the zeros at their end: a share
    of many small files takes no more memory than they do. Bytes of a page beyond the size are always zero.
    """

    def __init__(self, room: Room, *, volatile: bool) -> None:
        self.size = 0
        self.pages: dict[int, bytes] = {}
        self._room = room
        self._volatile = volatile
        self._durable_size = 0
        self._durable_pages: dict[int, bytes] = {}
        self._unflushed: dict[int, list[bytes | None]] = {}
        self._unflushed_sizes: list[int] = []

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset`; the number of bytes that lie below the size."""
        count = max(0, min(len(view), self.size - offset))
        done = 0
        while done < count:
            index, start = divmod(offset + done, PAGE_BYTES)
            length = min(PAGE_BYTES - start, count - done)
            part = memoryview(self.pages.get(index, b""))[start : start + length]
            view[done : done + len(part)] = part
            view[done + len(part) : done + length] = memoryview(_ZEROS)[: length - len(part)]
            done += length
        return count

    def write(self, data: memoryview, offset: int) -> None:
        """Write page by page; when the room is used up the pages before that stay written."""
        done = 0
        while done < len(data):
            index, start = divmod(offset + done, PAGE_BYTES)
            length = min(PAGE_BYTES - start, len(data) - done)
            self._patch(index, start, data[done : done + length])
            done += length
            self._resize(max(self.size, offset + done))

    def zero(self, offset: int, length: int, *, free: bool) -> None:
        """Make the range read as zeros; whole pages are dropped if `free`, else written with zeros."""
        end = min(offset + length, self.size)
        if free:
            whole_end = end // PAGE_BYTES if end < self.size else -(-end // PAGE_BYTES)
            whole = range(-(-offset // PAGE_BYTES), whole_end)
            # A hole of terabytes must not cost a step a page.
            indices = list(whole) if len(whole) < len(self.pages) else [i for i in self.pages if i in whole]
            for index in indices:
                self._drop(index)
        position = offset
        while position < end:
            index, start = divmod(position, PAGE_BYTES)
            if free and index in whole:
                position = whole.stop * PAGE_BYTES
                continue
            step = min(PAGE_BYTES - start, end - position)
            if index in self.pages or not free:
                self._patch(index, start, memoryview(_ZEROS)[:step])
            position += step

    def set_size(self, size: int) -> None:
        """Cut or grow with zeros."""
        self._cut(size)
        self._resize(size)

    def extents(self) -> list[Extent]:
        """The pages that are there, as a normal sequence below the size."""
        return clip(normalise(Extent(i * PAGE_BYTES, PAGE_BYTES) for i in self.pages), self.size)

    def flush(self) -> None:
        """Make the present state the one that a crash leaves."""
        for index in self._unflushed:
            if index in self.pages:
                self._durable_pages[index] = self.pages[index]
            else:
                self._durable_pages.pop(index, None)
        self._durable_size = self.size
        self._unflushed.clear()
        self._unflushed_sizes.clear()

    def crash(self, luck: Random | None) -> None:
        """Go back to the last flush; with `luck`, each sector may hold anything that it has held since then, and the
        size may be any that it has been, whatever was written in which order."""
        self.pages = dict(self._durable_pages)
        self.size = self._durable_size
        if luck is not None:
            self.size = luck.choice((self._durable_size, *self._unflushed_sizes))
            for index, versions in sorted(self._unflushed.items()):
                page = _survivor([self._durable_pages.get(index), *versions], luck)
                if page is None:
                    self.pages.pop(index, None)
                else:
                    self.pages[index] = page
        self._cut(self.size)
        self._durable_pages, self._durable_size = dict(self.pages), self.size
        self._unflushed.clear()
        self._unflushed_sizes.clear()

    def _resize(self, size: int) -> None:
        if self._volatile and size != self.size:
            self._unflushed_sizes.append(size)
        self.size = size

    def _patch(self, index: int, start: int, data: memoryview) -> None:
        old = self.pages.get(index)
        if old is None:
            self._room.take()
            old = b""
        self.pages[index] = b"".join((old[:start].ljust(start, b"\0"), data, old[start + len(data) :])).rstrip(b"\0")
        self._touch(index)

    def _drop(self, index: int) -> None:
        if self.pages.pop(index, None) is not None:
            self._room.give(1)
            self._touch(index)

    def _touch(self, index: int) -> None:
        if self._volatile:
            self._unflushed.setdefault(index, []).append(self.pages.get(index))

    def _cut(self, size: int) -> None:
        last, tail = divmod(size, PAGE_BYTES)
        for index in [i for i in self.pages if i > last or (i == last and tail == 0)]:
            self._drop(index)
        if last in self.pages and any(self.pages[last][tail:]):
            self._patch(last, tail, memoryview(_ZEROS)[tail:])


def _survivor(versions: list[bytes | None], luck: Random) -> bytes | None:
    """What is left of a page that has had these versions, the durable one first: mostly one of them, else stretches of
    sectors from several."""
    if luck.random() < 0.7:
        return luck.choice(versions)
    cuts = sorted(luck.sample(range(SECTOR_BYTES, PAGE_BYTES, SECTOR_BYTES), luck.randint(1, 4)))
    parts = []
    for start, end in pairwise((0, *cuts, PAGE_BYTES)):
        version = luck.choice(versions)
        parts.append((version or b"")[start:end].ljust(end - start, b"\0"))
    return b"".join(parts).rstrip(b"\0")
