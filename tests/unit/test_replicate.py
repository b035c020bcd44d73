"""Cycles over shares in memory."""

from __future__ import annotations

from random import Random

import pytest

from replicad.model.errors import DivergedError, IntegrityError, NeedsResyncError
from replicad.model.points import Change, Consistency, CycleKind
from replicad.model.progress import Warned
from replicad.replica.layout import Layout
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode
from replicad.workflows.verify import verify
from tests.support.world import CHUNK, VM, digests, memory_world, mutate


async def test_first_cycle_makes_a_point_that_restores_exactly() -> None:
    async with memory_world() as world:
        await world.put("디스크 하나.vhd", Random(1).randbytes(5 * CHUNK + 17) + bytes(3 * CHUNK))
        await world.put("sub dir/빈 디스크 🎈.vhd", b"")
        report = await world.sync()
        assert (report.point.number, report.point.kind) == (1, CycleKind.INITIAL)
        assert report.point.consistency is Consistency.COLD
        await world.check_all_points()


async def test_second_cycle_sends_only_what_changed() -> None:
    async with memory_world() as world:
        data = Random(1).randbytes(50 * CHUNK)
        await world.put("a.vhd", data)
        await world.sync()
        await world.put("a.vhd", data[: 7 * CHUNK] + b"changed" + data[7 * CHUNK + 7 :])
        report = await world.sync()
        assert report.point.statistics.sent_bytes == CHUNK
        assert report.point.statistics.changed_bytes == CHUNK
        assert report.point.statistics.undo_bytes == CHUNK
        await world.check_all_points()


async def test_unchanged_disk_is_left_untouched() -> None:
    async with memory_world() as world:
        await world.put("a.vhd", Random(1).randbytes(3 * CHUNK))
        await world.sync()
        report = await world.sync()
        assert [d.change for d in report.point.disks] == [Change.UNCHANGED]
        assert report.point.statistics.sent_bytes == 0
        await world.check_all_points()


@pytest.mark.parametrize("size", [CHUNK, 6 * CHUNK + 1])
async def test_a_replica_that_somebody_cut_or_grew_is_noticed_and_resynchronised(size: int) -> None:
    async with memory_world() as world:
        data = Random(1).randbytes(4 * CHUNK)
        await world.put("a.vhd", data)
        await world.sync()
        async with await world.replica.open(Layout(VM).disk("a.vhd"), OpenMode.WRITE) as file:
            await file.set_size(size)
        await world.put("a.vhd", data[: 3 * CHUNK] + b"changed" + data[3 * CHUNK + 7 :])
        with pytest.raises(NeedsResyncError, match=r"somebody else changed it.*--resync"):
            await world.sync()
        report = await world.sync(resync=True)
        assert digests(await world.restored(report.point.number)) == digests(world.disks)


async def test_resynchronisation_mends_what_the_manifest_does_not_know_about() -> None:
    async with memory_world() as world:
        await world.put("a.vhd", Random(1).randbytes(4 * CHUNK))
        await world.sync()
        async with await world.replica.open(Layout(VM).disk("a.vhd"), OpenMode.WRITE) as file:
            await file.write(b"bit rot", 2 * CHUNK)
        report = await world.sync(resync=True)
        assert report.point.statistics.sent_bytes == CHUNK
        assert any(isinstance(e, Warned) and "1 chunks of the replica" in e.text for e in world.events)
        await world.check_all_points()  # the point before is whole again, too


async def test_resynchronisation_goes_on_without_the_manifest() -> None:
    async with memory_world() as world:
        await world.put("a.vhd", Random(1).randbytes(4 * CHUNK))
        await world.sync()
        async with await world.replica.open(Layout(VM).manifest("a.vhd", 1), OpenMode.WRITE) as file:
            await file.write(b"?", 4096)
        with pytest.raises(IntegrityError, match="verify --repair"):
            await world.sync()
        await world.sync(resync=True)
        await world.check_all_points()


async def test_another_source_is_refused_until_a_resynchronisation_adopts_it() -> None:
    async with memory_world() as world:
        await world.put("a.vhd", Random(1).randbytes(4 * CHUNK))
        await world.sync()
        moved = MemoryShare("moved")
        world.source = moved
        await world.put("a.vhd", Random(1).randbytes(4 * CHUNK))
        with pytest.raises(DivergedError, match="the source is now moved"):
            await world.sync()
        await world.sync(resync=True)
        await world.sync()
        await world.check_all_points()
        assert (await verify(world.replica, VM, None, world.context())).damages == []


async def test_a_disk_whose_name_changes_only_its_case_is_replicated_where_case_does_not_count() -> None:
    async with memory_world() as world:
        world.replica = MemoryShare(case_sensitive=False)
        await world.put("Web.vhd", Random(1).randbytes(2 * CHUNK))
        await world.sync()
        await world.put("web.vhd", Random(2).randbytes(2 * CHUNK))
        await world.drop("Web.vhd")
        await world.sync()
        await world.check_all_points()


@pytest.mark.parametrize("server_copy", [True, False])
@pytest.mark.parametrize("seed", range(15))
async def test_every_point_restores_exactly_after_random_rounds(seed: int, server_copy: bool) -> None:
    async with memory_world(seed, server_copy=server_copy) as world:
        random = Random(seed)
        await world.put("disk 0.vhd", random.randbytes(random.randint(0, 9 * CHUNK)))
        await world.sync()
        for round_number in range(1, 7):
            for path in list(world.disks):
                if random.random() < 0.7:
                    await world.put(path, mutate(world.disks[path], random))
            if random.random() < 0.3:
                await world.put(f"disk {random.randint(0, 3)}.vhd", random.randbytes(random.randint(0, 5 * CHUNK)))
            if len(world.disks) > 1 and random.random() < 0.3:
                await world.drop(random.choice(sorted(world.disks)))
            await world.sync(resync=random.random() < 0.2)
            assert round_number + 1 in world.history
        await world.check_all_points()
