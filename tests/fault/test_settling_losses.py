"""Who finds a point that was committed a moment ago makes that durable before any disk gets its own name: a server that
forgets what was not flushed must not keep the one and forget the other."""

from __future__ import annotations

from functools import partial

import pytest

from replicad.storage.memory import MemoryShare
from replicad.workflows.opening import opened_replica
from tests.support.crash_points import InlineExecutor
from tests.support.dying import DyingShare, die
from tests.support.faulty import When, crashes
from tests.support.invariants import LAYOUT, Stays, check_names, check_seen_by_a_reader, committed_points
from tests.support.world import CHUNK, VM, World


async def _two_states() -> World:
    world = World(MemoryShare("source"), MemoryShare(volatile=True), InlineExecutor())
    await world.put("가 disk.vhd", b"1" * 3 * CHUNK)
    await world.sync()
    await world.put("가 disk.vhd", b"2" * CHUNK + world.disks["가 disk.vhd"][CHUNK:])
    return world


async def _look_and_die(world: World, number: int) -> bool:
    """Somebody opens the replica and dies at one of the calls that put it in order; then the server forgets."""
    share = world.replica
    assert isinstance(share, MemoryShare)
    world.replica = DyingShare(share.view(), lambda what: True, number, When.AFTER)

    async def look() -> None:
        async with opened_replica(world.replica, VM, None, world.context()):
            pass

    died = await crashes(look())
    share.crash()
    world.replica = share.view()
    return died


def _renames_to(path: str, what: str) -> bool:
    return what.endswith(f" to {path}")


@pytest.mark.parametrize("deaths", [("point",), ("record", "point")])
async def test_commit_is_durable_before_a_disk_has_its_own_name(deaths: tuple[str, ...]) -> None:
    renames = {"point": LAYOUT.point_dir(2), "record": LAYOUT.point_record(LAYOUT.pending_dir(2))}
    number, died = 0, True
    while died:
        number += 1
        world = await _two_states()
        for death in deaths:
            await die(world, partial(_renames_to, renames[death]), when=When.AFTER)
        world.history[2] = dict(world.disks)
        died = await _look_and_die(world, number)
        await check_names(world, spoiled=False)
        await check_seen_by_a_reader(world, Stays(frozenset({1})), spoiled=False)
        last = (await world.sync()).point.number
        assert await committed_points(world.replica) == list(range(1, last + 1))
        await world.check_all_points()
    assert number > 5
