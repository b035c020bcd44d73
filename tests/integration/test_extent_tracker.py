"""Cycles that read only what two clones don't share: whatever happens to the clones and the disks between them, each
point is right, and where the tracker can't know it says why."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from replicad.model.points import Provenance
from replicad.model.progress import Warned
from replicad.replica.directory import open_replica
from replicad.storage.local import LocalShare
from replicad.storage.memory import MemoryShare
from replicad.storage.metered import MeteredShare
from replicad.storage.port import RoomOnDisk
from replicad.tracking.extents import drop_clones, is_clone, kept_bytes
from replicad.tracking.marks import MarkStore
from replicad.tracking.port import Facts, Untold
from replicad.workflows.dry_run import dry_run
from tests.support.cloned import NAME, ClonedDisk, CloningWorld, request
from tests.support.filesystems import mounted, overlaid
from tests.support.rewriting import Rewriter
from tests.support.world import CHUNK, VM

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")

_SAMPLE = 16
"""So many chunks of those that are called unchanged are looked at all the same."""
_DISK = "하위 폴더/디스크 1 🖴.vhd"


@pytest.fixture(params=["xfs", "btrfs"])
def where(request: pytest.FixtureRequest) -> Iterator[Path]:
    with mounted(request.param, 1 << 30) as path:
        yield path


@asynccontextmanager
async def _world(where: Path) -> AsyncIterator[CloningWorld]:
    """One with a point, whose clone is kept."""
    directory = where / "vm"
    directory.mkdir()
    share = LocalShare(str(directory))
    with ThreadPoolExecutor(1) as hashing:
        world = CloningWorld(
            share, MemoryShare("replica"), hashing, marks=MarkStore(MemoryShare("state")), patterns=("*.vhd",)
        )
        await world.put(_DISK, Random(1).randbytes(16 * CHUNK))
        await world.sync()
        assert len(await world.kept()) == 1
        yield world
        await share.close()


def _path(world: CloningWorld, path: str = _DISK) -> Path:
    return Path(world.source.name, path)


def _write(world: CloningWorld, at: int, data: bytes) -> None:
    with _path(world).open("r+b") as file:
        file.seek(at)
        file.write(data)
    world.disks[_DISK] = _path(world).read_bytes()


async def _only_clone(world: CloningWorld) -> Path:
    (clone,) = await world.kept()
    return _path(world, clone)


async def test_a_cycle_reads_what_was_written_and_nothing_else(where: Path) -> None:
    async with _world(where) as world:
        await world.put(_DISK, Random(1).randbytes(256 * CHUNK))
        await world.sync()
        metered = MeteredShare(world.source)
        world.source = metered
        _write(world, 3 * CHUNK + 10, b"written")
        report = await world.sync()
        assert report.provenance == "extents"
        assert report.statistics.scanned_bytes == (1 + _SAMPLE) * CHUNK
        assert metered.meter.read_bytes <= (1 + _SAMPLE) * CHUNK + 4096, metered.meter  # a byte of the hold, beside
        report = await world.sync()
        assert report.statistics.scanned_bytes == _SAMPLE * CHUNK
        await world.check_all_points()
        assert len(await world.kept()) == 1


async def test_the_cost_of_a_cycle_follows_the_changes_and_not_the_disk(where: Path) -> None:
    found: list[tuple[int, dict[str, int]]] = []
    async with _world(where) as world:
        for times in (1, 32):
            await world.drop(_DISK)
            await world.put(_DISK, Random(1).randbytes(128 * CHUNK))
            os.truncate(_path(world), times * 128 * CHUNK)
            await world.sync()
            world.source = metered = MeteredShare(world.source)
            with _path(world).open("r+b") as file:
                for chunk in range(0, 128, 8):
                    file.seek(chunk * CHUNK + 5)
                    file.write(b"changed")
            assert (await world.sync()).provenance == "extents"
            found.append((metered.meter.read_bytes, dict(metered.meter.calls)))
            world.source = metered.inner
    (small_bytes, small), (large_bytes, large) = found
    assert small_bytes <= (16 + _SAMPLE) * CHUNK + 4096
    assert large_bytes <= small_bytes + 16 * CHUNK, "the sample has some of the holes, too"
    assert sum(large.values()) <= sum(small.values()) + 16
    assert large["extent_map"] == small["extent_map"] == 3


def _restored_by_copy(world: CloningWorld, clone: Path) -> None:
    _path(world).unlink()
    shutil.copyfile(clone, _path(world))


def _restored_by_reflink(world: CloningWorld, clone: Path) -> None:
    _path(world).unlink()
    subprocess.run(["cp", "--reflink=always", str(clone), str(_path(world))], check=True)


def _restored_in_place(world: CloningWorld, clone: Path) -> None:
    _path(world).write_bytes(clone.read_bytes())


def _made_to_look_old(world: CloningWorld, clone: Path) -> None:
    os.utime(_path(world), (1, 1))


def _in_order(world: CloningWorld, clone: Path) -> None:
    subprocess.run(["sync", "-f", str(clone)], check=True)


@pytest.mark.parametrize(
    "lie", [_restored_by_copy, _restored_by_reflink, _restored_in_place, _made_to_look_old, _in_order]
)
async def test_a_disk_that_was_put_back_from_elsewhere_makes_a_right_point(
    where: Path, lie: Callable[[CloningWorld, Path], None]
) -> None:
    async with _world(where) as world:
        _write(world, 5 * CHUNK, b"lost by the lie")
        lie(world, await _only_clone(world))
        world.disks[_DISK] = _path(world).read_bytes()
        assert (await world.sync()).provenance == "extents"
        _write(world, 0, b"on it goes")
        assert (await world.sync()).provenance == "extents"
        await world.check_all_points()


def _replaced(clone: Path, live: Path) -> None:
    """By a copy of the disk as it is now, with the same name, times and mode: by it, nothing would have changed."""
    times = clone.stat()
    clone.unlink()
    subprocess.run(["cp", "--reflink=always", str(live), str(clone)], check=True)
    clone.chmod(0o400)
    os.utime(clone, ns=(times.st_atime_ns, times.st_mtime_ns))


def _overwritten(clone: Path, live: Path) -> None:
    """In place by the blocks of the disk as it is now, with its times put back."""
    times = clone.stat()
    subprocess.run(["cp", "--reflink=always", str(live), str(clone)], check=True)
    os.utime(clone, ns=(times.st_atime_ns, times.st_mtime_ns))


def _cut(clone: Path, live: Path) -> None:
    os.truncate(clone, 100)


def _removed(clone: Path, live: Path) -> None:
    clone.unlink()


def _linked(clone: Path, live: Path) -> None:
    clone.unlink()
    clone.symlink_to(live)


def _directory_linked(clone: Path, live: Path) -> None:
    elsewhere = clone.parent.with_name("elsewhere")
    clone.parent.rename(elsewhere)
    clone.parent.symlink_to(elsewhere)


@pytest.mark.parametrize(
    ("lie", "answer"),
    [
        (_replaced, "another file"), (_overwritten, "was changed"), (_cut, "was changed"), (_removed, "is gone"),
        (_linked, "symbolic link"), (_directory_linked, "symbolic link"),
    ],
)  # fmt: skip
async def test_a_clone_that_is_not_what_was_kept_is_noticed_and_all_is_read(
    where: Path, lie: Callable[[Path, Path], None], answer: str
) -> None:
    async with _world(where) as world:
        _write(world, 5 * CHUNK, b"a lie would lose this")
        lie(await _only_clone(world), _path(world))
        source = world.change_source()
        assert world.marks is not None
        replica_id = await _replica_id(world)
        (mark,) = (await world.marks.load(replica_id)).marks
        async with source.snapshot(replica_id, for_cycle=False) as snapshot:
            told = await snapshot.changes(snapshot.files[0], mark.state)
            assert answer in told.note
        report = await world.sync()
        assert report.provenance == "full-scan"
        await world.check_all_points()
        if lie is not _directory_linked:  # a directory that is none of ours is left alone, and no clone is kept
            _write(world, 0, b"on it goes")
            assert (await world.sync()).provenance == "extents"
            await world.check_all_points()


async def _replica_id(world: CloningWorld) -> str:
    replica = await open_replica(world.replica, VM)
    assert replica is not None
    return replica.record.replica_id


async def test_a_dry_run_leaves_nothing_and_takes_nothing_away(where: Path) -> None:
    async with _world(where) as world:
        _write(world, 3 * CHUNK, b"x")
        before = sorted(Path(world.source.name).rglob("*"))
        told = await dry_run(world.job(), world.change_source(), world.replica, world.context())
        assert [(d.action, d.scanned_bytes) for d in told.disks] == [("delta", CHUNK)]
        assert sorted(Path(world.source.name).rglob("*")) == before


async def test_what_dead_cycles_left_is_removed_and_what_is_not_ours_stays(where: Path) -> None:
    async with _world(where) as world:
        clone = await _only_clone(world)
        left = clone.with_name("ab" * 16 + ".clone")
        shutil.copyfile(clone, left)
        foreign = [clone.with_name(name) for name in ("메모.txt", "ab" * 16, "AB" * 16 + ".clone", "x.clone")]
        other = clone.parent.with_name(".replicad-" + "0" * 16)
        other.mkdir()
        foreign += [other / ("cd" * 16 + ".clone"), clone.parent.with_name(".replicad-x")]
        for path in foreign:
            path.write_bytes(b"not ours")
        await world.sync()
        assert not left.exists()
        assert all(path.read_bytes() == b"not ours" for path in foreign)
        assert await drop_clones(world.source) == 2, "its own and that of the other replica"
        assert all(path.exists() for path in foreign if path.parent != other)


async def test_with_too_little_room_no_clone_is_kept_and_all_is_read_until_there_is(where: Path) -> None:
    async with _world(where) as world:
        world.keep_free_bytes = 1 << 40
        _write(world, 0, b"a")
        assert (await world.sync()).provenance == "full-scan"
        assert await world.kept() == []
        assert not list(Path(world.source.name).glob(".replicad-*"))
        assert any(isinstance(e, Warned) and "keep_free" in e.text for e in world.events)
        _write(world, 0, b"b")
        assert (await world.sync()).provenance == "full-scan"
        world.keep_free_bytes = 0
        await world.sync()
        _write(world, 0, b"c")
        assert (await world.sync()).provenance == "extents"
        await world.check_all_points()


async def test_no_clone_is_kept_where_the_room_was_used_up_while_it_was_read(
    where: Path,
) -> None:
    with ThreadPoolExecutor(1) as hashing:
        disk = ClonedDisk(where, hashing)
        disk.path.write_bytes(b"some bytes")
        tracker = disk.tracker()
        await tracker.begin(request(), ())
        async with disk.cloned() as file:
            disk.keep_free_bytes = 1 << 40
            assert await tracker.mark(file) is None
            (warned,) = disk.events
            assert isinstance(warned, Warned)
            assert "the next cycle reads all" in warned.text
            disk.keep_free_bytes = 0
            assert await tracker.mark(file) is not None
        await disk.share.close()


async def test_where_places_tell_nothing_no_clone_takes_room_for_nothing(tmp_path: Path) -> None:
    """Overlays can clone what lies on an XFS below, but don't say where it lies."""
    with mounted("xfs") as below, overlaid(below, tmp_path), ThreadPoolExecutor(1) as hashing:
        share = LocalShare(str(tmp_path))
        world = CloningWorld(
            share, MemoryShare("replica"), hashing, marks=MarkStore(MemoryShare("state")), patterns=("*.vhd",)
        )
        await world.put("디스크.vhd", Random(1).randbytes(4 * CHUNK))
        await world.sync()
        assert await world.kept() == []
        assert any(isinstance(e, Warned) and "extents" in e.text for e in world.events), "it is told why"
        await world.put("디스크.vhd", Random(2).randbytes(4 * CHUNK))
        assert (await world.sync()).provenance == "full-scan"
        assert [path.name for path in tmp_path.iterdir()] == ["디스크.vhd"]
        await world.check_all_points()
        await share.close()


