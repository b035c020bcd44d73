"""Looking at some of what a tracker calls unchanged: it is believed only as long as it is found right."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from math import ceil
from random import Random

from replicad.model.changes import ChangeSet, Outside
from replicad.model.chunks import chunk_length
from replicad.model.errors import BusyError
from replicad.model.extents import gaps, widen
from replicad.model.manifest import PAGE_HASHES, ZERO_HASH, Manifest
from replicad.model.points import Mistake, Trust
from replicad.replica.known_chunks import KnownChunks
from replicad.storage.port import ShareFile
from replicad.storage.together import in_order

from .context import Context
from .scan import Hashing

LEAST_CHUNKS = 16
_LEAST_ZEROS = 4
_ZEROS_ONE_IN = 16
_FEW_CHUNKS = 16_384
"""So many are looked through one by one."""
_MOST_TRIES = 16_384
_READS_AT_ONCE = 4

Span = tuple[int, int]
"""Chunks [first, end)."""


@dataclass(frozen=True, slots=True)
class Checked:
    """`trust` is what came of it, and `scanned_bytes` what was read for it."""

    trust: Trust
    scanned_bytes: int


async def check_unchanged(
    file: ShareFile, changes: ChangeSet, known: KnownChunks, hashing: Hashing, part: float, ctx: Context
) -> Checked | None:
    """Compare a random `part` (0 to 1) of the chunks that no extent of `changes`, already widened, covers with what the
    replica has of them. None if the change set claims nothing of them.

    Of those that hold something it is at least 16; of zeros only some, unless the part is all of them.
    """
    if changes.outside is not Outside.UNCHANGED:
        return None
    untouched = _untouched(changes, known)
    chosen = choose(known.previous, untouched, part, ctx.random)
    wrong: list[int] = []
    scanned_bytes = 0

    async def read(index: int) -> tuple[int, bytes, int]:
        buffer = memoryview(bytearray(chunk_length(index, known.size_bytes, known.chunk_bytes)))
        count, found = await file.read_and(buffer, index * known.chunk_bytes, hashing.measure, hashing.executor)
        if count != len(buffer):
            raise BusyError("read", file.path, "it became shorter while it was read", "Try again.")
        return index, found, count

    async def compare(answer: tuple[int, bytes, int]) -> None:
        nonlocal scanned_bytes
        index, found, count = answer
        scanned_bytes += count
        if found != known.previous.hash_of(index):
            wrong.append(index)

    await in_order(read, chosen, compare, _READS_AT_ONCE)
    mistake = Mistake(changes.provenance, wrong[0], len(wrong), ctx.clock.now()) if wrong else None
    return Checked(Trust(len(chosen), sum(end - first for first, end in untouched), mistake), scanned_bytes)


def _untouched(changes: ChangeSet, known: KnownChunks) -> list[Span]:
    size = known.chunk_bytes
    covered = widen(changes.extents, size, known.size_bytes)
    return [(g.offset_bytes // size, -(-g.end_bytes // size)) for g in gaps(covered, known.size_bytes)]


def choose(manifest: Manifest, untouched: Sequence[Span], part: float, random: Random) -> list[int]:
    """Chunks of `untouched`, at random and ascending: the `part` of those whose hash in `manifest` is not that of
    zeros, at least 16 while there are as many, and some of those whose hash is.

    Its cost follows what is chosen, the pages of hashes that are kept, and the spans; not the chunks.
    """
    everywhere = _Places(untouched)
    if part >= 1:
        return list(everywhere.all())
    data, zeros = _data(manifest, _Places(_in_pages(untouched, manifest)), part, random)
    wanted = max(_LEAST_ZEROS, len(data) // _ZEROS_ONE_IN)
    more = islice(everywhere.drawn(random), 4 * wanted)
    zeros += (index for index in more if manifest.hash_of(index) == ZERO_HASH)
    return sorted({*data, *zeros[:wanted]})


def _data(manifest: Manifest, filled: _Places, part: float, random: Random) -> tuple[list[int], list[int]]:
    """Chunks that hold something, as many as are wanted; and the zeros that came up beside them."""
    if filled.count <= _FEW_CHUNKS:
        data = [index for index in filled.all() if manifest.hash_of(index) != ZERO_HASH]
        return random.sample(data, min(len(data), max(LEAST_CHUNKS, ceil(part * len(data))))), []
    # Each place has the same chance; how many of them hold something is not known, but the same part of these is met.
    data = []
    zeros: list[int] = []
    wanted = ceil(part * filled.count)
    for tries, index in enumerate(filled.drawn(random)):
        if tries >= wanted and (len(data) >= LEAST_CHUNKS or tries >= _MOST_TRIES):
            break
        (zeros if manifest.hash_of(index) == ZERO_HASH else data).append(index)
    return data, zeros


class _Places:
    """Chunks of ascending spans, by their place among them."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._spans = list(spans)
        self._ends = list(accumulate(end - first for first, end in self._spans))

    @property
    def count(self) -> int:
        return self._ends[-1] if self._ends else 0

    def all(self) -> Iterator[int]:
        return (index for first, end in self._spans for index in range(first, end))

    def drawn(self, random: Random) -> Iterator[int]:
        """All of them, at random and in random order. To be left early: the last ones take long."""
        taken: set[int] = set()
        while len(taken) < self.count:
            place = random.randrange(self.count)
            if place not in taken:
                taken.add(place)
                number = bisect_right(self._ends, place)
                yield self._spans[number][1] - (self._ends[number] - place)


def _in_pages(spans: Sequence[Span], manifest: Manifest) -> Iterator[Span]:
    """The parts of ascending spans that lie in pages that the manifest keeps."""
    pages = _runs(sorted(manifest.pages))
    page = next(pages, None)
    for first, end in spans:
        while page is not None and page[1] <= first:
            page = next(pages, None)
        while page is not None and page[0] < end:
            yield max(first, page[0]), min(end, page[1])
            if page[1] > end:
                break
            page = next(pages, None)


def _runs(numbers: list[int]) -> Iterator[Span]:
    """The chunks of neighbouring pages."""
    start = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
            yield numbers[start] * PAGE_HASHES, (numbers[place - 1] + 1) * PAGE_HASHES
            start = place
