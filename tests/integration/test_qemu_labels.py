"""What points of machines under QEMU promise is what was reached, also where QEMU is not the one who writes."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from replicad.model.errors import BusyError
from replicad.model.points import Consistency
from tests.support.filesystems import mounted
from tests.support.qemu import make_vhdx, running_qemu
from tests.support.under_qemu import NAMES, UnderQemu, under_qemu

pytestmark = pytest.mark.root


async def test_disks_that_another_qemu_writes_are_never_called_of_one_instant(tmp_path: Path) -> None:
    """The wrong monitor in the configuration: who stands still is not who writes."""
    with mounted("xfs") as where:
        async with under_qemu(where) as world, running_qemu([make_vhdx(tmp_path / "other.vhdx", "8M")]) as other:
            _monitor(world, other.monitor)
            with pytest.raises(BusyError, match="does not write it"):
                await world.cycle()
            assert await other.own.status() == "running"


async def test_a_disk_of_the_machine_that_nobody_has_open_is_of_the_instant_of_the_others(tmp_path: Path) -> None:
    with mounted("xfs") as where:
        async with under_qemu(where) as world:
            assert world.qemu is not None
            await world.qemu.own.execute("blockdev-del", node_name="disk1")
            await world.qemu.own.execute("blockdev-del", node_name="disk1-file")
            report = await world.cycle()
            assert report.point.consistency is Consistency.CRASH
            async with running_qemu([Path(world.source.name) / NAMES[1]]):
                with pytest.raises(BusyError, match=NAMES[1]):
                    await world.cycle()


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
async def test_a_disk_under_an_overlay_is_not_taken_for_the_machines(tmp_path: Path, kind: str) -> None:
    with mounted(kind) as where:
        async with under_qemu(where) as world:
            assert world.qemu is not None
            overlay = tmp_path / "덮개.qcow2"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", overlay, "8M"], check=True)
            file = {"driver": "file", "filename": str(overlay)}
            await world.qemu.own.execute("blockdev-add", driver="qcow2", node_name="over", file=file, backing=None)
            await world.qemu.own.execute("blockdev-snapshot", node="disk0", overlay="over")
            with pytest.raises(BusyError, match=r"writes to an overlay of it, '.*덮개.qcow2'"):
                await world.cycle()
            assert await world.qemu.own.status() == "running"


def _monitor(world: UnderQemu, monitor: Path) -> None:
    assert world.settings is not None
    world.settings = replace(
        world.settings, consistency=replace(world.settings.consistency, monitor=monitor)
    )  # fmt: skip
