"""The method `none` on real shares: what is not read again, what is, and holes."""

from __future__ import annotations

import mmap
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from replicad.model.points import Provenance
from replicad.replica.layout import check_disk_path
from replicad.storage.local import LocalShare
from replicad.storage.memory import MemoryShare
from replicad.storage.metered import Meter, MeteredShare
from replicad.storage.port import OpenMode, Share
from replicad.tracking.held import HeldView
from replicad.tracking.marks import MarkStore
from replicad.tracking.port import ChangeSource
from replicad.tracking.selection import Selection
from replicad.tracking.tracked import TrackedSource
from replicad.tracking.unchanged import UnchangedFileTracker
from replicad.workflows.replicate import CycleReport
from tests.support.samba import SambaDirectory, open_share
from tests.support.scene import BLOCK_AT, change, make_vhdx
from tests.support.world import World

NAME = "디스크 🖥.vhdx"
MIB = 1 << 20


@dataclass
class HeldWorld(World):
    """`meter` counts what is read of the source; `directory` is where that lies."""

    directory: Path = Path()
    meter: Meter = field(default_factory=Meter)
    store: Share = field(default_factory=MemoryShare)

    def change_source(self) -> ChangeSource:
        clock = self.time.clock()
        view = HeldView(self.source, Selection(("*.vhd*",), (), ()), check_disk_path, 1, False, clock)
        return TrackedSource(
            view, UnchangedFileTracker(clock), MarkStore(self.store), clock, self.events.append
        )  # fmt: skip

    async def cycle(self) -> tuple[CycleReport, int]:
        """A cycle, and how many bytes of the source it read; the disks are what the files hold."""
        self.disks = {path.name: path.read_bytes() for path in self.directory.iterdir()}
        before = self.meter.read_bytes
        report = await self.sync()
        return report, self.meter.read_bytes - before


@asynccontextmanager
async def _world(share: Share, directory: Path) -> AsyncIterator[HeldWorld]:
    meter = Meter()
    with ThreadPoolExecutor(2, "hash") as hashing:
        metered = MeteredShare(share, meter)
        yield HeldWorld(metered, MemoryShare(), hashing, directory=directory, meter=meter)


@asynccontextmanager
async def local_world(directory: Path) -> AsyncIterator[HeldWorld]:
    share = LocalShare(str(directory))
    try:
        async with _world(share, directory) as world:
            yield world
    finally:
        await share.close()


@asynccontextmanager
async def smb_world(samba: SambaDirectory) -> AsyncIterator[HeldWorld]:
    async with open_share(samba.server, samba.address()) as share, _world(share, samba.path) as world:
        yield world


def _write_and_set_the_time_back(path: Path) -> None:
    before = path.stat()
    change(path, 5)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _write_through_a_mapping(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[BLOCK_AT + 100 : BLOCK_AT + 104] = b"mmap"


def _restore_from_elsewhere(path: Path) -> None:
    """As `cp -p` or a backup does it: another file of the same name, size and write time."""
    before = path.stat()
    other = path.with_suffix(".restored")
    other.write_bytes(path.read_bytes())
    change(other, 6)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


WRITERS = (_write_and_set_the_time_back, _write_through_a_mapping, _restore_from_elsewhere)


async def _check(world: HeldWorld, write: Callable[[Path], None]) -> None:
    path = make_vhdx(world.directory / NAME, 1, blocks=32)
    size_bytes = path.stat().st_size
    first, read_bytes = await world.cycle()
    assert first.provenance == Provenance.FULL_SCAN.value
    assert read_bytes >= 32 * 256 * 1024
    await world.cycle()
    again, read_bytes = await world.cycle()
    assert again.provenance == Provenance.UNCHANGED_FILE.value, again.point.disks[0].note
    (disk,) = again.point.disks
    assert disk.trust is not None
    assert disk.trust.checked_chunks >= 16
    assert disk.statistics.scanned_bytes <= 20 * 64 * 1024
    # Beside the sample: the check of the VHDX, its headers twice, and a byte at the end.
    assert read_bytes <= disk.statistics.scanned_bytes + 2 * MIB
    assert read_bytes < size_bytes // 2
    write(path)
    changed, _ = await world.cycle()
    assert changed.provenance == Provenance.FULL_SCAN.value
    assert changed.point.disks[0].note == "the file is not the one that was read last"
    assert changed.point.statistics.changed_bytes > 0
    # As at the beginning: what was written shortly before it was read proves nothing yet.
    await world.cycle()
    assert (await world.cycle())[0].provenance == Provenance.UNCHANGED_FILE.value
    await world.check_all_points()


@pytest.mark.parametrize("write", WRITERS)
async def test_a_local_disk_is_read_again_only_after_somebody_wrote_it(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    async with local_world(tmp_path) as world:
        await _check(world, write)


@pytest.mark.samba
# Not the time set back: Samba shows the write time as the change time, so sources on servers have no such tracker.
@pytest.mark.parametrize("write", [_write_through_a_mapping, _restore_from_elsewhere])
async def test_a_disk_on_a_server_is_read_again_only_after_somebody_wrote_it(
    samba: SambaDirectory, write: Callable[[Path], None]
) -> None:
    async with smb_world(samba) as world:
        await _check(world, write)


async def test_another_kind_of_disk_is_read_each_time(tmp_path: Path) -> None:
    async with local_world(tmp_path) as world:
        (tmp_path / "raw.vhd").write_bytes(os.urandom(MIB))
        await world.cycle()
        report, read_bytes = await world.cycle()
        assert report.provenance == Provenance.FULL_SCAN.value
        assert read_bytes >= MIB


@pytest.mark.samba
@pytest.mark.parametrize("is_sparse", [True, False])
async def test_holes_of_a_file_on_a_server_are_not_read_where_it_tells_of_them(
    samba: SambaDirectory, is_sparse: bool
) -> None:
    """A file that has no sparse attribute (somebody put it there by other means) is said to be allocated whole."""
    async with smb_world(samba) as world:
        path = samba.path / "hole.vhd"
        if is_sparse:
            async with await world.source.open("hole.vhd", OpenMode.CREATE) as file:
                await file.set_size(64 * MIB)
        else:
            path.touch()
            os.truncate(path, 64 * MIB)
        with path.open("r+b") as raw:
            raw.seek(40 * MIB)
            raw.write(os.urandom(2 * MIB))
        report, read_bytes = await world.cycle()
        scanned_bytes = report.point.statistics.scanned_bytes
        assert scanned_bytes == (2 * MIB if is_sparse else 64 * MIB)
        assert read_bytes - scanned_bytes < MIB
        await world.check_all_points()


async def test_a_mount_of_a_server_is_read_in_each_cycle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no such mount here: the kernel's answer for one is put in the place of its own."""
    cifs = 0xFF534D42
    monkeypatch.setattr("replicad.storage.local.writers.fiemap.file_system", lambda fd: cifs)
    async with local_world(tmp_path) as world:
        path = make_vhdx(world.directory / NAME, 1, blocks=8)
        for _ in range(3):
            assert (await world.cycle())[0].provenance == Provenance.FULL_SCAN.value
        _write_and_set_the_time_back(path)
        changed, _ = await world.cycle()
        assert changed.point.statistics.changed_bytes > 0
