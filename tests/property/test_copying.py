"""Copying of ranges: by the server or through us, the bytes are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.model.errors import IntegrityError
from replicad.storage.copying import BUFFER_BYTES, copy_ranges, refuse_overlap
from replicad.storage.memory import MemoryShare
from replicad.storage.port import CopyRange, OpenMode

SIZE = 4096
RANGES = st.lists(
    st.builds(CopyRange, st.integers(0, SIZE - 512), st.integers(0, 2 * SIZE), st.integers(0, 512)), max_size=8
)


@given(ranges=RANGES)
async def test_copying_through_us_equals_copying_by_the_server(ranges: list[CopyRange]) -> None:
    contents = []
    for server_copy in (True, False):
        share = MemoryShare(server_copy=server_copy)
        async with (
            await share.open("source", OpenMode.CREATE) as source,
            await share.open("target", OpenMode.CREATE) as target,
        ):
            await source.write(bytes(i * 7 % 251 for i in range(SIZE)), 0)
            assert await copy_ranges(source, target, ranges) is server_copy
            buffer = bytearray((await target.identity()).size_bytes)
            await target.read_into(buffer, 0)
            contents.append(buffer)
    assert contents[0] == contents[1]


async def test_a_range_larger_than_the_buffer_is_copied_in_pieces() -> None:
    ours, theirs = MemoryShare(), MemoryShare()
    data = bytes(range(256)) * (BUFFER_BYTES // 256) * 2 + b"tail"
    async with await ours.open("a", OpenMode.CREATE) as source, await theirs.open("b", OpenMode.CREATE) as target:
        await source.write(data, 5)
        assert not await copy_ranges(source, target, [CopyRange(5, 0, len(data))])
        buffer = bytearray(len(data) + 1)
        assert await target.read_into(buffer, 0) == len(data)
        assert buffer[:-1] == data


async def test_a_source_that_ends_too_early_is_told() -> None:
    ours, theirs = MemoryShare(), MemoryShare()
    async with await ours.open("a", OpenMode.CREATE) as source, await theirs.open("b", OpenMode.CREATE) as target:
        await source.write(b"short", 0)
        with pytest.raises(IntegrityError, match="ends before"):
            await copy_ranges(source, target, [CopyRange(0, 0, 6)])


@given(ranges=RANGES)
def test_an_overlap_within_one_file_is_found_exactly_where_there_is_one(ranges: list[CopyRange]) -> None:
    overlaps = any(
        max(s.source_offset_bytes, t.offset_bytes)
        < min(s.source_offset_bytes + s.length_bytes, t.offset_bytes + t.length_bytes)
        for s in ranges
        for t in ranges
    )
    if overlaps:
        with pytest.raises(ValueError, match="overlaps"):
            refuse_overlap(ranges)
    else:
        refuse_overlap(ranges)
