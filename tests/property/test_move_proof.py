"""Which of the chunks that a server copied are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from replicad.model.extents import Extent, normalise, widen
from replicad.workflows.move_proof import chosen

_CHUNK = 64


def _chunks(extents: Sequence[Extent]) -> set[int]:
    return {n for e in extents for n in range(e.offset_bytes // _CHUNK, -(-e.end_bytes // _CHUNK))}


@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.integers(1, 30_000)), max_size=8),
    st.integers(1, 60_000),
    st.integers(0, 2**32),
)
def test_the_sample_is_of_whole_chunks_of_what_was_copied_and_neither_too_few_nor_too_many(
    pieces: list[tuple[int, int]], size_bytes: int, seed: int
) -> None:
    copied = [
        Extent(start, min(length, size_bytes - start)) for start, length in pieces if start < size_bytes
    ]  # fmt: skip
    extents = normalise(copied)
    sample = chosen(extents, _CHUNK, size_bytes, Random(seed))
    chunks, looked_at = _chunks(widen(extents, _CHUNK, size_bytes)), _chunks(sample)
    assert sample == widen(sample, _CHUNK, size_bytes) == normalise(sample)
    assert looked_at <= chunks
    assert min(len(chunks), 64) <= len(looked_at) <= max(66, len(chunks) // 100 + 2)
    if chunks:
        assert {min(chunks), max(chunks)} <= looked_at


def test_of_a_huge_disk_no_more_than_some_thousand_chunks_are_looked_at() -> None:
    size_bytes = 64 << 40
    sample = chosen([Extent(0, size_bytes)], 4 << 20, size_bytes, Random(1))
    assert 4096 <= sum(extent.length_bytes for extent in sample) // (4 << 20) <= 4098
