"""Extents against sets of bytes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from replicad.model.extents import Extent, clip, gaps, normalise, split, total_bytes, widen

EXTENTS = st.lists(st.builds(Extent, st.integers(0, 60), st.integers(0, 20)), max_size=8)


def covered(extents: list[Extent]) -> set[int]:
    return {byte for e in extents for byte in range(e.offset_bytes, e.end_bytes)}


def is_normal(extents: list[Extent]) -> bool:
    return all(e.length_bytes for e in extents) and all(a.end_bytes < b.offset_bytes for a, b in pairwise(extents))


@given(EXTENTS)
def test_normalising_covers_the_same_bytes_without_touching_members(extents: list[Extent]) -> None:
    result = normalise(extents)
    assert is_normal(result)
    assert covered(result) == covered(extents)
    assert total_bytes(result) == len(covered(extents))


@given(EXTENTS, st.integers(0, 80))
def test_gaps_are_what_is_left_of_the_file(extents: list[Extent], size: int) -> None:
    normal = normalise(extents)
    result = gaps(normal, size)
    assert covered(result) == set(range(size)) - covered(normal)
    assert covered(clip(normal, size)) == covered(normal) & set(range(size))


@given(EXTENTS, st.sampled_from([1, 2, 8, 16]), st.integers(0, 100))
def test_widening_covers_whole_units_and_no_others(extents: list[Extent], unit: int, size: int) -> None:
    result = widen(extents, unit, size)
    wanted = {byte for b in covered(extents) for byte in range(b // unit * unit, b // unit * unit + unit)}
    assert covered(result) == wanted & set(range(size))
    assert is_normal(result)


@given(st.builds(Extent, st.integers(0, 60), st.integers(0, 60)), st.integers(1, 16))
def test_pieces_end_at_multiples_and_join_to_the_whole(extent: Extent, piece: int) -> None:
    pieces = list(split(extent, piece))
    assert covered(pieces) == covered([extent])
    assert all(p.end_bytes % piece == 0 for p in pieces[:-1])
    assert all(0 < p.length_bytes <= piece for p in pieces)
