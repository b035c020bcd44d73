"""A real guest that writes records, replicated while it runs: every point holds all that was durable at its moment."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from replicad.model.points import Consistency, Provenance
from replicad.storage.local import cloning
from tests.support.filesystems import mounted
from tests.support.guest import Load, build_guest, running_guest
from tests.support.running_machine import RunningMachine, make_disks, replicated, write_settings

_log = logging.getLogger(__name__)
_STOP_AND_GO = """
import json, socket, sys
with socket.socket(socket.AF_UNIX) as monitor:
    monitor.connect(sys.argv[1])
    with monitor.makefile("rw") as stream:
        stream.readline()
        for command in ("qmp_capabilities", sys.argv[2]):
            print(json.dumps({"execute": command}), file=stream, flush=True)
            while "return" not in json.loads(stream.readline()):
                pass
print("crash")
"""
_LOAD = Load(rate_per_s=60, max_bytes=32 * 1024, churn_bytes_per_s=1024 * 1024)
_GIB = 1024 * 1024 * 1024


@asynccontextmanager
async def _machine(
    kind: str, disks: int, consistency: str, *, agent: bool = False, node_names: bool = True, load: Load = _LOAD
) -> AsyncIterator[RunningMachine]:
    image = await asyncio.to_thread(build_guest)
    with mounted(kind, 4 * _GIB) as source, tempfile.TemporaryDirectory(prefix="replicad-") as scratch:
        root = Path(scratch)
        sockets = root / "s"
        sockets.mkdir()
        paths = make_disks(source, disks)
        replica = root / "복제"
        replica.mkdir()
        script = root / "stop and go.py"
        script.write_text(_STOP_AND_GO)
        text = consistency.format(
            monitor=sockets / "qmp",
            agent=sockets / "agent",
            program=f"'{sys.executable}', '{script}', '{sockets}/own-qmp'",
        )
        settings = write_settings(root, source, replica, text)
        async with (
            running_guest(image, paths, directory=sockets, agent=agent, node_names=node_names, load=load) as guest,
            replicated(settings, guest, paths, root) as machine,
        ):
            yield machine


async def _run(machine: RunningMachine, cycles: int) -> None:
    """So many cycles, with some records between them; then every point is looked at."""
    for _ in range(cycles):
        await machine.guest.wait_durable(machine.guest.durable().number + 5)
        await machine.sync()
    for number, cycle in machine.cycles.items():
        found = await machine.checked(number)
        assert found.sound, (number, found, cycle.warnings)
        assert found.records_through >= cycle.durable, (number, found, cycle)
        shutil.rmtree(machine.root / f"restored {number}")


def _provenances(machine: RunningMachine) -> list[str]:
    return [cycle.report.provenance for cycle in machine.cycles.values()]


REFLINK = "{{method: reflink}}"
FROZEN = "{{method: reflink, freeze: [{program}, stop], thaw: [{program}, cont]}}"
QEMU = "{{method: qemu, monitor: '{monitor}'}}"
AGENT = "{{method: qemu, monitor: '{monitor}', guest_agent: '{agent}', application_every: 1h}}"


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
async def test_points_of_one_disk_by_clones_hold_every_durable_record(kind: str) -> None:
    async with _machine(kind, 1, REFLINK) as machine:
        await _run(machine, 4)
        assert {c.report.point.consistency for c in machine.cycles.values()} == {Consistency.CRASH}
        assert _provenances(machine)[1:] == [Provenance.EXTENTS] * 3


async def test_points_of_two_disks_by_clones_between_freeze_and_thaw_hold_every_durable_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cloning, "_SHORT_S", -1.0)  # as with disks in many pieces
    async with _machine("xfs", 2, FROZEN) as machine:
        await _run(machine, 3)
        assert {c.report.point.consistency for c in machine.cycles.values()} == {Consistency.CRASH}
        assert _provenances(machine)[1:] == [Provenance.EXTENTS] * 2


@pytest.mark.parametrize(("kind", "node_names"), [("xfs", True), ("ext4", False)])
async def test_points_of_two_disks_by_qemu_hold_every_durable_record(kind: str, node_names: bool) -> None:
    async with _machine(kind, 2, QEMU, node_names=node_names) as machine:
        await _run(machine, 4)
        assert {c.report.point.consistency for c in machine.cycles.values()} == {Consistency.CRASH}
        assert _provenances(machine)[1:] == [Provenance.DIRTY_BITMAP] * 3


async def test_a_point_with_the_guest_quiesced_is_called_so_and_the_others_are_not() -> None:
    async with _machine("xfs", 2, AGENT, agent=True) as machine:
        await _run(machine, 3)
        labels = [c.report.point.consistency for c in machine.cycles.values()]
        assert labels == [Consistency.APPLICATION, Consistency.CRASH, Consistency.CRASH]


async def test_two_disks_that_nobody_freezes_are_never_called_of_one_instant_while_they_are_written() -> None:
    busy = Load(rate_per_s=0, max_bytes=32 * 1024)
    async with _machine("xfs", 2, "{{method: reflink, allow_fuzzy: true, wait: 0s}}", load=busy) as machine:
        for _ in range(4):
            cycle = await machine.sync()
            found = await machine.checked(cycle.report.point.number)
            if cycle.report.point.consistency is not Consistency.FUZZY:
                assert found.sound, (found, cycle)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "disks", "consistency"),
    [
        ("xfs", 1, REFLINK),
        ("btrfs", 1, REFLINK),
        ("xfs", 2, FROZEN),
        ("btrfs", 2, FROZEN),
        ("xfs", 2, QEMU),
        ("btrfs", 2, QEMU),
        ("ext4", 2, QEMU),
    ],
)
async def test_fifty_cycles_under_load(
    kind: str, disks: int, consistency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloning, "_SHORT_S", -1.0)  # as with disks in many pieces
    async with _machine(kind, disks, consistency, load=Load(rate_per_s=0, churn_bytes_per_s=4 << 20)) as machine:
        await _run(machine, 50)
        took_s = sorted(cycle.ended_s - cycle.began_s for cycle in machine.cycles.values())
        gaps_s = sorted(cycle.longest_gap_s for cycle in machine.cycles.values())
        _log.info(
            "%d disks on %s, %s: a cycle took %.2f s (p50), at most %.2f; the longest gap between heartbeats "
            "in one was %.0f ms (p50), at most %.0f", disks, kind, consistency[9:16],
            took_s[25], took_s[-1], gaps_s[25] * 1e3, gaps_s[-1] * 1e3,
        )  # fmt: skip
