"""The manifest: the hashes of all chunks of one disk at one point. Pure.

A hash has 16 bytes. The hash of a chunk that is all zeros, whatever its length, is written as 16 zero bytes, so that
what was never written costs nothing: hashes are kept in pages of 256, and a page of zeros is not kept at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .chunks import chunk_count

HASH_BYTES = 16
PAGE_HASHES = 256
PAGE_BYTES = PAGE_HASHES * HASH_BYTES
ZERO_HASH = bytes(HASH_BYTES)
ZERO_PAGE = bytes(PAGE_BYTES)
"""A page of chunks that are all zeros."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Immutable; two manifests may share pages.

    `pages` maps a page's number to its 4096 bytes; pages that are left out are zeros, and no page kept is all zeros.
    Hashes beyond the last chunk are zeros. `digests` are those of pages as its file has them, where they are known.
    """

    chunk_bytes: int
    size_bytes: int
    pages: Mapping[int, bytes] = field(default_factory=lambda: MappingProxyType({}))
    digests: Mapping[int, bytes] = field(default_factory=lambda: MappingProxyType({}), compare=False, repr=False)

    @property
    def chunks(self) -> int:
        """How many chunks the disk has."""
        return chunk_count(self.size_bytes, self.chunk_bytes)

    @property
    def page_count(self) -> int:
        """How many pages the manifest has, those of zeros included."""
        return -(-self.chunks // PAGE_HASHES)

    def hash_of(self, index: int) -> bytes:
        """The hash of one chunk; the zero hash beyond the end."""
        page = self.pages.get(index // PAGE_HASHES)
        if page is None:
            return ZERO_HASH
        start = index % PAGE_HASHES * HASH_BYTES
        return page[start : start + HASH_BYTES]

    def hashes(self, first: int, count: int) -> bytes:
        """The hashes of `count` chunks from `first` on, joined; zero hashes beyond the end."""
        parts: list[bytes] = []
        position, end = first, first + count
        while position < end:
            number, within = divmod(position, PAGE_HASHES)
            taken = min(PAGE_HASHES - within, end - position)
            page = self.pages.get(number, ZERO_PAGE)
            parts.append(page[within * HASH_BYTES : (within + taken) * HASH_BYTES])
            position += taken
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def nonzero_chunks(self, first: int, end: int) -> Iterator[int]:
        """The indices in [first, end) whose hash is not the zero hash, ascending; cost follows the pages kept."""
        if not self.pages or first >= end:
            return
        first_page, last_page = first // PAGE_HASHES, (end - 1) // PAGE_HASHES
        span = range(first_page, last_page + 1)
        numbers = (n for n in span if n in self.pages) if len(span) < len(self.pages) else sorted(self.pages)
        for number in numbers:
            if not first_page <= number <= last_page:
                continue
            page, base = self.pages[number], number * PAGE_HASHES
            for index in range(max(first, base), min(end, base + PAGE_HASHES)):
                start = (index - base) * HASH_BYTES
                if page[start : start + HASH_BYTES] != ZERO_HASH:
                    yield index


class ManifestEdit:
    """A manifest in the making: starts as a resized `base` and takes new hashes; `base` stays as it is."""

    def __init__(self, base: Manifest, size_bytes: int) -> None:
        self._base = base
        self._size_bytes = size_bytes
        self._chunks = chunk_count(size_bytes, base.chunk_bytes)
        self._edited: dict[int, bytearray] = {}
        if self._chunks < base.chunks:
            self._clear(self._chunks, base.chunks)

    def _clear(self, first: int, end: int) -> None:
        for index in list(self._base.nonzero_chunks(first, end)):
            self.put(index, ZERO_HASH)

    def put(self, first: int, hashes: bytes) -> None:
        """Set the hashes of the chunks from `first` on. Pages that already hold them are left alone."""
        position, taken_bytes = first, 0
        while taken_bytes < len(hashes):
            number, within = divmod(position, PAGE_HASHES)
            length = min(PAGE_BYTES - within * HASH_BYTES, len(hashes) - taken_bytes)
            start = within * HASH_BYTES
            piece = hashes[taken_bytes : taken_bytes + length]
            page = self._edited.get(number)
            current = page if page is not None else self._base.pages.get(number, ZERO_PAGE)
            if current[start : start + length] != piece:
                if page is None:
                    page = self._edited[number] = bytearray(current)
                page[start : start + length] = piece
            taken_bytes += length
            position += length // HASH_BYTES

    def hash_of(self, index: int) -> bytes:
        """The hash of one chunk as edited so far."""
        page = self._edited.get(index // PAGE_HASHES)
        if page is None:
            return self._base.hash_of(index)
        start = index % PAGE_HASHES * HASH_BYTES
        return bytes(page[start : start + HASH_BYTES])

    def hashes(self, first: int, count: int) -> bytes:
        """The hashes of `count` chunks from `first` on as edited so far, joined."""
        numbers = range(first // PAGE_HASHES, (first + count - 1) // PAGE_HASHES + 1)
        if not any(n in self._edited for n in numbers):
            return self._base.hashes(first, count)
        parts: list[bytes | bytearray] = []
        position, end = first, first + count
        while position < end:
            number, within = divmod(position, PAGE_HASHES)
            taken = min(PAGE_HASHES - within, end - position)
            page = self._edited.get(number) or self._base.pages.get(number, ZERO_PAGE)
            parts.append(page[within * HASH_BYTES : (within + taken) * HASH_BYTES])
            position += taken
        return b"".join(parts)

    def nonzero_chunks(self, first: int, end: int) -> Iterator[int]:
        """The indices in [first, end) whose hash as edited so far is not the zero hash, in ascending order.

        The edit must not change below the index given last while this runs.
        """
        span = range(first // PAGE_HASHES, (end - 1) // PAGE_HASHES + 1)
        kept = len(self._base.pages) + len(self._edited)
        # A disk with many small gaps must not cost a look at all pages for each of them.
        numbers = span if len(span) < kept else sorted(n for n in {*self._base.pages, *self._edited} if n in span)
        for number in numbers:
            if number not in self._base.pages and number not in self._edited:
                continue
            for index in range(max(first, number * PAGE_HASHES), min(end, (number + 1) * PAGE_HASHES)):
                if self.hash_of(index) != ZERO_HASH:
                    yield index

    def finish(self) -> Manifest:
        """The manifest as edited; it is `base` itself if nothing differs."""
        if not self._edited and self._size_bytes == self._base.size_bytes:
            return self._base
        pages, digests = dict(self._base.pages), dict(self._base.digests)
        for number, page in self._edited.items():
            digests.pop(number, None)
            if page == ZERO_PAGE:
                pages.pop(number, None)
            else:
                pages[number] = bytes(page)
        return Manifest(self._base.chunk_bytes, self._size_bytes, MappingProxyType(pages), MappingProxyType(digests))
