"""Comparing where bytes lie, against an oracle that looks at each block by itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicad.model.extent_maps import (
    BLOCK_BYTES,
    ExtentMap,
    MapFlag,
    MappedExtent,
    differing,
    has_moved,
    unshared_bytes,
)
from replicad.model.extents import Extent, normalise

_FLAGS = st.sampled_from([0, MapFlag.LAST, MapFlag.SHARED, MapFlag.MERGED, MapFlag.UNWRITTEN, MapFlag.ENCODED,
                          MapFlag.UNWRITTEN | MapFlag.DELAYED, MapFlag.INLINE, 1 << 20])  # fmt: skip
_DOUBTFUL = ~(MapFlag.LAST | MapFlag.SHARED | MapFlag.MERGED | MapFlag.UNWRITTEN)


@st.composite
def _maps(draw: st.DrawFn) -> ExtentMap:
    extents, position = [], 0
    for gap, length, place, flags in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 3), _FLAGS), max_size=6)
    ):
        position += gap * BLOCK_BYTES
        # Few places, so that many coincide.
        extents.append(MappedExtent(position, position + place * (1 << 20), length * BLOCK_BYTES, int(flags)))
        position += length * BLOCK_BYTES
    return ExtentMap(draw(st.integers(0, position + 3 * BLOCK_BYTES)), tuple(extents))


def _place(extents: ExtentMap, block: int) -> int | str:
    """Where a block's bytes are: a place, "zeros", or "doubt"."""
    at = block * BLOCK_BYTES
    if at >= extents.size_bytes:
        return "zeros"
    for extent in extents.extents:
        if extent.offset_bytes <= at < extent.end_bytes:
            if extent.flags & _DOUBTFUL:
                return "doubt"
            return "zeros" if extent.flags & MapFlag.UNWRITTEN else extent.physical_bytes + at - extent.offset_bytes
    return "zeros"


@settings(max_examples=300)
@given(_maps(), _maps())
def test_a_block_is_left_out_only_if_both_files_have_it_at_one_place_or_as_zeros(
    before: ExtentMap, after: ExtentMap
) -> None:
    found = differing(before, after)
    assert found == normalise(found)
    assert all(extent.end_bytes <= after.size_bytes for extent in found)
    ends = {before.size_bytes // BLOCK_BYTES, after.size_bytes // BLOCK_BYTES}
    for block in range(-(-after.size_bytes // BLOCK_BYTES)):
        told = any(e.offset_bytes <= block * BLOCK_BYTES < e.end_bytes for e in found)
        old, new = _place(before, block), _place(after, block)
        if "doubt" in (old, new) or old != new:
            assert told, (block, old, new)
        elif block not in ends:
            assert not told, (block, old, new)


@settings(max_examples=100)
@given(_maps())
def test_a_map_has_not_moved_from_itself_and_differs_only_where_it_is_doubtful(extents: ExtentMap) -> None:
    assert not has_moved(extents, extents)
    for extent in differing(extents, extents):
        for block in range(extent.offset_bytes // BLOCK_BYTES, -(-extent.end_bytes // BLOCK_BYTES)):
            assert _place(extents, block) == "doubt"


def test_a_file_that_only_grew_by_a_hole_differs_in_the_block_of_its_old_end() -> None:
    before = ExtentMap(5000, (MappedExtent(0, 1 << 20, 8192, 0),))
    after = ExtentMap(50_000, (MappedExtent(0, 1 << 20, 8192, 0),))
    assert differing(before, after) == [Extent(4096, 4096)]


def test_a_file_that_was_cut_differs_at_most_in_the_block_of_its_new_end() -> None:
    before = ExtentMap(50_000, (MappedExtent(0, 1 << 20, 53_248, 0),))
    assert differing(before, ExtentMap(5000, (MappedExtent(0, 1 << 20, 8192, 0),))) == [Extent(4096, 904)]


def test_what_lay_beyond_the_old_end_is_told_when_the_file_grows_over_it() -> None:
    """Bytes beyond a file's end are nobody's promise."""
    extents = (MappedExtent(0, 1 << 20, 1 << 16, 0),)
    assert differing(ExtentMap(4096, extents), ExtentMap(1 << 16, extents)) == [Extent(4096, (1 << 16) - 4096)]


def test_an_inline_file_differs_up_to_its_last_byte() -> None:
    inline = ExtentMap(100, (MappedExtent(0, 0, 100, MapFlag.INLINE | MapFlag.NOT_ALIGNED),))
    assert differing(inline, inline) == [Extent(0, 100)]


@pytest.mark.parametrize(
    "extents",
    [
        (MappedExtent(0, 0, 8192, 0), MappedExtent(4096, 0, 4096, 0)),
        (MappedExtent(8192, 0, 4096, 0), MappedExtent(0, 0, 4096, 0)),
        (MappedExtent(0, 0, 0, 0),),
    ],
)
def test_extents_that_overlap_or_are_out_of_order_or_empty_are_no_map(extents: tuple[MappedExtent, ...]) -> None:
    with pytest.raises(ValueError, match="does not follow"):
        ExtentMap(1 << 20, extents)


def test_what_is_shared_with_nobody_is_what_a_removal_gives_back() -> None:
    extents = (MappedExtent(0, 0, 8192, MapFlag.SHARED), MappedExtent(8192, 1 << 20, 4096, MapFlag.LAST))
    assert unshared_bytes(ExtentMap(12_288, extents)) == 4096
