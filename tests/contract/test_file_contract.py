"""What every open file promises: its bytes, its size, its holes, and copies by the server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from itertools import count
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicad.model.errors import ReplicadError, TransientError, UnsupportedError
from replicad.model.extents import clip, gaps, normalise, total_bytes
from replicad.storage.port import CopyRange, OpenMode, Share, ShareFile
from tests.support.adapters import Factory, Tree, need
from tests.support.files import HOLDER, get, pattern, put, read

KIB = 1024
MIB = 1024 * KIB
TIB = 1 << 40
_numbers = count()


@asynccontextmanager
async def new_file(share: Share) -> AsyncIterator[ShareFile]:
    async with await share.open(f"disk {next(_numbers)}.vhdx", OpenMode.CREATE) as file:
        yield file


# --- reading and writing ---------------------------------------------------------------------------------------------


async def test_reading_ends_at_the_end_of_the_file(tree: Tree) -> None:
    await put(tree.share, "disk", pattern(100_000))
    async with await tree.other.open("disk", OpenMode.READ) as file:
        for offset, asked, expected in [
            (0, 100_000, 100_000), (0, 3 * MIB, 100_000), (99_990, 100, 10), (100_000, 1, 0), (5 * MIB, 10, 0),
            (50, 0, 0),
        ]:  # fmt: skip
            buffer = bytearray(b"\xee" * asked)
            assert await file.read_into(buffer, offset) == expected
            assert buffer[:expected] == pattern(100_000)[offset : offset + expected]


async def test_reading_fills_just_the_part_of_a_buffer_that_it_was_given(tree: Tree) -> None:
    await put(tree.share, "disk", pattern(1000))
    buffer = bytearray(b"\xee" * 300)
    async with await tree.share.open("disk", OpenMode.READ) as file:
        assert await file.read_into(memoryview(buffer)[100:200], 500) == 100
    assert buffer == b"\xee" * 100 + pattern(1000)[500:600] + b"\xee" * 100


async def test_what_was_just_read_is_used_on_a_thread_and_nothing_behind_the_end_of_the_file(tree: Tree) -> None:
    await put(tree.share, "disk", pattern(100_000))
    buffer, threads = bytearray(b"\xee" * 300), set()

    def use(part: memoryview) -> bytes:
        threads.add(threading.get_ident())
        return bytes(part)

    with ThreadPoolExecutor(1) as executor:
        async with await tree.other.open("disk", OpenMode.READ) as file:
            view = memoryview(buffer)[100:200]
            assert await file.read_and(view, 500, use, executor) == pattern(1000)[500:600]
            assert buffer == b"\xee" * 100 + pattern(1000)[500:600] + b"\xee" * 100
            assert await file.read_and(buffer, 99_990, use, executor) == pattern(100_000)[99_990:]
            assert await file.read_and(buffer, 100_000, use, executor) == b""
            with pytest.raises(ZeroDivisionError):
                await file.read_and(buffer, 0, lambda part: len(part) // 0, executor)
            assert await file.read_and(buffer, 0, use, executor) == pattern(300)
    assert threading.get_ident() not in threads


async def test_every_kind_of_buffer_is_written_and_an_empty_one_changes_nothing(tree: Tree) -> None:
    async with new_file(tree.share) as file:
        await file.write(b"bytes", 0)
        await file.write(bytearray(b"array"), 5)
        await file.write(memoryview(b"a view in a buffer")[2:6], 10)
        await file.write(memoryview(bytearray(b" ok"))[1:], 14)
        await file.write(b"", 5 * MIB)
        assert await read(file) == b"bytesarrayviewok"


async def test_a_write_larger_than_any_request_arrives_whole(tree: Tree) -> None:
    data = pattern(20 * MIB + 12_345)
    async with new_file(tree.share) as file:
        await file.write(data, 7)
        assert await read(file) == bytes(7) + data


async def test_a_write_beyond_the_end_leaves_zeros_between(tree: Tree) -> None:
    async with new_file(tree.share) as file:
        await file.write(b"a", 0)
        await file.write(b"b", 300_000)
        assert await read(file) == b"a" + bytes(299_999) + b"b"


async def test_what_was_flushed_is_seen_by_others(tree: Tree) -> None:
    async with await tree.share.open("disk", OpenMode.CREATE) as file:
        await file.write(pattern(MIB), 0)
        await file.flush()
        assert await get(tree.other, "disk") == pattern(MIB)
        await file.set_size(10)
        await file.flush()
        assert (await tree.other.stat("disk")).size_bytes == 10


async def test_many_pieces_are_written_each_at_its_offset(tree: Tree) -> None:
    """Scattered, empty, of all kinds of buffers, and more of them than go on their way at a time."""
    data = pattern(300 * 5000)
    order = list(range(300))
    Random(3).shuffle(order)
    kinds = (bytes, bytearray, memoryview)
    async with new_file(tree.share) as file:
        await file.write_pieces([])
        await file.write_pieces(
            [(kinds[n % 3](data[n * 5000 : n * 5000 + 3000]), n * 5000) for n in order] + [(b"", 1 << 30)]
        )
        found = await read(file)
        assert len(found) == 299 * 5000 + 3000
        for n in range(300):
            assert found[n * 5000 : n * 5000 + 3000] == data[n * 5000 : n * 5000 + 3000]
            assert found[n * 5000 + 3000 : (n + 1) * 5000] == bytes(2000 if n < 299 else 0)
        await file.write_pieces([(data[: 3 * MIB // 2], 0), (b"behind", 2 * MIB)])
        assert (await read(file))[2 * MIB :] == b"behind"


async def test_offsets_of_terabytes_work(tree: Tree) -> None:
    need(tree.capabilities.sparse)
    async with await tree.share.open("큰 디스크.vhdx", OpenMode.CREATE) as file:
        await file.write(b"end", 5 * TIB)
        await file.write(b"middle", 4 * TIB + 1)
        buffer = bytearray(10)
        assert await file.read_into(buffer, 5 * TIB - 2) == 5
        assert buffer[:5] == b"\0\0end"
        assert await file.read_into(buffer, 4 * TIB) == 10
        assert buffer == b"\0middle\0\0\0"
        extents = await file.allocated_extents()
        assert total_bytes(extents) < MIB
        assert len(extents) == 2
        await file.zero(4 * TIB, TIB)
        assert await file.read_into(buffer, 4 * TIB) == 10
        assert buffer == bytes(10)
        assert (await file.identity()).size_bytes == 5 * TIB + 3
        await file.flush()
    entry = await tree.other.stat("큰 디스크.vhdx")
    assert entry.size_bytes == 5 * TIB + 3
    assert entry.allocated_bytes < 8 * MIB


# --- sizes and holes -------------------------------------------------------------------------------------------------


async def test_growing_gives_zeros_and_what_was_cut_off_never_comes_back(tree: Tree) -> None:
    async with new_file(tree.share) as file:
        await file.write(pattern(200_000), 0)
        await file.set_size(70_001)
        assert await read(file) == pattern(200_000)[:70_001]
        await file.set_size(250_000)
        assert await read(file) == pattern(200_000)[:70_001] + bytes(179_999)
        await file.set_size(0)
        assert await read(file) == b""
        await file.set_size(10)
        assert await read(file) == bytes(10)


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 400_000), (1, 399_998), (65_536, 65_536), (100_000, 3), (399_999, 1), (390_000, MIB), (400_000, 10),
        (MIB, 9), (5, 0),
    ],
)  # fmt: skip
async def test_zeroing_never_changes_the_size_and_nothing_else(tree: Tree, offset: int, length: int) -> None:
    expected = bytearray(pattern(400_000))
    end = min(400_000, offset + length)
    async with new_file(tree.share) as file:
        await file.write(expected, 0)
        await file.zero(offset, length)
        if offset < end:
            expected[offset:end] = bytes(end - offset)
        assert await read(file) == expected


async def test_zeroing_frees_the_space_where_the_share_can(tree: Tree) -> None:
    async with await tree.share.open("disk", OpenMode.CREATE) as file:
        await file.write(pattern(4 * MIB), 0)
        await file.flush()
        await file.zero(MIB, 2 * MIB)
        await file.flush()
        allocated = await file.allocated_extents()
    entry = await tree.share.stat("disk")
    assert (entry.size_bytes, entry.allocated_bytes < 3 * MIB) == (4 * MIB, tree.capabilities.zero)
    if tree.capabilities.allocated_extents and tree.capabilities.zero:
        assert gaps(allocated, 4 * MIB) == [type(allocated[0])(MIB, 2 * MIB)]


async def test_a_grown_file_takes_no_room_where_files_are_sparse(tree: Tree) -> None:
    async with await tree.share.open("disk", OpenMode.CREATE) as file:
        await file.set_size(64 * MIB)
        await file.flush()
        allocated = await file.allocated_extents()
    entry = await tree.share.stat("disk")
    assert entry.size_bytes == 64 * MIB
    assert (entry.allocated_bytes < MIB) is tree.capabilities.sparse
    if tree.capabilities.allocated_extents:
        assert total_bytes(allocated) < MIB


async def test_an_empty_file_has_no_extents(tree: Tree) -> None:
    async with new_file(tree.share) as file:
        assert await file.allocated_extents() == []


async def test_many_scattered_extents_are_all_told(tree: Tree) -> None:
    count_of_islands = 700
    async with new_file(tree.share) as file:
        await file.set_size(count_of_islands * 128 * KIB)
        for index in range(count_of_islands):
            await file.write(b"x" * 64 * KIB, index * 128 * KIB)
        extents = await file.allocated_extents()
        assert extents == normalise(extents)
        covered = {
            index for e in extents for index in range(e.offset_bytes // (128 * KIB), -(-e.end_bytes // (128 * KIB)))
        }
        assert covered == set(range(count_of_islands))
        if tree.capabilities.allocated_extents:
            assert total_bytes(extents) == count_of_islands * 64 * KIB


# --- identity --------------------------------------------------------------------------------------------------------


async def test_identity_stays_with_the_file_through_renames_and_hosts(tree: Tree) -> None:
    await put(tree.share, "one", b"1")
    await put(tree.share, "two", b"22")

    async def identity(share: Share, path: str) -> tuple[str, int]:
        async with await share.open(path, OpenMode.READ) as file:
            found = await file.identity()
            return found.file_id, found.size_bytes

    one, two = await identity(tree.share, "one"), await identity(tree.share, "two")
    assert one[0] != two[0]
    assert (one[1], two[1]) == (1, 2)
    await tree.share.rename("one", "하나")
    assert await identity(tree.other, "하나") == one
    assert await identity(tree.other, "two") == two


async def test_identity_tells_of_a_writer_once_it_has_closed_the_file(tree: Tree) -> None:
    await put(tree.share, "disk", b"1")
    async with await tree.other.open("disk", OpenMode.READ) as file:
        before = await file.identity()
        async with asyncio.timeout(20):
            # As often as the clock of the share is coarse.
            while (after := await file.identity()).write_time_ns == before.write_time_ns:
                async with await tree.share.open("disk", OpenMode.WRITE) as writer:
                    await writer.write(b"2", 0)
        assert after.write_time_ns > before.write_time_ns
        assert after.change_time_ns > before.change_time_ns
        assert (after.file_id, after.size_bytes) == (before.file_id, before.size_bytes)


# --- copies by the server --------------------------------------------------------------------------------------------


def applied(source: bytes, target: bytes, ranges: Sequence[CopyRange]) -> bytes:
    result = bytearray(target)
    for one in ranges:
        if not one.length_bytes:
            continue
        end = one.offset_bytes + one.length_bytes
        result.extend(bytes(max(0, end - len(result))))
        part = source[one.source_offset_bytes : one.source_offset_bytes + one.length_bytes]
        result[one.offset_bytes : end] = part
    return bytes(result)


async def check_copy(tree: Tree, source_bytes: bytes, target_bytes: bytes, ranges: Sequence[CopyRange]) -> None:
    async with new_file(tree.share) as source, new_file(tree.share) as target:
        await source.write(source_bytes, 0)
        await target.write(target_bytes, 0)
        if not tree.capabilities.server_copy:
            with pytest.raises(UnsupportedError):
                await target.copy_from(source, ranges)
            return
        await target.copy_from(source, ranges)
        assert await read(target) == applied(source_bytes, target_bytes, ranges)
        assert await read(source) == source_bytes


async def test_one_large_range_is_copied(tree: Tree) -> None:
    data = pattern(37 * MIB + 4321)
    await check_copy(tree, data, b"", [CopyRange(1234, 0, len(data) - 1234)])


async def test_many_scattered_ranges_are_copied(tree: Tree) -> None:
    luck = Random(7)
    places = list(range(1100))
    luck.shuffle(places)
    ranges = [CopyRange(i * 4096, place * 8192, 4096) for i, place in enumerate(places)]
    await check_copy(tree, pattern(1100 * 4096), pattern(2 * MIB, 9), ranges)


async def test_ranges_of_all_sizes_and_alignments_are_copied(tree: Tree) -> None:
    luck = Random(8)
    ranges = [CopyRange(luck.randrange(100_000), luck.randrange(400_000), luck.randrange(3000)) for _ in range(60)]
    await check_copy(tree, pattern(103_000), pattern(50_000, 9), ranges)


async def test_a_copy_may_grow_the_target_and_leave_a_hole(tree: Tree) -> None:
    await check_copy(tree, pattern(10_000), b"short", [CopyRange(5000, 300_000, 5000), CopyRange(0, 100_000, 1)])


async def test_no_ranges_and_empty_ranges_copy_nothing(tree: Tree) -> None:
    need(tree.capabilities.server_copy)
    await check_copy(tree, pattern(100), b"kept", [])
    await check_copy(tree, pattern(100), b"kept", [CopyRange(50, 2, 0), CopyRange(100, 900, 0)])


async def test_a_file_copies_within_itself_where_nothing_overlaps(tree: Tree) -> None:
    need(tree.capabilities.server_copy)
    ranges = [CopyRange(0, 200_000, 100_000), CopyRange(100_000, 400_000, 50_000)]
    async with new_file(tree.share) as file:
        await file.write(pattern(200_000), 0)
        await file.copy_from(file, ranges)
        assert await read(file) == applied(pattern(200_000), pattern(200_000), ranges)
        with pytest.raises(ValueError, match="overlaps"):
            await file.copy_from(file, [CopyRange(0, 50_000, 50_001)])
        assert await read(file) == applied(pattern(200_000), pattern(200_000), ranges)


async def test_a_copy_from_beyond_the_end_of_the_source_is_an_error(tree: Tree) -> None:
    async with new_file(tree.share) as source, new_file(tree.share) as target:
        await source.write(pattern(1000), 0)
        with pytest.raises(ReplicadError):
            await target.copy_from(source, [CopyRange(500, 0, 501)])


async def test_a_copy_from_a_held_file_works(tree: Tree) -> None:
    need(tree.capabilities.hold and tree.capabilities.server_copy)
    await put(tree.share, "disk", pattern(MIB))
    async with await tree.share.open("disk", OpenMode.HOLD) as source, new_file(tree.share) as target:
        await target.copy_from(source, [CopyRange(0, 0, MIB)])
        assert await read(target) == pattern(MIB)


async def test_a_copy_between_sessions_and_trees_is_right_or_unsupported(tree: Tree, new_tree: Factory) -> None:
    await put(tree.share, "disk", pattern(MIB))
    async with (
        new_tree() as elsewhere,
        await elsewhere.share.open("copy", OpenMode.CREATE) as far,
        await tree.share.open("copy", OpenMode.CREATE) as near,
    ):
        for target in (near, far):
            async with await tree.other.open("disk", OpenMode.READ) as source:
                try:
                    await target.copy_from(source, [CopyRange(0, 0, MIB)])
                except UnsupportedError:
                    continue
                assert await read(target) == pattern(MIB)


# --- many at once, and cancelled -------------------------------------------------------------------------------------


async def test_many_reads_and_writes_of_one_file_go_on_at_once(tree: Tree) -> None:
    piece = 200 * KIB + 1
    async with new_file(tree.share) as file:
        async with asyncio.TaskGroup() as group:
            for index in range(16):
                group.create_task(file.write(pattern(piece, index), index * piece))
        buffers = [bytearray(piece) for _ in range(16)]
        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(file.read_into(b, i * piece)) for i, b in enumerate(buffers)]
            group.create_task(file.write(b"later", 16 * piece))
            group.create_task(file.identity())
        assert [one.result() for one in reads] == [piece] * 16
        assert buffers == [pattern(piece, index) for index in range(16)]


async def test_many_files_are_open_at_once(tree: Tree) -> None:
    async def one(index: int) -> None:
        await put(tree.share, f"{index}", pattern(1000, index))
        assert await get(tree.other, f"{index}") == pattern(1000, index)

    async with asyncio.TaskGroup() as group:
        for index in range(60):
            group.create_task(one(index))


async def _cancel_after(turns: int, work: asyncio.Task[object]) -> bool:
    for _ in range(turns):
        await asyncio.sleep(0)
    work.cancel()
    try:
        await work
    except asyncio.CancelledError:
        return True
    return False


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 20])
async def test_after_a_cancelled_write_the_file_is_usable_or_condemned(tree: Tree, turns: int) -> None:
    old, new = pattern(2 * MIB, 1), pattern(2 * MIB, 2)
    await put(tree.share, "disk", old)
    file = await tree.share.open("disk", OpenMode.WRITE)
    work = asyncio.ensure_future(file.write(new, 0))
    await _cancel_after(turns, work)
    try:
        assert len(await read(file)) == 2 * MIB
        await file.write(new, 0)
    except TransientError:
        await file.close()
        file = await tree.share.open("disk", OpenMode.WRITE)
        await file.write(new, 0)
    await file.flush()
    await file.close()
    assert await get(tree.other, "disk") == new


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 20])
async def test_after_a_cancelled_read_nobody_touches_the_buffer(tree: Tree, turns: int) -> None:
    await put(tree.share, "disk", pattern(4 * MIB))
    file = await tree.share.open("disk", OpenMode.READ)
    buffer = bytearray(4 * MIB)
    work = asyncio.ensure_future(file.read_into(buffer, 0))
    await _cancel_after(turns, work)
    buffer[:] = b"\xee" * len(buffer)
    with suppress(TransientError):  # condemned, which is told at once and does not hang
        assert await read(file) == pattern(4 * MIB)
    await file.close()
    assert await get(tree.share, "disk") == pattern(4 * MIB)
    assert buffer == b"\xee" * len(buffer)


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancelled_open_or_lock_leaves_nothing_held(tree: Tree, turns: int) -> None:
    await put(tree.share, "disk", b"1")
    opening = asyncio.ensure_future(tree.share.open("disk", OpenMode.WRITE))
    if not await _cancel_after(turns, opening):
        await opening.result().close()
    locking = asyncio.ensure_future(tree.share.lock("replica.lock", HOLDER))
    if not await _cancel_after(turns, locking):
        await locking.result().release()
    if tree.capabilities.hold:
        await (await tree.other.open("disk", OpenMode.HOLD)).close()
    await (await tree.other.lock("replica.lock", HOLDER)).release()


# --- against a model -------------------------------------------------------------------------------------------------

_OFFSETS = st.one_of(st.integers(0, 400_000), st.integers(0, 100).map(lambda n: n * 4096))
_LENGTHS = st.one_of(st.integers(0, 5000), st.integers(0, 150_000), st.integers(0, 32).map(lambda n: n * 4096))
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _OFFSETS, _LENGTHS, st.integers(0, 250)),
        st.tuples(st.just("zero"), _OFFSETS, _LENGTHS, st.just(0)),
        st.tuples(st.just("set_size"), _OFFSETS, st.just(0), st.just(0)),
        st.tuples(st.just("copy"), _OFFSETS, _LENGTHS, st.integers(0, 250)),
        st.tuples(st.just("read"), _OFFSETS, _LENGTHS, st.just(0)),
        st.tuples(st.sampled_from(["flush", "reopen"]), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=14,
)
_SOURCE = pattern(600_000, 77)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=_STEPS)
async def test_a_file_behaves_as_an_array_of_bytes(tree: Tree, steps: list[tuple[str, int, int, int]]) -> None:
    model = bytearray()
    name = f"model {next(_numbers)}"
    if not any(e.name == "source" for e in await tree.share.list("")):
        await put(tree.share, "source", _SOURCE)
    file = await tree.share.open(name, OpenMode.CREATE)
    async with await tree.share.open("source", OpenMode.READ) as source:
        for what, offset, length, seed in steps:
            if what == "reopen":
                await file.close()
                file = await tree.share.open(name, OpenMode.WRITE)
            elif what == "copy" and not tree.capabilities.server_copy:
                continue
            else:
                await _step(file, source, model, (what, offset, length, seed))
        assert await read(file) == model
        extents = await file.allocated_extents()
        assert extents == normalise(extents) == clip(extents, len(model))
        for gap in gaps(extents, len(model)):
            assert not any(model[gap.offset_bytes : gap.end_bytes])
    await file.close()
    assert await get(tree.other, name) == model
    await tree.share.remove(name)


async def _step(file: ShareFile, source: ShareFile, model: bytearray, step: tuple[str, int, int, int]) -> None:
    what, offset, length, seed = step
    end = offset + length
    if what in ("write", "copy"):
        begin = seed * 1000
        data = _SOURCE[begin : begin + length]
        if what == "write":
            await file.write(data, offset)
        else:
            await file.copy_from(source, [CopyRange(begin, offset, length)])
        if data:
            model.extend(bytes(max(0, end - len(model))))
            model[offset:end] = data
    elif what == "zero":
        await file.zero(offset, length)
        until = min(end, len(model))
        if offset < until:
            model[offset:until] = bytes(until - offset)
    elif what == "set_size":
        await file.set_size(offset)
        del model[offset:]
        model.extend(bytes(offset - len(model)))
    elif what == "read":
        buffer = bytearray(length)
        count_read = await file.read_into(buffer, offset)
        assert buffer[:count_read] == model[offset:end]
    else:
        await file.flush()
