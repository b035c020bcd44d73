"""Pruning that dies at any step: the points that stay read as before, and the next prune leaves nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from replicad.model.errors import OutOfSpaceError, ReplicadError, UnreachableError
from replicad.model.progress import Warned
from replicad.model.retention import Keep
from replicad.storage.memory import MemoryShare
from replicad.workflows.list_points import list_points
from replicad.workflows.pin import pin_points
from replicad.workflows.verify import verify
from tests.support.faulty import CRASHES, Fault, FaultyShare, When, crashes
from tests.support.pruned import check_nothing_is_left_over
from tests.support.world import CHUNK, VM, World, memory_world

KEEP = Keep(1, 0, 0, 0, 0)
PINNED = {2, 5}
STAY = {2, 5, 7}


async def _seven_points(world: World) -> None:
    """Disks that shrink and grow over points that go, are removed there, come again under their old name, and stay."""
    random = Random(11)
    grown = random.randbytes(5 * CHUNK + 900)
    await world.put("가 disk.vhd", grown)
    await world.put("gone.vhd", random.randbytes(2 * CHUNK + 3))
    await world.put("still.vhd", random.randbytes(CHUNK))
    await world.sync()
    await world.put("가 disk.vhd", random.randbytes(CHUNK) + grown[CHUNK : 4 * CHUNK] + bytes(CHUNK + 900))
    await world.sync()
    await world.put("가 disk.vhd", world.disks["가 disk.vhd"][: 2 * CHUNK + 77])
    await world.put("gone.vhd", random.randbytes(CHUNK) + world.disks["gone.vhd"][CHUNK:])
    await world.sync()
    await world.drop("gone.vhd")
    await world.put("가 disk.vhd", world.disks["가 disk.vhd"] + random.randbytes(3 * CHUNK))
    await world.sync()
    await world.put("gone.vhd", random.randbytes(3 * CHUNK))
    await world.put("가 disk.vhd", random.randbytes(CHUNK + 1) + world.disks["가 disk.vhd"][CHUNK + 1 :])
    await world.sync()
    await world.put("gone.vhd", random.randbytes(2 * CHUNK))
    await world.sync()
    await world.drop("gone.vhd")
    await world.put("가 disk.vhd", grown)
    await world.sync()
    await pin_points(world.replica, VM, PINNED, (), world.context())


@asynccontextmanager
async def _world(*, volatile: bool = False, server_copy: bool = True) -> AsyncIterator[World]:
    async with memory_world(3, server_copy=server_copy) as world:
        world.replica = MemoryShare(volatile=volatile, server_copy=server_copy)
        await _seven_points(world)
        yield world


async def _check_points(world: World) -> None:
    """Those that there are include all that stay, and each one is exact."""
    listed = {p.number for p in (await list_points(world.replica, VM)).points}
    assert listed >= STAY
    for number in set(world.history) - listed:
        del world.history[number]
    await world.check_all_points()
    # Whoever died between a record and its copy leaves the old copy, which costs nothing.
    found = await verify(world.replica, VM, None, world.context())
    assert [d for d in found.damages if not d.file.endswith("/point.copy.json") or d.points] == []


async def _check_done(world: World) -> None:
    await _check_points(world)
    assert (await verify(world.replica, VM, None, world.context())).damages == []
    assert set(world.history) == STAY
    await check_nothing_is_left_over(world)


async def _steps() -> list[str]:
    async with _world() as world:
        world.replica = faulty = FaultyShare(world.replica)
        await world.prune(KEEP)
        return faulty.log


async def _die_and_prune_again(number: int, fault: Fault, luck: Random | None, *, server_copy: bool) -> bool:
    async with _world(volatile=luck is not None, server_copy=server_copy) as world:
        share = world.replica
        assert isinstance(share, MemoryShare)
        world.replica = FaultyShare(share, {number: fault})
        died = await crashes(world.prune(KEEP))
        if luck is not None:
            share.crash(luck)
        world.replica = share.view()
        await _check_points(world)
        await world.prune(KEEP)
        await _check_done(world)
        return died


async def test_prune_without_faults_leaves_the_points_that_stay_and_nothing_else() -> None:
    async with _world() as world:
        report = await world.prune(KEEP)
        assert report.removed == (1, 3, 4, 6)
        assert report.freed_bytes > 0
        await _check_done(world)
        assert (await world.prune(KEEP)).removed == ()


@pytest.mark.parametrize("fault", CRASHES, ids=[f.when.value for f in CRASHES])
async def test_prune_that_dies_at_a_step_leaves_every_point_that_stays(fault: Fault) -> None:
    steps = len(await _steps())
    numbers = sorted(Random(fault.when.value).sample(range(1, steps + 1), 14))
    died = [await _die_and_prune_again(number, fault, None, server_copy=number % 2 == 0) for number in numbers]
    assert sum(died) >= 10


async def test_server_that_loses_what_was_not_flushed_loses_no_point_that_stays() -> None:
    steps = len(await _steps())
    numbers = sorted(Random(5).sample(range(1, steps + 1), 25))
    died = [
        await _die_and_prune_again(number, Fault(When.AFTER), Random(number), server_copy=True) for number in numbers
    ]
    assert sum(died) >= 20


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("server_copy", [True, False])
async def test_every_step_of_a_prune_survives_every_kind_of_death(server_copy: bool) -> None:
    for number in range(1, len(await _steps()) + 1):
        for fault in CRASHES:
            await _die_and_prune_again(number, fault, None, server_copy=server_copy)
            for seed in range(4):
                await _die_and_prune_again(number, fault, Random(seed), server_copy=server_copy)


@pytest.mark.parametrize(
    "error",
    [UnreachableError("reach", "nas", "it is gone"), OutOfSpaceError("write", "nas", "it is full")],
    ids=["unreachable", "full"],
)
async def test_prune_that_fails_at_a_step_raises_that_error_and_can_be_run_again(error: ReplicadError) -> None:
    steps = await _steps()
    for number in sorted(Random(error.op).sample(range(1, len(steps)), 10)):
        async with _world() as world:
            share = world.replica
            assert isinstance(share, MemoryShare)
            world.replica = FaultyShare(share, {number: Fault(When.BEFORE, error)})
            with pytest.raises(type(error)):
                await world.prune(KEEP)
            share.die()
            world.replica = share.view()
            await _check_points(world)
            await world.prune(KEEP)
            await _check_done(world)


async def test_a_cycle_whose_pruning_fails_has_committed_its_point_and_the_next_one_prunes() -> None:
    error = UnreachableError("reach", "nas", "it is gone")
    async with _world() as world:
        world.replica = first = FaultyShare(world.replica)
        await world.sync()
        until = len(first.log) - 1  # its last call gives the lock back
    async with _world() as world:
        share = world.replica
        assert isinstance(share, MemoryShare)
        world.replica = FaultyShare(share, {until + 1: Fault(When.BEFORE, error)})
        assert (await world.sync(keep=KEEP)).point.number == 8
        assert any(isinstance(e, Warned) and "no rule keeps are still there" in e.text for e in world.events)
        share.die()
        world.replica = share.view()
        await world.check_all_points()
        assert (await world.sync(keep=KEEP)).point.number == 9
        assert sorted(world.history) == [2, 5, 9]
        await world.check_all_points()
        await check_nothing_is_left_over(world)
