"""A real guest that writes records while its disks are switched to other files: none is lost or torn, and it hardly
notices."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import pytest

from replicad.model.errors import BusyError
from replicad.model.moves import Side
from tests.support.filesystems import mounted
from tests.support.guest import Guest, Load, build_guest, check_disk, monitor, running_guest
from tests.support.moving_guest import Move
from tests.support.running_machine import make_disks

_LOAD = Load(rate_per_s=100, churn_bytes_per_s=1024 * 1024)
_BUSY = Load(rate_per_s=0, churn_bytes_per_s=16 * 1024 * 1024)
_GIB = 1024 * 1024 * 1024
_ROUND_S = 0.3


@dataclass
class Moved:
    """A guest and the next move of its disks; `pauses_s` are the longest times without a heartbeat around each switch,
    and `quiet_s` those of as long a time without one."""

    guest: Guest
    move: Move
    clones: bool
    pauses_s: list[float] = field(default_factory=list)
    quiet_s: list[float] = field(default_factory=list)

    async def switch(self) -> None:
        """Move all disks, and from now on the other way round."""
        move, began_s = self.move, time.monotonic()
        await asyncio.sleep(_ROUND_S)
        async with move.user().still(move.files) as still:
            await asyncio.to_thread(move.clone if self.clones else move.copy)
            await still.check()
            await still.switch(move.files)
        self.pauses_s.append(self.guest.longest_gap(began_s, time.monotonic()))
        assert await move.sides() == {Side.DESTINATION}
        for name in move.names:
            (move.source / name).unlink()
        self.move = move.back

    async def stay(self) -> None:
        began_s = time.monotonic()
        await asyncio.sleep(2 * _ROUND_S)
        self.quiet_s.append(self.guest.longest_gap(began_s, time.monotonic()))


@asynccontextmanager
async def machine(
    kind: str, disks: int, *, load: Load = _LOAD, node_names: bool = True,
    cache: Literal["none", "writeback"] = "writeback",
) -> AsyncIterator[Moved]:  # fmt: skip
    """In the end all that it wrote is looked for where it used its disks last."""
    image = await asyncio.to_thread(build_guest)
    with mounted(kind, 4 * _GIB) as root, tempfile.TemporaryDirectory(prefix="replicad-") as scratch:
        source = root / "원본"
        source.mkdir()
        paths = make_disks(source, disks)
        names = tuple(path.name for path in paths)
        async with running_guest(
            image, paths, directory=Path(scratch), load=load, node_names=node_names, cache=cache
        ) as guest:
            it = Moved(guest, Move(guest.qmp_path, source, root / "대상", names), kind == "xfs")
            yield it
            await guest.wait_durable(guest.durable().number + 5)
            durable = guest.durable().number
            await guest.power_off()
        assert guest.io_errors == []
        found = check_disk([it.move.source / name for name in names])
        assert found.sound, found
        assert found.records_through >= durable


@pytest.mark.parametrize(
    ("kind", "disks", "node_names", "cache"), [("xfs", 2, True, "writeback"), ("ext4", 1, False, "none")]
)
async def test_no_record_is_lost_by_switches_back_and_forth(
    kind: str, disks: int, node_names: bool, cache: Literal["none", "writeback"]
) -> None:
    async with machine(kind, disks, node_names=node_names, cache=cache) as it:
        for _ in range(4):
            await it.guest.wait_durable(it.guest.durable().number + 20)
            await it.switch()


async def test_a_guest_that_somebody_lets_write_meanwhile_is_not_switched() -> None:
    async with machine("xfs", 1) as it:
        async with it.move.user().still(it.move.files) as still:
            it.move.clone()
            own = it.guest.own_qmp_path
            async with monitor(own) as asked:
                await asked.execute("cont")
                await it.guest.wait_durable(it.guest.durable().number + 5)
                await asked.execute("stop")
            with pytest.raises(BusyError, match="has written"):
                await still.check()
            with pytest.raises(BusyError, match="has written"):
                await still.switch(it.move.files)
        assert await it.move.sides() == {Side.SOURCE}


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "disks", "load", "node_names"),
    [("xfs", 1, _LOAD, True), ("xfs", 3, _LOAD, False), ("xfs", 2, _BUSY, True), ("ext4", 2, _BUSY, True)],
)
async def test_forty_switches_in_a_row(kind: str, disks: int, load: Load, node_names: bool) -> None:
    async with machine(kind, disks, load=load, node_names=node_names) as it:
        for _ in range(40):
            await it.guest.wait_durable(it.guest.durable().number + 20)
            await it.stay()
            await it.switch()
        # Loosely: this host has other things to do, and where nothing can be cloned all is copied meanwhile.
        if it.clones:
            assert median(it.pauses_s) < 0.5 + median(it.quiet_s), it
