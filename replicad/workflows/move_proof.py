"""Looking at some of what a server copied by itself. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from random import Random

from replicad.model.extents import Extent, normalise, widen

_ONE_IN = 100
_LEAST_CHUNKS = 64
_MOST_CHUNKS = 4096


def chosen(extents: Sequence[Extent], chunk_bytes: int, size_bytes: int, random: Random) -> list[Extent]:
    """Whole chunks of those that `extents` (a normal sequence) touch, as a normal sequence: the first and the last one,
    and one in a hundred of the others at random, but at least 64 (or all) and at most 4,096."""
    spans = widen(extents, chunk_bytes, size_bytes)
    ends = list(accumulate(-(-span.length_bytes // chunk_bytes) for span in spans))
    if not ends:
        return []
    total = ends[-1]
    count = min(total, max(_LEAST_CHUNKS, min(_MOST_CHUNKS, total // _ONE_IN)))
    numbers = {0, total - 1, *random.sample(range(total), count)}

    def chunk(number: int) -> Extent:
        place = bisect_right(ends, number)
        before = ends[place - 1] if place else 0
        offset_bytes = spans[place].offset_bytes + (number - before) * chunk_bytes
        return Extent(offset_bytes, min(chunk_bytes, size_bytes - offset_bytes))

    return normalise(chunk(number) for number in numbers)
