"""Random histories of a virtual machine, pruned in between: every point that stays is exact, and nothing else stays."""

from __future__ import annotations

from random import Random

import pytest

from replicad.model.errors import NotFoundError
from replicad.model.retention import Keep
from replicad.workflows.list_points import list_points
from replicad.workflows.pin import pin_points
from replicad.workflows.verify import verify
from tests.support.pruned import check_nothing_is_left_over
from tests.support.world import CHUNK, VM, World, memory_world, mutate

_NAMES = ("가 disk.vhd", "b.vhd", "sub/다 🖥.vhd", "b.vhd.1")


async def _live(world: World, random: Random) -> None:
    """A while passes: disks come, go, come again and change."""
    world.time.seconds += random.choice([60, 1200, 3600, 40_000, 200_000])
    for name in _NAMES:
        if name not in world.disks:
            if random.random() < 0.4:
                await world.put(name, random.randbytes(random.choice([1, 700, CHUNK, 3 * CHUNK + 5, 7 * CHUNK])))
        elif random.random() < 0.15 and len(world.disks) > 1:
            await world.drop(name)
        elif random.random() < 0.7:
            await world.put(name, mutate(world.disks[name], random, 9 * CHUNK))
    if not world.disks:
        await world.put(_NAMES[0], random.randbytes(CHUNK))


def _some_rule(random: Random) -> Keep:
    return Keep(random.randint(1, 4), *(random.choice([0, 0, 1, 2, 3]) for _ in range(4)))


async def _pin_some(world: World, random: Random) -> None:
    numbers = sorted(world.history)
    await pin_points(
        world.replica, VM, {n for n in numbers if random.random() < 0.15},
        {n for n in numbers if random.random() < 0.3}, world.context(),
    )  # fmt: skip


async def _check(world: World) -> None:
    listed = await list_points(world.replica, VM)
    assert [p.number for p in listed.points] == sorted(world.history)
    await world.check_all_points()
    assert (await verify(world.replica, VM, None, world.context())).damages == []
    await check_nothing_is_left_over(world)


async def _history(seed: int, rounds: int) -> None:
    random = Random(seed)
    async with memory_world(seed, server_copy=seed % 3 != 0) as world:
        for _ in range(rounds):
            await _live(world, random)
            await world.sync(keep=_some_rule(random) if random.random() < 0.3 else None)
            if random.random() < 0.2:
                await _pin_some(world, random)
            if random.random() < 0.3:
                report = await world.prune(_some_rule(random))
                assert (report.refused, report.foreign) == ((), ())
        await _check(world)
        gone = set(range(1, max(world.history) + 1)) - set(world.history)
        for number in sorted(gone):
            with pytest.raises(NotFoundError):
                await world.restored(number)


@pytest.mark.parametrize("seed", range(40))
async def test_points_that_stay_are_exact_after_any_history_of_changes_and_prunes(seed: int) -> None:
    await _history(seed, 14)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1000, 2000))
async def test_points_that_stay_are_exact_after_a_long_history(seed: int) -> None:
    await _history(seed, 40)
