"""Holding a source: all files or none, waiting, giving up, and noticing that a hold was lost."""

from __future__ import annotations

from random import Random

import pytest

from replicad.model.errors import BusyError, InvalidNameError, NotFoundError, UnsupportedError
from replicad.model.points import Consistency, FileKind
from replicad.model.progress import Warned
from replicad.replica.directory import list_numbers, open_replica
from replicad.replica.layout import check_disk_path
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode
from replicad.tracking.selection import Selection, select_files
from tests.support.world import CHUNK, VM, World, memory_world

DISKS = Selection(("*.vhdx",), ("page*.vhdx",), ("*.vmcx", "*.xml"))


async def _share_with(*paths: str) -> MemoryShare:
    share = MemoryShare()
    for path in paths:
        await share.make_dir(path.rpartition("/")[0])
        async with await share.open(path, OpenMode.CREATE) as file:
            await file.write(b"x", 0)
    return share


async def test_patterns_choose_disks_and_configuration_at_any_depth_but_not_in_hidden_directories() -> None:
    share = await _share_with(
        "Virtual Hard Disks/웹 🖥.VHDX", "web.vmcx", "pagefile.vhdx", "notes.txt", ".replicad-1/clone.vhdx", "a/b/c.xml"
    )
    found = await select_files(share, DISKS, check_disk_path)
    assert [(f.path, f.kind) for f in found] == [
        ("Virtual Hard Disks/웹 🖥.VHDX", FileKind.DISK), ("a/b/c.xml", FileKind.CONFIG), ("web.vmcx", FileKind.CONFIG),
    ]  # fmt: skip


async def test_a_named_disk_that_is_missing_is_an_error_that_names_it() -> None:
    share = await _share_with("a.vhdx")
    with pytest.raises(NotFoundError, match=r"disk 'b\.vhdx'"):
        await select_files(share, Selection(("*.vhdx", "b.vhdx"), (), ()), check_disk_path)


async def test_no_disk_at_all_is_an_error_that_names_the_patterns() -> None:
    share = await _share_with("web.vmcx")
    with pytest.raises(NotFoundError, match=r"no file matches \*\.vhdx"):
        await select_files(share, DISKS, check_disk_path)


@pytest.mark.parametrize("names", [("Web.vhdx", "web.vhdx"), ("strasse.vhdx", "straße.vhdx")])
async def test_two_disks_that_a_share_takes_for_one_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(InvalidNameError, match="only by case"):
        await select_files(await _share_with(*names), DISKS, check_disk_path)


@pytest.mark.parametrize("name", ["web.vhdx.updating", "a.INITIAL", "x.undo", "y.xxh3", "web.vhdx.Updating/b.vhdx"])
async def test_names_that_are_replicads_own_are_refused(name: str) -> None:
    with pytest.raises(InvalidNameError, match="replicad's own"):
        await select_files(await _share_with(name), Selection(("*",), (), ()), check_disk_path)


async def test_a_name_too_long_for_the_replicas_files_is_refused() -> None:
    with pytest.raises(InvalidNameError, match="255"):
        await select_files(await _share_with("가" * 80 + ".vhdx"), DISKS, check_disk_path)


async def _two_disks(world: World) -> None:
    await world.put("a.vhd", Random(1).randbytes(2 * CHUNK))
    await world.put("b.vhd", Random(2).randbytes(2 * CHUNK))


async def test_a_writer_is_waited_for_and_the_cycle_goes_on_when_it_has_gone() -> None:
    async with memory_world() as world:
        await _two_disks(world)
        writer = await world.source.open("b.vhd", OpenMode.WRITE)
        asked = 0

        async def sleep(seconds: float) -> None:
            nonlocal asked
            asked += 1
            # While we wait for one disk, nobody is kept from writing the other.
            async with await world.source.open("a.vhd", OpenMode.WRITE):
                pass
            if asked == 2:
                await writer.close()

        world.time.sleep = sleep  # type: ignore[method-assign]  # the clock of this world
        report = await world.sync()
        assert (asked, report.point.consistency) == (2, Consistency.COLD)


async def test_a_writer_that_stays_ends_the_cycle_with_the_hint_and_no_point() -> None:
    async with memory_world() as world:
        await _two_disks(world)
        async with await world.source.open("b.vhd", OpenMode.WRITE):
            with pytest.raises(BusyError, match=r"b\.vhd.*reflink, qemu or command"):
                await world.sync()
        replica = await open_replica(world.replica, VM)
        assert replica is not None
        assert (await list_numbers(replica)).committed == ()
        await world.sync()
        await world.check_all_points()


async def test_allow_fuzzy_reads_on_and_says_so_in_the_point() -> None:
    async with memory_world() as world:
        world.allow_fuzzy = True
        await _two_disks(world)
        async with await world.source.open("b.vhd", OpenMode.WRITE):
            report = await world.sync()
        assert report.point.consistency is Consistency.FUZZY
        assert "read without a hold" in report.point.warnings[0]
        assert any(isinstance(e, Warned) for e in world.events)


async def test_a_share_that_can_not_hold_is_refused_unless_fuzzy_is_allowed() -> None:
    async with memory_world() as world:
        world.source = MemoryShare(hold=False)
        await _two_disks(world)
        with pytest.raises(UnsupportedError, match="allow_fuzzy"):
            await world.sync()
        world.allow_fuzzy = True
        assert (await world.sync()).point.consistency is Consistency.FUZZY


@pytest.mark.parametrize("when", ["first read", "last byte"])
async def test_a_hold_that_is_lost_before_the_end_makes_no_point(when: str) -> None:
    async with memory_world() as world:
        await _two_disks(world)
        await world.sync()
        await world.put("b.vhd", Random(3).randbytes(2 * CHUNK))
        source = world.change_source()
        share = world.source
        assert isinstance(share, MemoryShare)
        async with source.snapshot(None, for_cycle=False) as snapshot:
            if when == "last byte":
                for file in snapshot.files:
                    await file.file.read_into(bytearray(file.size_bytes), 0)
            share.break_hold("a.vhd")
            with pytest.raises(BusyError):
                await snapshot.confirm()
        await world.sync()
        await world.check_all_points()
