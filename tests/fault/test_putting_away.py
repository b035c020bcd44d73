"""What is put away of a cycle, what is not, and what a server that lost its memory brings back."""

from __future__ import annotations

from random import Random

import pytest

from replicad.replica.layout import Layout
from replicad.replica.recovery import recover, roll_back
from replicad.storage.documents import exists
from replicad.storage.memory import MemoryShare
from replicad.workflows.opening import opened_replica
from tests.support.dying import die, writes_disk
from tests.support.faulty import When
from tests.support.files import get, put
from tests.support.invariants import Stays, check_nothing_left_over, check_seen_by_a_reader
from tests.support.world import CHUNK, VM, World, memory_world

_LAYOUT = Layout(VM)
_FOREIGN = b"somebody else's: notes"


async def _interrupted(world: World) -> str:
    """A cycle that was interrupted; returns the path of a file that somebody put into its directory."""
    await world.put("a.vhd", Random(1).randbytes(2 * CHUNK))
    await world.sync()
    await world.put("a.vhd", Random(2).randbytes(2 * CHUNK))
    await die(world, writes_disk)
    path = f"{_LAYOUT.pending_dir(2)}/메모.txt"
    await put(world.replica, path, _FOREIGN)
    return path


async def test_file_of_somebody_else_outlives_the_cycle_in_whose_directory_it_is() -> None:
    async with memory_world() as world:
        path = await _interrupted(world)
        async with opened_replica(world.replica, VM, None, world.context()) as opened:
            await roll_back(opened.replica, await recover(opened.replica))
            assert (await recover(opened.replica)).pending is None
        assert await get(world.replica, path) == _FOREIGN
        assert [entry.name for entry in await world.replica.list(_LAYOUT.pending_dir(2))] == ["메모.txt"]
        report = await world.sync()
        assert (report.point.number, report.resumed) == (2, False)
        assert await get(world.replica, f"{_LAYOUT.point_dir(2)}/메모.txt") == _FOREIGN
        await world.check_all_points()


@pytest.mark.parametrize("seed", range(6))
async def test_journals_that_a_server_brings_back_are_put_away_again(seed: int) -> None:
    async with memory_world() as world:
        world.replica = share = MemoryShare(volatile=True)
        for name in ("a.vhd", "b.vhd"):
            await world.put(name, Random(1).randbytes(CHUNK))
        await world.sync()  # its journals are those of new disks, and nobody needs them from here on
        await world.put("a.vhd", Random(2).randbytes(CHUNK))
        await die(world, writes_disk)
        share.crash(Random(seed))
        world.replica = share.view()
        await world.sync()
        await check_nothing_left_over(world)
        share.crash(Random(seed))
        world.replica = share.view()
        await world.sync()
        await check_nothing_left_over(world)


async def test_disk_whose_name_changed_in_case_only_is_read_right_before_it_has_its_name() -> None:
    async with memory_world() as world:
        world.replica = share = MemoryShare(case_sensitive=False)
        await world.put("disk.vhd", Random(1).randbytes(2 * CHUNK))
        await world.sync()
        await world.drop("disk.vhd")
        await world.put("DISK.vhd", Random(2).randbytes(2 * CHUNK))
        await die(world, lambda what: what.endswith(f" to {_LAYOUT.point_dir(2)}"), when=When.AFTER)
        world.history[2] = dict(world.disks)
        assert await exists(share, _LAYOUT.initial("DISK.vhd"))
        await check_seen_by_a_reader(world, Stays(frozenset({1})), spoiled=False)
        await world.check_all_points()


async def test_first_sending_of_a_name_in_another_case_does_not_hide_the_disk_of_the_latest_point() -> None:
    async with memory_world() as world:
        world.replica = MemoryShare(case_sensitive=False)
        await world.put("disk.vhd", Random(1).randbytes(2 * CHUNK))
        await world.sync()
        await world.drop("disk.vhd")
        await world.put("DISK.vhd", Random(2).randbytes(2 * CHUNK))
        await die(world, lambda what: what.startswith("write") and ".initial" in what)
        await check_seen_by_a_reader(world, Stays(frozenset({1})), spoiled=False)
        await world.check_all_points()
