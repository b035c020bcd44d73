"""Restoring and verifying while several runs of a disk are under way: order of errors, ends, sizes, memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from replicad.model.errors import IntegrityError, OutOfSpaceError, UnreachableError
from replicad.model.names import last_part
from replicad.model.progress import Advanced, PhaseStarted
from replicad.replica.directory import Replica, open_replica
from replicad.replica.layout import Layout
from replicad.replica.lineage import points_from
from replicad.replica.view import ChunkRun, open_point_disk
from replicad.storage.decorated import DecoratedFile, DecoratedShare
from replicad.storage.memory import MemoryShare
from replicad.storage.port import Buffer, OpenMode, Share, ShareFile
from replicad.workflows.restore import PARTIAL_SUFFIX, restore
from replicad.workflows.verify import verify
from tests.support.world import CHUNK, VM, World, digests, memory_world, mutate, read_tree

MIB = 1024 * 1024
RUN_BYTES = 8 * MIB
RUNS_AT_ONCE = 3
DISK = "웹 디스크 💾.vhd"
REPLICA_OF_DISK = Layout(VM).disk(DISK)

Wait = Callable[[int], Awaitable[None]]


class _WatchedFile(DecoratedFile):
    """`before_read` and `before_write` are awaited with the offset; `buffers` is what was read into."""

    def __init__(self, inner: ShareFile, share: WatchedShare) -> None:
        super().__init__(inner)
        self._share = share

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        if last_part(self.path) == DISK:
            whole = memoryview(buffer).obj
            self._share.buffers[id(whole)] = whole
            self._share.reading += 1
            self._share.most_reading = max(self._share.most_reading, self._share.reading)
            try:
                await self._share.before_read(offset)
                return await self.inner.read_into(buffer, offset)
            finally:
                self._share.reading -= 1
        return await self.inner.read_into(buffer, offset)

    async def write(self, data: Buffer, offset: int) -> None:
        await self._share.before_write(offset)
        await self.inner.write(data, offset)
        self._share.written.append(offset)


class WatchedShare(DecoratedShare):
    """Lets a test wait in the reads and writes of files, and see what they do."""

    def __init__(self, inner: Share, before_read: Wait | None = None, before_write: Wait | None = None) -> None:
        super().__init__(inner)
        self.before_read = before_read or _at_once
        self.before_write = before_write or _at_once
        self.buffers: dict[int, object] = {}
        self.written: list[int] = []
        self.reading = self.most_reading = 0

    def _wrap(self, file: ShareFile) -> ShareFile:
        return _WatchedFile(file, self)


class _HashingHere(Executor):
    """Hashes where it is asked to, and tells when it has done so once."""

    def __init__(self, done: asyncio.Event) -> None:
        self._done = done

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        self._done.set()
        return future


async def _at_once(offset: int) -> None:
    del offset


async def _flip(share: Share, offset: int) -> None:
    async with await share.open(REPLICA_OF_DISK, OpenMode.WRITE) as file:
        buffer = bytearray(1)
        await file.read_into(buffer, offset)
        await file.write(bytes([buffer[0] ^ 1]), offset)


async def _replica(world: World) -> Replica:
    replica = await open_replica(world.replica, VM)
    assert replica is not None
    return replica


async def _replicated(world: World, data: bytes) -> None:
    await world.put(DISK, data)
    await world.sync()


@pytest.mark.parametrize("first_to_end", [1, 2])
async def test_the_damage_that_comes_first_on_the_disk_is_named_whichever_run_ends_first(first_to_end: int) -> None:
    async with memory_world() as world:
        await _replicated(world, Random(1).randbytes(6 * RUN_BYTES))
        damaged = {run: run * RUN_BYTES + 5 * CHUNK + 7 for run in (1, 2)}
        for offset in damaged.values():
            await _flip(world.replica, offset)
        others_may_end, one_is_hashed = asyncio.Event(), asyncio.Event()
        begun: list[int] = []

        async def before_read(offset: int) -> None:
            begun.append(offset // RUN_BYTES)
            if offset // RUN_BYTES != first_to_end:
                await others_may_end.wait()

        source, target = WatchedShare(world.replica, before_read), WatchedShare(MemoryShare())
        context = replace(world.context(), hashing=_HashingHere(one_is_hashed))
        async with asyncio.timeout(30):
            restoring = asyncio.create_task(restore(source, VM, None, target, context))
            await one_is_hashed.wait()
            for _ in range(10):  # until what was hashed has been used
                await asyncio.sleep(0)
            assert not restoring.done()
            others_may_end.set()
            with pytest.raises(IntegrityError, match=f"chunk {damaged[1] // CHUNK} of"):
                await restoring
        assert begun == [0, 1, 2]
        assert target.written == [0], "a damaged run was written"
        assert await read_tree(target) == {}


async def test_a_share_that_is_lost_ends_the_restore_without_waiting_for_the_other_runs() -> None:
    async with memory_world() as world:
        await _replicated(world, Random(1).randbytes(6 * RUN_BYTES))

        async def before_read(offset: int) -> None:
            if offset == 2 * RUN_BYTES:
                raise UnreachableError("read", "the replica", "the connection was lost")
            await asyncio.Event().wait()

        source, target = WatchedShare(world.replica, before_read), MemoryShare()
        async with asyncio.timeout(30):
            with pytest.raises(UnreachableError):
                await restore(source, VM, None, target, world.context())
        assert source.reading == 0
        assert await read_tree(target) == {}


async def test_a_full_target_ends_the_restore_and_is_left_as_it_was() -> None:
    async with memory_world() as world:
        await _replicated(world, Random(1).randbytes(6 * RUN_BYTES))
        target = MemoryShare(capacity_bytes=3 * RUN_BYTES)
        with pytest.raises(OutOfSpaceError, match="restore to another place"):
            await restore(world.replica, VM, None, target, world.context())
        assert await read_tree(target) == {}
        assert target.tree.room.used_pages == 0


@pytest.mark.parametrize("where", ["reading", "writing"])
async def test_a_restore_that_is_cancelled_stops_at_once_and_can_be_done_again(where: str) -> None:
    async with memory_world() as world:
        await _replicated(world, Random(1).randbytes(6 * RUN_BYTES))
        waiting, all_wait = 0, asyncio.Event()

        async def wait_for_ever(offset: int) -> None:
            nonlocal waiting
            if offset >= RUN_BYTES:
                waiting += 1
                if waiting == RUNS_AT_ONCE:
                    all_wait.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    waiting -= 1

        source = WatchedShare(world.replica, before_read=wait_for_ever if where == "reading" else None)
        target = WatchedShare(MemoryShare(), before_write=wait_for_ever if where == "writing" else None)
        async with asyncio.timeout(30):
            restoring = asyncio.create_task(restore(source, VM, None, target, world.context()))
            await all_wait.wait()
            restoring.cancel()
            with pytest.raises(asyncio.CancelledError):
                await restoring
        assert (waiting, source.reading) == (0, 0)
        assert set(await read_tree(target)) <= {DISK + PARTIAL_SUFFIX}
        await restore(world.replica, VM, None, target.inner, world.context())
        assert digests(await read_tree(target)) == digests(world.disks)


@pytest.mark.parametrize("chunk_bytes", [CHUNK << n for n in range(7)], ids=lambda n: f"{n >> 10}KiB")
async def test_all_chunk_sizes_restore_and_verify_with_gaps_and_a_short_last_chunk(chunk_bytes: int) -> None:
    random = Random(chunk_bytes)
    data = (
        random.randbytes(2 * RUN_BYTES + chunk_bytes)
        + bytes(RUN_BYTES + 3 * CHUNK)
        + random.randbytes(3)
        + bytes(2 * chunk_bytes)
        + random.randbytes(RUN_BYTES - 1)
    )
    async with memory_world() as world:
        await world.put(DISK, data)
        await world.sync(chunk_bytes=chunk_bytes)
        world.events.clear()
        target = MemoryShare()
        report = await restore(world.replica, VM, None, target, world.context())
        assert digests(await read_tree(target)) == digests(world.disks)
        (phase,) = [e for e in world.events if isinstance(e, PhaseStarted)]
        advanced = [e for e in world.events if isinstance(e, Advanced)]
        assert sum(e.done_bytes for e in advanced) == phase.total_bytes == len(data)
        assert all(e.done_bytes >= 0 for e in advanced)
        assert sum(e.sent_bytes for e in advanced) == report.disks[0].written_bytes
        last = (len(data) - 1) // chunk_bytes
        await _flip(world.replica, len(data) - 1)
        with pytest.raises(IntegrityError, match=f"chunk {last} of"):
            await restore(world.replica, VM, None, MemoryShare(), world.context())
        for number in (None, 1):
            (damage,) = (await verify(world.replica, VM, number, world.context())).damages
            assert (damage.file, damage.chunks) == (REPLICA_OF_DISK, (last,))


@pytest.mark.parametrize(("size_bytes", "most_bytes"), [(40 * MIB, RUNS_AT_ONCE * RUN_BYTES), (100, 100)])
async def test_memory_is_bounded_whatever_the_size_of_the_disk(size_bytes: int, most_bytes: int) -> None:
    async with memory_world() as world:
        await _replicated(world, Random(1).randbytes(size_bytes))
        as_many = min(RUNS_AT_ONCE, -(-size_bytes // RUN_BYTES))
        all_read = asyncio.Event()

        async def before_read(offset: int) -> None:
            del offset
            if source.reading == as_many:
                all_read.set()
            await all_read.wait()

        source = WatchedShare(world.replica, before_read)
        async with asyncio.timeout(30):
            await restore(source, VM, None, MemoryShare(), world.context())
        lengths = [len(b) for b in source.buffers.values() if isinstance(b, bytearray)]
        assert len(lengths) == len(source.buffers), "something else was read into"
        assert sum(lengths) <= most_bytes
        assert source.most_reading == as_many


async def test_verifying_a_point_names_damaged_chunks_in_order_whichever_run_ends_first() -> None:
    async with memory_world() as world:
        await _replicated(world, Random(1).randbytes(RUNS_AT_ONCE * RUN_BYTES))
        damaged = [2, 150, 151, 260, 380]
        for chunk in damaged:
            await _flip(world.replica, chunk * CHUNK)
        ended = [asyncio.Event() for _ in range(RUNS_AT_ONCE + 1)]
        ended[RUNS_AT_ONCE].set()

        async def last_run_first(offset: int) -> None:
            await ended[offset // RUN_BYTES + 1].wait()
            ended[offset // RUN_BYTES].set()

        async with asyncio.timeout(30):
            found = await verify(WatchedShare(world.replica, last_run_first), VM, 1, world.context())
        (damage,) = found.damages
        assert (damage.chunks, found.read_bytes) == (tuple(damaged), RUNS_AT_ONCE * RUN_BYTES)
        assert damage.reason == f"5 chunks differ, first chunk 2 (at byte {2 * CHUNK})"


@pytest.mark.parametrize("most_chunks", [1, 3, 64])
async def test_runs_are_as_long_as_they_can_be_and_leave_no_chunk_out(most_chunks: int) -> None:
    async with memory_world() as world:
        data = Random(0).randbytes(40 * CHUNK)
        for seed in range(6):
            await _replicated(world, data)
            data = mutate(data, Random(seed), 60 * CHUNK)
        points = await points_from(await _replica(world), 1)
        async with await open_point_disk(await _replica(world), points, points[0].disks[0].id, None) as disk:
            runs = list(disk.runs(most_chunks * CHUNK))
            singles = list(disk.runs(CHUNK))
        assert [s.first for s in singles] == list(disk.manifest.nonzero_chunks(0, disk.manifest.chunks))
        assert len({s.file for s in singles}) > 1, "no chunk lies in an undo log"
        assert [
            ChunkRun(r.first + n, 1, r.file, r.offset_bytes + n * CHUNK, r.unfinished)
            for r in runs
            for n in range(r.count)
        ] == singles
        for run, following in pairwise(runs):
            touches = (run.first + run.count, run.offset_bytes + run.count * CHUNK, run.file) == (
                following.first, following.offset_bytes, following.file,
            )  # fmt: skip
            assert run.count == most_chunks or not touches
            assert run.count <= most_chunks
