"""Removing points: what is refused, what is never touched, and what every reader says of it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from replicad.model.errors import IntegrityError, LockedError, NotFoundError
from replicad.model.progress import Warned
from replicad.model.retention import Keep
from replicad.replica import merged_log
from replicad.replica.layout import Layout
from replicad.replica.undo_log import UndoIndex
from replicad.storage.documents import exists
from replicad.storage.memory import MemoryFile, MemoryShare
from replicad.storage.port import CopyRange, LockHolder, OpenMode, ShareFile
from replicad.workflows.list_points import list_points
from replicad.workflows.pin import pin_points
from replicad.workflows.prune import preview
from replicad.workflows.status import look_at_replica
from replicad.workflows.verify import verify
from tests.support.dying import DyingShare
from tests.support.faulty import Fault, FaultyShare, When, crashes
from tests.support.pruned import check_nothing_is_left_over
from tests.support.world import CHUNK, VM, World, memory_world, read_tree

LAYOUT = Layout(VM)
LATEST_ONLY = Keep(1, 0, 0, 0, 0)
DISK = "웹 디스크 💾.vhd"


async def _points(world: World, count: int, size: int = 4 * CHUNK) -> None:
    """Points that differ in a chunk or two each."""
    random = Random(count)
    await world.put(DISK, random.randbytes(size))
    await world.sync()
    for _ in range(count - 1):
        data = bytearray(world.disks[DISK])
        at = random.randrange(size - CHUNK)
        data[at : at + 700] = random.randbytes(700)
        await world.put(DISK, bytes(data))
        await world.sync()


async def _put_file(world: World, path: str) -> None:
    async with await world.replica.open(path, OpenMode.CREATE) as file:
        await file.write(b"mine", 0)


async def _check(world: World) -> None:
    assert [p.number for p in (await list_points(world.replica, VM)).points] == sorted(world.history)
    await world.check_all_points()
    assert (await verify(world.replica, VM, None, world.context())).damages == []


async def test_all_readers_agree_that_a_pruned_point_is_none() -> None:
    async with memory_world() as world:
        await _points(world, 4)
        await pin_points(world.replica, VM, {1}, (), world.context())
        report = await world.prune(LATEST_ONLY)
        assert [v.kept_by for v in report.verdicts if v.is_kept] == [("pinned",), ("latest",)]
        assert report.removed == (2, 3)
        await _check(world)
        await check_nothing_is_left_over(world)
        found = await verify(world.replica, VM, None, world.context())
        assert found.points == [1, 4]
        seen = await look_at_replica(world.replica, VM)
        assert seen.latest is not None
        assert seen.latest.number == 4
        with pytest.raises(NotFoundError, match="there are 1 and 4, and none between them"):
            await world.restored(3)
        with pytest.raises(NotFoundError, match="none between"):
            await verify(world.replica, VM, 2, world.context())


async def test_a_preview_changes_nothing_and_tells_what_a_prune_then_does() -> None:
    async with memory_world() as world:
        await _points(world, 4)
        before = await read_tree(world.replica)
        planned = await preview(world.replica, VM, LATEST_ONLY)
        assert await read_tree(world.replica) == before
        report = await world.prune(LATEST_ONLY)
        assert report.verdicts == planned.verdicts
        assert report.removed == tuple(v.number for v in planned.verdicts if not v.is_kept) == (1, 2, 3)


async def test_what_others_put_beside_a_record_stays_and_is_told() -> None:
    async with memory_world() as world:
        await _points(world, 3)
        directory = LAYOUT.point_dir(2)
        await _put_file(world, f"{directory}/메모.txt")
        await world.replica.make_dir(f"{directory}/mine.undo")
        await _put_file(world, f"{LAYOUT.point_dir(3)}/notes.txt")
        report = await world.prune(LATEST_ONLY)
        kept = [f"{LAYOUT.pruned_dir(2)}/{name}" for name in ("mine.undo", "메모.txt")]
        assert [path.removeprefix(world.replica.name + "/") for path in report.foreign] == kept
        assert any(isinstance(e, Warned) and "메모.txt is not replicad's" in e.text for e in world.events)
        assert await exists(world.replica, f"{LAYOUT.point_dir(3)}/notes.txt")
        await _check(world)
        again = await world.prune(LATEST_ONLY)
        assert again.foreign == report.foreign
        for path in kept:
            await world.replica.remove(path)
        await world.replica.remove(f"{LAYOUT.point_dir(3)}/notes.txt")
        assert (await world.prune(LATEST_ONLY)).foreign == ()
        await check_nothing_is_left_over(world)


async def test_directories_of_other_names_are_left_alone() -> None:
    async with memory_world() as world:
        await _points(world, 3)
        for name in ("01", "2.backup", "copy of 1", "2.pruned.old"):
            await world.replica.make_dir(f"{LAYOUT.points_dir}/{name}")
        await world.prune(LATEST_ONLY)
        names = {e.name for e in await world.replica.list(LAYOUT.points_dir)}
        assert names == {"3", "01", "2.backup", "copy of 1", "2.pruned.old"}


async def test_points_behind_a_damaged_log_stay_and_others_go() -> None:
    async with memory_world() as world:
        await _points(world, 7)
        await pin_points(world.replica, VM, {2, 5}, (), world.context())
        log = LAYOUT.undo(LAYOUT.point_dir(4), DISK)
        async with await world.replica.open(log, OpenMode.WRITE) as file:
            await file.write(b"?", 4096 + 70)
        report = await world.prune(LATEST_ONLY)
        assert report.removed == (1, 6)
        assert len(report.refused) == 1
        assert "points 3 to 4 can't be removed" in report.refused[0]
        assert [p.number for p in (await list_points(world.replica, VM)).points] == [2, 3, 4, 5, 7]
        for number in (4, 5, 7):
            assert await world.restored(number) == world.history[number]
        assert not await exists(world.replica, LAYOUT.merging_dir(5))


async def test_a_log_that_would_lead_elsewhere_is_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(sources: Sequence[UndoIndex], point: int, subject: str) -> merged_log.Union:
        return right(sources[1:], point, subject)

    right = merged_log.unite
    async with memory_world() as world:
        await _points(world, 4)
        await pin_points(world.replica, VM, {1}, (), world.context())
        with monkeypatch.context() as patched:
            patched.setattr(merged_log, "unite", forgetful)
            report = await world.prune(LATEST_ONLY)
        assert report.removed == ()
        assert "does not lead back to point 1" in report.refused[0]
        await _check(world)
        assert (await world.prune(LATEST_ONLY)).removed == (2, 3)
        await _check(world)


async def test_a_damaged_record_stops_pruning_before_anything_is_removed() -> None:
    async with memory_world() as world:
        await _points(world, 4)
        for path in (LAYOUT.point_record(LAYOUT.point_dir(2)), LAYOUT.point_record_copy(LAYOUT.point_dir(2))):
            await world.replica.remove(path)
        before = {e.name for e in await world.replica.list(LAYOUT.points_dir)}
        with pytest.raises(IntegrityError, match=r"point\.json"):
            await world.prune(LATEST_ONLY)
        assert {e.name for e in await world.replica.list(LAYOUT.points_dir)} == before


async def test_chunks_that_were_cut_off_and_written_again_are_zeros_where_they_were() -> None:
    async with memory_world() as world:
        random = Random(1)
        await world.put(DISK, random.randbytes(CHUNK) + bytes(3 * CHUNK))
        await world.sync()
        await world.put(DISK, world.disks[DISK][:CHUNK])
        await world.sync()
        await world.put(DISK, world.disks[DISK] + random.randbytes(5 * CHUNK))
        await world.sync()
        await pin_points(world.replica, VM, {1}, (), world.context())
        assert (await world.prune(LATEST_ONLY)).removed == (2,)
        await _check(world)


async def test_disks_whose_names_look_like_those_of_merged_logs_are_told_apart() -> None:
    async with memory_world() as world:
        random = Random(1)
        names = ("a", "a.1", "a.1.merged", "a.2", "b")
        for number in range(5):
            for name in names:
                if number % 2 and name in world.disks:
                    await world.drop(name)
                else:
                    await world.put(name, random.randbytes(2 * CHUNK))
            await world.put("c", random.randbytes(CHUNK))
            await world.sync()
        await pin_points(world.replica, VM, {1, 3}, (), world.context())
        assert (await world.prune(LATEST_ONLY)).removed == (2, 4)
        await _check(world)
        await check_nothing_is_left_over(world)


async def test_an_interrupted_cycle_is_gone_on_with_after_a_prune() -> None:
    async with memory_world() as world:
        await _points(world, 4)
        share = world.replica
        assert isinstance(share, MemoryShare)
        await world.put(DISK, Random(9).randbytes(4 * CHUNK))
        world.replica = faulty = FaultyShare(share)
        await world.sync()
        writes = next(n for n, what in enumerate(faulty.log, 1) if what.startswith(f"write {LAYOUT.updating(DISK)}"))
    async with memory_world() as world:
        await _points(world, 4)
        share = world.replica
        assert isinstance(share, MemoryShare)
        await world.put(DISK, Random(9).randbytes(4 * CHUNK))
        world.replica = FaultyShare(share, {writes: Fault(When.TORN)})
        assert await crashes(world.sync())
        world.replica = share.view()
        await pin_points(world.replica, VM, {2}, (), world.context())
        assert (await world.prune(LATEST_ONLY)).removed == (1, 3)
        await world.check_all_points()
        assert (await world.sync()).resumed
        await _check(world)


async def test_pins_hold_until_they_are_taken_back() -> None:
    async with memory_world() as world:
        await _points(world, 3)
        points = await pin_points(world.replica, VM, {1, 2}, (), world.context())
        assert [p.pinned for p in points] == [True, True, False]
        assert (await world.prune(LATEST_ONLY)).removed == ()
        await pin_points(world.replica, VM, (), {1}, world.context())
        assert (await world.prune(LATEST_ONLY)).removed == (1,)
        await _check(world)


async def test_new_pins_are_written_down_before_an_old_one_goes() -> None:
    async with memory_world() as world:
        await _points(world, 4)
        await pin_points(world.replica, VM, {1}, (), world.context())
        world.replica = faulty = FaultyShare(world.replica)
        await pin_points(world.replica, VM, {2, 3}, {1, 3}, world.context())
        changed = [what for what in faulty.log if what.startswith("rename") and what.endswith("/point.json")]
        assert [what.split("/")[-2] for what in changed] == ["2", "1"]
        assert [p.pinned for p in (await list_points(world.replica, VM)).points] == [False, True, False, False]


async def test_pinning_again_mends_the_copy_that_whoever_died_left_as_it_was() -> None:
    async with memory_world() as world:
        await _points(world, 2)
        share = world.replica
        assert isinstance(share, MemoryShare)
        copy = LAYOUT.point_record_copy(LAYOUT.point_dir(1))
        dying = DyingShare(share.view(), lambda what: what.startswith("rename") and what.endswith(copy), 1, When.BEFORE)
        assert await crashes(pin_points(dying, VM, {1}, (), world.context()))
        world.replica = share.view()
        assert [d.file for d in (await verify(world.replica, VM, None, world.context())).damages] == [copy]
        await pin_points(world.replica, VM, {1}, (), world.context())
        found = await verify(world.replica, VM, None, world.context())
        assert (found.damages, found.leftovers) == ([], [])
        before = await read_tree(world.replica)
        await pin_points(world.replica, VM, {1}, (), world.context())
        assert await read_tree(world.replica) == before


async def test_a_pin_on_no_point_changes_nothing() -> None:
    async with memory_world() as world:
        await _points(world, 2)
        before = await read_tree(world.replica)
        with pytest.raises(NotFoundError, match="recovery point 9"):
            await pin_points(world.replica, VM, {1, 9}, (), world.context())
        assert await read_tree(world.replica) == before


async def test_prune_and_pin_wait_for_nobody_who_holds_the_replica() -> None:
    async with memory_world() as world:
        await _points(world, 3)
        other = LockHolder("다른 호스트", "m", "b", 7, "1", "2026-01-01T00:00:00Z")
        share = world.replica
        assert isinstance(share, MemoryShare)
        async with await share.view().lock(LAYOUT.lock, other):
            with pytest.raises(LockedError):
                await world.prune(LATEST_ONLY)
            with pytest.raises(LockedError):
                await pin_points(world.replica, VM, {1}, (), world.context())
        await _check(world)


async def test_a_cycle_of_a_vm_that_keeps_all_points_reads_no_older_record(monkeypatch: pytest.MonkeyPatch) -> None:
    async with memory_world() as world:
        await _points(world, 3)

        async def read(*_: object) -> None:
            raise AssertionError("the records of all points were read")

        monkeypatch.setattr("replicad.workflows.prune.read_lineage", read)
        await world.put(DISK, bytes(4 * CHUNK))
        await world.sync(keep=Keep(0, 0, 0, 0, 0))
        await world.check_all_points()


async def test_old_bytes_that_the_share_copies_wrongly_keep_their_points(monkeypatch: pytest.MonkeyPatch) -> None:
    copy_from = MemoryFile.copy_from

    async def lying(file: MemoryFile, source: ShareFile, ranges: Sequence[CopyRange]) -> None:
        await copy_from(file, source, ranges)
        await file.write(b"\xaa" * 512, ranges[0].offset_bytes)

    async with memory_world() as world:
        await _points(world, 4)
        await pin_points(world.replica, VM, {1}, (), world.context())
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFile, "copy_from", lying)
            report = await world.prune(LATEST_ONLY)
        assert report.removed == ()
        assert "reads back different from what was copied" in report.refused[0]
        await world.check_all_points()
        assert (await world.prune(LATEST_ONLY)).removed == (2, 3)
        await world.check_all_points()
