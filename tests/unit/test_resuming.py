"""A cycle that was interrupted: what the next one sends again, and what it need not."""

from __future__ import annotations

from random import Random

import pytest

from replicad.replica.directory import open_replica
from replicad.replica.layout import Layout
from replicad.replica.recovery import recover
from replicad.storage.documents import exists
from replicad.storage.memory import MemoryShare
from tests.support.dying import die
from tests.support.faulty import Fault, FaultyShare, When, crashes
from tests.support.world import CHUNK, VM, World, memory_world

BATCHES = 4
CHUNKS = 256 * BATCHES


async def _die_in_batch(world: World, batch: int) -> None:
    """Run a cycle that dies while it writes the disk's batch of this number (from 1)."""
    share = world.replica
    assert isinstance(share, MemoryShare)
    faulty = FaultyShare(share.view(), {})
    writes = 0
    original = faulty.change

    async def change(what: str, whole, half=None):  # type: ignore[no-untyped-def]  # as FaultyShare.change
        nonlocal writes
        if what.startswith(("write", "zero")) and (".initial" in what or ".updating" in what):
            writes += 1
            if writes == 2 * (batch - 1) + 2:  # 8 MiB each
                faulty.faults[len(faulty.log) + 1] = Fault(When.TORN)
        return await original(what, whole, half)

    faulty.change = change  # type: ignore[method-assign]  # counts the writes to the disk
    world.replica = faulty
    assert await crashes(world.sync())
    world.replica = share.view()


async def test_what_reached_the_disk_durably_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicad.replica.disk_update._FLUSH_EVERY_BYTES", 256 * CHUNK)  # after every batch
    async with memory_world() as world:
        await world.put("big.vhd", Random(1).randbytes(CHUNKS * CHUNK))
        await _die_in_batch(world, BATCHES)
        report = await world.sync()
        assert report.resumed
        # The last batch, and the one before if its writing was not over when the last one was saved.
        assert report.point.statistics.sent_bytes <= 2 * 256 * CHUNK
        await world.check_all_points()


async def test_disk_that_was_finished_is_not_sent_again_when_the_commit_failed() -> None:
    async with memory_world() as world:
        for seed in (1, 2):
            await world.put("a.vhd", Random(seed).randbytes(300 * CHUNK))
            await world.put("new.vhd" if seed == 1 else "b.vhd", Random(seed).randbytes(300 * CHUNK))
            for _ in range(2):
                await die(world, lambda what: what.startswith("create") and "point.json" in what)
            report = await world.sync()
            assert report.resumed
            # One chunk of a disk each time, that of the batch which says that all before it are durable.
            assert report.point.statistics.sent_bytes <= 2 * 2 * CHUNK
            await world.check_all_points()


async def test_old_bytes_are_saved_only_once_however_often_a_cycle_is_interrupted() -> None:
    async with memory_world() as world:
        random = Random(1)
        await world.put("a.vhd", random.randbytes(600 * CHUNK))
        await world.sync()
        await world.put("a.vhd", random.randbytes(600 * CHUNK))
        for _ in range(3):
            await _die_in_batch(world, 2)
        # The source changes once more before the cycle gets through: the undo log still leads to point 1.
        await world.put("a.vhd", random.randbytes(600 * CHUNK))
        report = await world.sync()
        assert report.point.statistics.undo_bytes == 600 * CHUNK
        await world.check_all_points()


async def test_a_disk_that_vanished_meanwhile_goes_back_to_what_it_was() -> None:
    async with memory_world() as world:
        random = Random(1)
        await world.put("a.vhd", random.randbytes(300 * CHUNK))
        await world.put("z.vhd", random.randbytes(3 * CHUNK))
        await world.sync()
        await world.put("a.vhd", random.randbytes(300 * CHUNK))
        await world.put("b new.vhd", random.randbytes(300 * CHUNK))
        await _die_in_batch(world, 2)
        await world.drop("a.vhd")
        await world.drop("b new.vhd")
        await world.sync()
        await world.check_all_points()
        assert not await exists(world.replica, Layout(VM).initial("b new.vhd"))


async def test_a_cycle_that_ended_in_all_but_its_name_becomes_a_point_without_the_source() -> None:
    async with memory_world() as world:
        await world.put("a.vhd", Random(1).randbytes(3 * CHUNK))
        share = world.replica
        assert isinstance(share, MemoryShare)
        faulty = FaultyShare(share.view())
        trial = await _steps_until_commit(world)
        faulty.faults[trial] = Fault(When.BEFORE)
        world.replica = faulty
        assert await crashes(world.sync())
        world.replica = share.view()
        replica = await open_replica(world.replica, VM)
        assert replica is not None
        standing = await recover(replica)
        assert standing.latest is not None
        assert (standing.latest.number, standing.pending) == (1, None)
        world.history[1] = dict(world.disks)
        await world.check_all_points()


async def _steps_until_commit(world: World) -> int:
    """The number of the call that renames the pending directory."""
    async with memory_world() as other:
        for path, data in world.disks.items():
            await other.put(path, data)
        share = other.replica
        other.replica = faulty = FaultyShare(share)
        await other.sync()
        return next(
            n for n, what in enumerate(faulty.log, start=1) if what.startswith("rename") and what.endswith("points/1")
        )
