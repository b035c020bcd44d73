"""A cycle that dies at any step: points stay, nothing half-made has a disk's own name, and the next cycle mends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from replicad.model.errors import OutOfSpaceError, ReplicadError, UnreachableError
from replicad.replica.directory import list_numbers, open_replica
from replicad.replica.layout import Layout
from replicad.storage.documents import exists
from replicad.storage.memory import MemoryShare
from replicad.workflows.opening import opened_replica
from replicad.workflows.restore import restore
from replicad.workflows.verify import verify
from tests.support.faulty import CRASHES, Fault, FaultyShare, When, crashes
from tests.support.world import CHUNK, VM, World, digests, memory_world, read_tree

OUR_SUFFIXES = (".updating", ".initial")
STAGES = ("initial", "delta", "reshaped")


async def bring_to(world: World, stage: str) -> None:
    """Bring the world to the moment before the cycle that is to be disturbed."""
    random = Random(7)
    first = random.randbytes(3 * CHUNK + 700) + bytes(CHUNK)
    await world.put("가 disk.vhd", first)
    await world.put("sub/나.vhd", random.randbytes(2 * CHUNK))
    if stage == "initial":
        return
    await world.sync()
    await world.put("가 disk.vhd", first[:CHUNK] + random.randbytes(CHUNK) + bytes(CHUNK) + first[3 * CHUNK :])
    if stage == "delta":
        return
    await world.sync()
    await world.put("가 disk.vhd", first[: CHUNK + 100])  # shrinks, the last chunk within
    await world.put("sub/나.vhd", world.disks["sub/나.vhd"] + random.randbytes(CHUNK + 5))  # grows
    await world.put("다 🆕.vhd", random.randbytes(CHUNK + 9))
    await world.put("gone.vhd", b"x" * 100)
    await world.sync()
    await world.drop("gone.vhd")
    await world.put("가 disk.vhd", first)
    await world.put("sub/나.vhd", world.disks["sub/나.vhd"][:CHUNK])
    await world.put("라.vhd", b"new" * 50_000)


async def _check_share_alone(world: World) -> None:
    """What must hold at the moment of death, seen by a reader who may not even write."""
    share = world.replica
    replica = await open_replica(share, VM)
    if replica is None:
        return
    numbers = await list_numbers(replica)
    for number in numbers.committed:
        world.history.setdefault(number, dict(world.disks))
    layout = Layout(VM)
    files = await read_tree(share, layout.disks_dir)
    allowed = [world.history[n] for n in numbers.committed[-2:]]
    for path, data in files.items():
        name = path.removeprefix(layout.disks_dir + "/")
        if not name.endswith(OUR_SUFFIXES):
            assert any(name in point and digests({name: point[name]}) == digests({name: data}) for point in allowed), (
                f"{name} has its own name in a state that was never committed"
            )


async def _check_points(world: World) -> None:
    await world.check_all_points()
    assert (await verify(world.replica, VM, None, world.context())).damages == []


@asynccontextmanager
async def _world_at(stage: str, *, volatile: bool, server_copy: bool = True) -> AsyncIterator[World]:
    async with memory_world(3, server_copy=server_copy) as world:
        world.replica = MemoryShare(volatile=volatile, server_copy=server_copy)
        await bring_to(world, stage)
        yield world


async def _steps(stage: str) -> list[str]:
    async with _world_at(stage, volatile=False) as world:
        share = world.replica
        world.replica = faulty = FaultyShare(share)
        await world.sync()
        return faulty.log


async def _die_and_recover(stage: str, number: int, fault: Fault, luck: Random | None, *, server_copy: bool) -> bool:
    """One life that ends at call `number`; False if it did not end there (its call found nothing to do, and raised)."""
    async with _world_at(stage, volatile=luck is not None, server_copy=server_copy) as world:
        share = world.replica
        assert isinstance(share, MemoryShare)
        world.replica = FaultyShare(share, {number: fault})
        died = await crashes(world.sync())
        if luck is not None:
            share.crash(luck)
        world.replica = share.view()
        await _check_share_alone(world)
        committed = await open_replica(world.replica, VM)
        if committed is not None and (await list_numbers(committed)).committed:
            await world.check_all_points()
        report = await world.sync()
        assert report.point.number == max(world.history)
        await _check_points(world)
        return died


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", CRASHES, ids=[f.when.value for f in CRASHES])
async def test_cycle_that_dies_at_a_step_leaves_every_point_and_is_gone_on_with(stage: str, fault: Fault) -> None:
    steps = len(await _steps(stage))
    numbers = sorted(Random(stage + fault.when.value).sample(range(1, steps + 1), 14))
    died = [await _die_and_recover(stage, number, fault, None, server_copy=number % 2 == 0) for number in numbers]
    assert sum(died) >= 10


@pytest.mark.parametrize("stage", STAGES)
async def test_server_that_loses_what_was_not_flushed_loses_no_point(stage: str) -> None:
    steps = len(await _steps(stage))
    numbers = sorted(Random(stage).sample(range(1, steps + 1), 25))
    died = [
        await _die_and_recover(stage, number, Fault(When.AFTER), Random(number), server_copy=True) for number in numbers
    ]
    assert sum(died) >= 20


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("server_copy", [True, False])
async def test_every_step_survives_every_kind_of_death(stage: str, server_copy: bool) -> None:
    for number in range(1, len(await _steps(stage)) + 1):
        for fault in CRASHES:
            await _die_and_recover(stage, number, fault, None, server_copy=server_copy)
            for seed in range(4):
                await _die_and_recover(stage, number, fault, Random(seed), server_copy=server_copy)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "error",
    [UnreachableError("reach", "nas", "it is gone"), OutOfSpaceError("write", "nas", "it is full")],
    ids=["unreachable", "full"],
)
async def test_cycle_that_fails_at_a_step_raises_that_error_and_leaves_every_point(
    stage: str, error: ReplicadError
) -> None:
    steps = len(await _steps(stage))
    for number in sorted(Random(stage + error.op).sample(range(1, steps + 1), min(steps, 12))):
        async with _world_at(stage, volatile=False) as world:
            share = world.replica
            assert isinstance(share, MemoryShare)
            world.replica = FaultyShare(share, {number: Fault(When.BEFORE, error)})
            with pytest.raises(type(error)):
                await world.sync()
            share.die()  # the command ends, and with it a lock that it could not give back
            world.replica = share.view()
            await _check_share_alone(world)
            await world.sync()
            await _check_points(world)


async def test_directories_of_disks_are_as_durable_as_the_disks() -> None:
    async with memory_world() as world:
        world.replica = share = MemoryShare(volatile=True)
        await world.put("Virtual Hard Disks/깊이/a.vhd", Random(1).randbytes(CHUNK))
        await world.sync()
        share.crash()
        world.replica = share.view()
        await world.check_all_points()
        target = MemoryShare(volatile=True)
        await restore(world.replica, VM, 1, target, world.context())
        target.crash()
        assert await read_tree(target) == world.disks


async def test_rollback_brings_the_disks_back_without_the_source() -> None:
    from replicad.replica.recovery import recover, roll_back

    steps = await _steps("reshaped")
    for number in range(1, len(steps) + 1, 3):
        async with _world_at("reshaped", volatile=False) as world:
            share = world.replica
            assert isinstance(share, MemoryShare)
            world.replica = FaultyShare(share, {number: Fault(When.TORN)})
            await crashes(world.sync())
            world.replica = share.view()
            async with opened_replica(world.replica, VM, None, world.context()) as opened:
                standing = await recover(opened.replica)
                await roll_back(opened.replica, standing)
                assert (await recover(opened.replica)).pending is None
            await _check_share_alone(world)
            layout = Layout(VM)
            names = await read_tree(world.replica, layout.disks_dir)
            latest = world.history[max(world.history)]
            assert digests({n.removeprefix(layout.disks_dir + "/"): d for n, d in names.items()}) == digests(latest)
            await _check_points(world)
            assert not await exists(world.replica, layout.pending_dir(max(world.history) + 1))
