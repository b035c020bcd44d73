"""The last content of a removed disk that is lost: it is named itself, and counts as mended only when it is back."""

from __future__ import annotations

from random import Random

from replicad.workflows.repair import verify_and_repair
from replicad.workflows.verify import verify
from tests.support.invariants import LAYOUT
from tests.support.world import CHUNK, VM, World, memory_world

GONE = LAYOUT.removed(2, "gone.vhd", 2)


async def _lose_a_removed_disk(world: World) -> bytes:
    data = Random(1).randbytes(2 * CHUNK)
    await world.put("gone.vhd", data)
    await world.put("stays.vhd", b"stays")
    await world.sync()
    await world.drop("gone.vhd")
    await world.sync()
    await world.replica.remove(GONE)
    return data


async def test_missing_content_is_named_and_not_the_manifest_beside_it() -> None:
    async with memory_world() as world:
        await _lose_a_removed_disk(world)
        found = await verify(world.replica, VM, None, world.context())
        assert [(d.file, d.points) for d in found.damages] == [(GONE, (1,))]
        repaired = await verify_and_repair(world.replica, VM, world.change_source(), world.context())
        assert [d.repaired for d in repaired.damages] == [False]


async def test_missing_content_that_the_source_has_again_is_made_anew() -> None:
    async with memory_world() as world:
        await world.put("gone.vhd", await _lose_a_removed_disk(world))
        repaired = await verify_and_repair(world.replica, VM, world.change_source(), world.context())
        assert [(d.file, d.repaired) for d in repaired.damages] == [(GONE, True)]
        assert (await verify(world.replica, VM, None, world.context())).damages == []
        del world.disks["gone.vhd"]
        await world.check_all_points()
