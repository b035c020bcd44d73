"""Going on from a replica that has lost something, between points and in the middle of a cycle."""

from __future__ import annotations

from random import Random

import pytest

from replicad.model.errors import IntegrityError, NeedsResyncError
from replicad.model.progress import Warned
from replicad.replica.layout import Layout
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode
from replicad.workflows.list_points import list_points
from replicad.workflows.repair import verify_and_repair
from replicad.workflows.verify import verify
from tests.support.dying import die_after
from tests.support.world import CHUNK, VM, World, digests, memory_world

LAYOUT = Layout(VM)


async def _flip(world: World, path: str, offset: int) -> None:
    async with await world.replica.open(path, OpenMode.WRITE) as file:
        buffer = bytearray(1)
        await file.read_into(buffer, offset)
        await file.write(bytes([buffer[0] ^ 1]), offset)


async def _two_disks_one_point(world: World) -> None:
    random = Random(1)
    for name in ("a.vhd", "b.vhd"):
        await world.put(name, random.randbytes(4 * CHUNK))
    await world.sync()
    for name in ("a.vhd", "b.vhd"):
        await world.put(name, random.randbytes(2 * CHUNK) + world.disks[name][2 * CHUNK :])


async def _repaired(world: World) -> list[tuple[str, bool]]:
    found = await verify_and_repair(world.replica, VM, world.change_source(), world.context())
    return [(d.file, d.repaired) for d in found.damages]


async def test_a_cycle_that_stopped_at_a_damaged_manifest_is_not_in_the_way_of_its_repair() -> None:
    async with memory_world() as world:
        await _two_disks_one_point(world)
        manifest = LAYOUT.manifest("a.vhd", 1)
        await _flip(world, manifest, 4096 + 3)
        with pytest.raises(IntegrityError, match=r"manifest.*damaged.*verify --repair"):
            await world.sync()
        assert await _repaired(world) == [(manifest, True)]
        await world.sync()
        await world.check_all_points()


@pytest.mark.parametrize("damaged", ["a.vhd", "b.vhd"])
async def test_a_manifest_is_made_anew_while_a_cycle_is_under_way(damaged: str) -> None:
    async with memory_world() as world:
        await _two_disks_one_point(world)
        await die_after(world, f"write {LAYOUT.updating('a.vhd')}")
        manifest = LAYOUT.manifest(damaged, 1)
        await _flip(world, manifest, 4096 + 3)
        with pytest.raises(IntegrityError, match=r"manifest.*damaged"):
            await world.sync()
        assert await _repaired(world) == [(manifest, True)]
        assert (await world.sync()).resumed
        await world.check_all_points()


@pytest.mark.parametrize("damaged", ["a.vhd", "b.vhd"])
async def test_resynchronisation_goes_on_with_a_cycle_under_way_without_the_manifest(damaged: str) -> None:
    async with memory_world() as world:
        await _two_disks_one_point(world)
        await die_after(world, f"write {LAYOUT.updating('a.vhd')}")
        await world.replica.remove(LAYOUT.manifest(damaged, 1))
        await world.sync(resync=True)
        await world.check_all_points()


async def test_a_point_committed_without_its_manifest_is_whole_though_nothing_changed() -> None:
    async with memory_world() as world:
        await world.put("a.vhd", Random(1).randbytes(4 * CHUNK))
        await world.sync()
        await _flip(world, LAYOUT.manifest("a.vhd", 1), 4096 + 3)
        await world.sync(resync=True)
        await world.check_all_points()
        assert (await verify(world.replica, VM, None, world.context())).damages == []


@pytest.mark.parametrize("data", [Random(1).randbytes(4 * CHUNK), bytes(4 * CHUNK)], ids=["bytes", "zeros"])
async def test_resynchronisation_sends_a_disk_again_that_the_replica_has_lost(data: bytes) -> None:
    async with memory_world() as world:
        await world.put("a.vhd", data)
        await world.sync()
        await world.replica.remove(LAYOUT.disk("a.vhd"))
        with pytest.raises(NeedsResyncError, match=r"missing from the replica.*--resync"):
            await world.sync()
        await world.sync(resync=True)
        assert any(isinstance(e, Warned) and "was missing" in e.text for e in world.events)
        await world.check_all_points()


async def test_resynchronisation_gives_a_disk_its_length_back_though_only_zeros_were_cut_off() -> None:
    async with memory_world() as world:
        await world.put("a.vhd", Random(1).randbytes(CHUNK) + bytes(3 * CHUNK))
        await world.sync()
        async with await world.replica.open(LAYOUT.disk("a.vhd"), OpenMode.WRITE) as file:
            await file.set_size(2 * CHUNK)
        await world.sync(resync=True)
        await world.check_all_points()
        assert (await verify(world.replica, VM, None, world.context())).damages == []


async def test_a_damaged_record_of_a_cycle_under_way_costs_only_the_disks_that_it_had_begun() -> None:
    async with memory_world() as world:
        await _two_disks_one_point(world)
        await world.put("c.vhd", Random(2).randbytes(CHUNK))
        await die_after(world, f"write {LAYOUT.initial('c.vhd')}")
        await _flip(world, LAYOUT.cycle_record(LAYOUT.pending_dir(2)), 30)
        assert digests(await world.restored(1)) == digests(world.history[1])
        await world.sync()
        await world.check_all_points()
        assert (await verify(world.replica, VM, None, world.context())).damages == []


async def test_a_missing_record_of_a_cycle_under_way_does_not_cost_the_old_bytes() -> None:
    async with memory_world() as world:
        await _two_disks_one_point(world)
        await die_after(world, f"write {LAYOUT.updating('a.vhd')}")
        await world.replica.remove(LAYOUT.cycle_record(LAYOUT.pending_dir(2)))
        assert digests(await world.restored(1)) == digests(world.history[1])
        await world.sync()
        await world.check_all_points()


async def test_a_damaged_record_of_a_point_that_was_all_but_committed_is_written_again() -> None:
    async with memory_world() as world:
        await _two_disks_one_point(world)
        record = LAYOUT.point_record(LAYOUT.pending_dir(2))
        await die_after(world, f"rename {record}.tmp")
        await _flip(world, record, 30)
        assert digests(await world.restored(1)) == digests(world.history[1])
        await world.sync()
        await world.check_all_points()


async def test_what_is_missing_from_a_replica_is_told_as_damage() -> None:
    async with memory_world() as world:
        await _two_disks_one_point(world)
        await world.sync()
        await world.replica.remove(LAYOUT.undo(LAYOUT.point_dir(2), "a.vhd"))
        with pytest.raises(IntegrityError, match=r"undo log .*the file is missing.*older than this log"):
            await world.restored(1)
        assert digests(await world.restored(2)) == digests(world.history[2])
        await world.replica.remove(LAYOUT.point_record(LAYOUT.point_dir(1)))
        await world.replica.remove(LAYOUT.point_record_copy(LAYOUT.point_dir(1)))
        with pytest.raises(IntegrityError, match=r"point\.json.*the file is missing.*backup"):
            await list_points(world.replica, VM)
        assert digests(await world.restored(2)) == digests(world.history[2])


async def test_a_replica_on_a_full_share_can_be_restored() -> None:
    async with memory_world() as world:
        world.replica = share = MemoryShare(capacity_bytes=1000 * CHUNK)
        await world.put("a.vhd", Random(1).randbytes(CHUNK))
        await world.sync()
        share.tree.room.most_pages = share.tree.room.used_pages
        assert digests(await world.restored(1)) == digests(world.history[1])
        assert any(isinstance(e, Warned) and "is full" in e.text for e in world.events)
