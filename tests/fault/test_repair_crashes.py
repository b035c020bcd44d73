"""A repair that dies at any step: nothing sound is lost, what is left is found again, and the next one ends it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from replicad.model.errors import OutOfSpaceError, ReplicadError, UnreachableError
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode
from replicad.workflows.damage import Verification
from replicad.workflows.repair import verify_and_repair
from replicad.workflows.verify import verify
from tests.support.faulty import CRASHES, Fault, FaultyShare, When, crashes
from tests.support.small_replica import CONFIG, DISK, GONE, LAYOUT, fill, flip
from tests.support.world import CHUNK, VM, World, memory_world

NEW = "new 🆕.vhd"


async def damage(world: World) -> set[str]:
    """Damage of every kind that can be mended; the files that it is in."""
    places = {
        LAYOUT.record: 7,
        LAYOUT.point_record(LAYOUT.point_dir(1)): 70,
        LAYOUT.point_record_copy(LAYOUT.point_dir(4)): 9,
        LAYOUT.recovery_text: 100,
        LAYOUT.manifest(CONFIG, 3): 4096 + 3,
        LAYOUT.disk(NEW): 5,
        LAYOUT.disk(DISK): CHUNK + 9,  # among zeros
        LAYOUT.removed_manifest(3, GONE, 3): 8192 + 1,
        LAYOUT.undo(LAYOUT.point_dir(4), DISK): 2 * 4096 + 4000,  # in what fills the last block
    }
    for path, offset in places.items():
        await flip(world.replica, path, offset)
    async with await world.replica.open(LAYOUT.disk(CONFIG), OpenMode.WRITE) as file:
        await file.set_size(3)
    return {*places, LAYOUT.disk(CONFIG)}


@asynccontextmanager
async def damaged_world(*, volatile: bool) -> AsyncIterator[tuple[World, set[str]]]:
    async with memory_world(3) as world:
        world.replica = MemoryShare(volatile=volatile)
        await fill(world)
        yield world, await damage(world)


async def repair(world: World) -> Verification:
    return await verify_and_repair(world.replica, VM, world.change_source(), world.context())


async def damaged_files(world: World) -> set[str]:
    return {damage.file for damage in (await verify(world.replica, VM, None, world.context())).damages}


async def ends_well(world: World, damaged: set[str]) -> None:
    """After whatever happened to a repair."""
    assert await damaged_files(world) <= damaged
    found = await repair(world)
    assert [d for d in found.damages if not d.repaired] == []
    assert await damaged_files(world) == set()
    await world.check_all_points()


async def steps() -> int:
    async with damaged_world(volatile=False) as (world, _):
        world.replica = faulty = FaultyShare(world.replica)
        await repair(world)
        return len(faulty.log)


async def test_a_repair_mends_every_kind_of_damage_that_has_its_bytes_elsewhere() -> None:
    async with damaged_world(volatile=False) as (world, damaged):
        found = await repair(world)
        assert {d.file for d in found.damages if d.repaired} == damaged
        await ends_well(world, set())


async def die_and_repair(number: int, fault: Fault, luck: Random | None) -> bool:
    async with damaged_world(volatile=luck is not None) as (world, damaged):
        share = world.replica
        assert isinstance(share, MemoryShare)
        world.replica = FaultyShare(share, {number: fault})
        died = await crashes(repair(world))
        if luck is not None:
            share.crash(luck)
        world.replica = share.view()
        await ends_well(world, damaged)
        return died


@pytest.mark.parametrize("fault", CRASHES, ids=[f.when.value for f in CRASHES])
@pytest.mark.parametrize("volatile", [False, True])
async def test_a_repair_that_dies_at_a_step_is_ended_by_the_next_one(fault: Fault, volatile: bool) -> None:
    numbers = Random(f"{fault.when.value} {volatile}").sample(range(1, await steps() + 1), 12)
    died = [await die_and_repair(number, fault, Random(number) if volatile else None) for number in sorted(numbers)]
    assert sum(died) >= 10


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", CRASHES, ids=[f.when.value for f in CRASHES])
async def test_a_repair_survives_every_kind_of_death_at_every_step(fault: Fault) -> None:
    for number in range(1, await steps() + 1):
        await die_and_repair(number, fault, None)
        for seed in range(3):
            await die_and_repair(number, fault, Random(seed))


@pytest.mark.parametrize(
    "error",
    [UnreachableError("reach", "nas", "it is gone"), OutOfSpaceError("write", "nas", "it is full")],
    ids=["unreachable", "full"],
)
async def test_a_repair_that_fails_at_a_step_raises_and_can_be_run_again(error: ReplicadError) -> None:
    count = await steps()
    # The first call is the lock, the last one gives it back.
    for number in sorted(Random(error.op).sample(range(2, count), 10)):
        async with damaged_world(volatile=False) as (world, damaged):
            share = world.replica
            assert isinstance(share, MemoryShare)
            world.replica = FaultyShare(share, {number: Fault(When.BEFORE, error)})
            with pytest.raises(type(error)):
                await repair(world)
            share.die()
            world.replica = share.view()
            await ends_well(world, damaged)
