"""Which node has which disk: by the file that is really open, not by its name."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from replicad.hypervisor.qemu.monitor import Monitor
from replicad.hypervisor.qemu.nodes import Disks, find_disks
from tests.support.filesystems import bound
from tests.support.qemu import Qemu, make_vhdx, running_qemu

NAME = "웹, 디스크 🖥.vhdx"


async def find(qemu: Qemu, directory: Path, paths: Sequence[str]) -> Disks:
    monitor = Monitor(qemu.monitor, 20)
    async with monitor.session() as qmp:
        return await find_disks(qmp, monitor.executor, str(directory), paths)


@pytest.mark.parametrize("named", [True, False])
async def test_disks_are_found_however_qemu_was_given_them(tmp_path: Path, named: bool) -> None:
    first, second = make_vhdx(tmp_path / NAME), make_vhdx(tmp_path / "b.vhdx")
    (tmp_path / "web.vmcx").write_bytes(b"x")
    async with running_qemu([first, second], named=named) as qemu:
        found = await find(qemu, tmp_path, [NAME, "b.vhdx", "web.vmcx", "gone.vhdx"])
        assert found.process.pid == qemu.process.pid
        assert set(found.nodes) == {NAME, "b.vhdx"}
        assert found.missing == {"web.vmcx": "QEMU does not use it", "gone.vhdx": "it is not there"}
        node = found.nodes[NAME]
        assert node.inode == (first.stat().st_dev, first.stat().st_ino)
        assert node.size_bytes == first.stat().st_size
        if named:
            assert node.name == "disk0-file"
        await qemu.own.execute("block-dirty-bitmap-add", node=node.name, name="가", granularity=4096)
        [bitmap] = (await find(qemu, tmp_path, [NAME])).nodes[NAME].bitmaps.values()
        assert (bitmap.name, bitmap.sound, bitmap.granularity_bytes) == ("가", True, 4096)
        await qemu.own.execute("block-dirty-bitmap-disable", node=node.name, name="가")
        [bitmap] = (await find(qemu, tmp_path, [NAME])).nodes[NAME].bitmaps.values()
        assert not bitmap.sound


async def test_disks_that_qemu_was_given_open_are_found(tmp_path: Path) -> None:
    disk = make_vhdx(tmp_path / NAME)
    make_vhdx(tmp_path / "b.vhdx")
    async with running_qemu([]) as qemu:
        monitor = Monitor(qemu.monitor, 20)
        async with monitor.session() as qmp:
            for mode in (os.O_RDONLY, os.O_RDWR):
                opened = os.open(disk, mode)
                await qmp.execute("add-fd", {"fdset-id": 7}, descriptor=opened)
                os.close(opened)
            await qmp.execute("blockdev-add", {"driver": "file", "filename": "/dev/fdset/7", "node-name": "given"})
        found = await find(qemu, tmp_path, [NAME, "b.vhdx"])
        assert found.nodes[NAME].name == "given"
        assert found.missing == {"b.vhdx": "QEMU does not use it"}


async def test_relative_names_and_links_lead_to_the_same_file(tmp_path: Path) -> None:
    make_vhdx(tmp_path / NAME)
    (tmp_path / "link.vhdx").symlink_to(NAME)
    async with running_qemu([Path("link.vhdx")], cwd=tmp_path) as qemu:
        found = await find(qemu, tmp_path, [NAME, "link.vhdx"])
        assert found.nodes[NAME].name == "disk0-file"
        assert found.missing == {"link.vhdx": "QEMU does not use it"}


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
async def test_a_bind_mount_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "여기").mkdir()
    make_vhdx(tmp_path / "there" / NAME)
    with bound(tmp_path / "there", tmp_path / "여기"):
        async with running_qemu([tmp_path / "there" / NAME]) as qemu:
            found = await find(qemu, tmp_path / "여기", [NAME])
            assert found.nodes[NAME].name == "disk0-file"


async def test_a_file_put_in_place_of_the_one_that_is_open_is_not_taken_for_it(tmp_path: Path) -> None:
    disk = make_vhdx(tmp_path / NAME)
    async with running_qemu([disk]) as qemu:
        make_vhdx(tmp_path / "new").rename(disk)
        found = await find(qemu, tmp_path, [NAME])
        assert not found.nodes
        assert "replaced by another file" in found.missing[NAME]


async def test_what_qemu_only_reads_or_has_twice_is_left_out(tmp_path: Path) -> None:
    read, twice = make_vhdx(tmp_path / "read.vhdx"), make_vhdx(tmp_path / "twice.vhdx")
    options = {"driver": "file", "filename": str(read), "read-only": True, "node-name": "r"}
    more = ["-blockdev", json.dumps(options)]
    for number in "ab":
        more += ["-blockdev", f"driver=file,filename={twice},node-name={number},locking=off"]
    async with running_qemu([], more=more) as qemu:
        found = await find(qemu, tmp_path, ["read.vhdx", "twice.vhdx"])
    assert not found.nodes
    assert "read-only" in found.missing["read.vhdx"]
    assert "more than once" in found.missing["twice.vhdx"]