async def test_what_clones_pin_is_what_their_removal_gives_back() -> None:
    with mounted("xfs", 1 << 30) as where:
        async with _world(where) as world:
            assert await kept_bytes(world.source) == 0
            _write(world, 2 * CHUNK, Random(3).randbytes(4 * CHUNK))
            os.sync()
            assert await kept_bytes(world.source) == 4 * CHUNK


async def test_facts_that_lead_elsewhere_are_not_followed_and_nothing_is_removed_by_them() -> None:
    with mounted("xfs") as where, ThreadPoolExecutor(1) as executor:
        disk = ClonedDisk(where, executor)
        disk.path.write_bytes(b"x" * 9000)
        tracker = disk.tracker()
        places = (disk.path.name, "../x", f".replicad-{NAME}/../{disk.path.name}", "", f".replicad-{NAME}/x.clone")
        for place in places:
            facts: Facts = {"clone": place, "fingerprint": ""}
            assert not is_clone(place)
            assert isinstance(await disk.changes(facts), Untold)
            await tracker.forget(disk.path.name, facts)
        assert disk.path.exists()
        # A file that has a name of its own is never given a second one.
        async with disk.cloned() as file:
            await tracker.begin(request(), ())
            assert await tracker.mark(file) is not None
            again = replace(file)
            assert await tracker.mark(again) is None
        await disk.share.close()


async def test_room_is_that_of_the_file_system() -> None:
    with mounted("xfs") as where:
        share = LocalShare(str(where))
        found = os.statvfs(where)
        assert await share.room() == RoomOnDisk(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)
        assert await share.free_bytes() == (await share.room()).free_bytes
        await share.close()


async def test_cycle_after_cycle_each_point_is_what_the_disk_was(where: Path) -> None:
    kind = (
        "btrfs"
        if subprocess.run(["btrfs", "filesystem", "df", str(where)], capture_output=True).returncode == 0
        else "xfs"
    )
    async with _world(where) as world:
        rewriter = Rewriter(_path(world), kind, Random(11))
        rewriter.other.rename(_path(world).with_name("다른 파일.bin"))
        told: set[str] = set()
        for _ in range(20):
            rewriter.some()
            world.disks[_DISK] = _path(world).read_bytes()
            report = await world.sync()
            told |= {disk.provenance.value for disk in report.point.disks}
        assert told == {Provenance.EXTENTS.value}
        await world.check_all_points()
