"""The sample of changed chunks that is read back."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from replicad.workflows.sample import ChunkSample


def _hash(chunk: int) -> bytes:
    return chunk.to_bytes(16, "big")


def _shown(size: int, seed: int, runs: list[int]) -> tuple[ChunkSample, int]:
    sample, first = ChunkSample(size, Random(seed)), 0
    for count in runs:
        sample.show(first, b"".join(map(_hash, range(first, first + count))))
        first += count
    return sample, first


@given(st.integers(1, 70), st.integers(), st.lists(st.integers(1, 300), max_size=20))
def test_a_sample_has_as_many_different_chunks_as_it_may_each_with_its_own_hash(
    size: int, seed: int, runs: list[int]
) -> None:
    sample, shown = _shown(size, seed, runs)
    chunks = [chunk for chunk, _ in sample.chosen]
    assert len(set(chunks)) == len(chunks) == min(size, shown)
    assert all(0 <= chunk < shown and found == _hash(chunk) for chunk, found in sample.chosen)


def test_every_chunk_has_the_same_chance() -> None:
    size, chunks, rounds = 8, 100, 4000
    counts: Counter[int] = Counter()
    for seed in range(rounds):
        counts.update(chunk for chunk, _ in _shown(size, seed, [7] * 14 + [2])[0].chosen)
    due = rounds * size / chunks
    assert all(abs(counts[chunk] - due) < 6 * due**0.5 for chunk in range(chunks))
