r"""Disks of a running machine go from one server to another, over SMB, while it writes records.

QEMU opens the paths behind the shares, since a container has no cifs mounts; the bytes travel over SMB.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from statistics import median

import pytest

from replicad.cli.demo.samba import PrivateSamba
from replicad.model.moves import MovePhase, MoveRecord
from replicad.workflows.move_journal import MoveJournal, QuickJournal, decode
from tests.support.guest import Load, check_disk
from tests.support.moving_world import MovedWorld, moved_world
from tests.support.qemu import connected

soak = pytest.mark.soak
_NAS1, _NAS2 = r"\\nas1\vms", r"\\nas2\vms"


async def _back_and_forth(world: MovedWorld, moves: int) -> None:
    places = [("nas1", _NAS1), ("nas2", _NAS2)]
    for number in range(moves):
        (_, source), (server, destination) = places[number % 2], places[(number + 1) % 2]
        await world.guest.wait_durable(world.guest.durable().number + 5)
        await world.move(source, destination)
        await world.guest.wait_durable(world.guest.durable().number + 5)
        other = places[number % 2][0]
        assert not any(path.exists() for path in world.paths(other))
        assert all(path.exists() for path in world.paths(server))


@pytest.mark.parametrize("disks", [1, 2])
async def test_a_machine_loses_no_record_while_its_disks_are_moved_there_and_back(disks: int) -> None:
    async with moved_world(disks, Load(rate_per_s=50)) as world:
        await _back_and_forth(world, 2)
        durable = world.guest.durable().number
        await world.guest.power_off()
        found = check_disk(world.paths("nas1"))
    assert found.sound, found
    assert found.records_through >= durable
    assert all(record.freeze_ms is None or record.freeze_ms < 5_000 for record in world.records)


@pytest.mark.parametrize("phase", ["copying", "round 2"])
async def test_a_move_that_is_taken_back_leaves_nothing_in_qemu(phase: str) -> None:
    async with moved_world(2, Load(rate_per_s=50)) as world:
        async with connected(world.guest.qmp_path) as qmp:
            nodes, bitmaps = await qmp.names(), await qmp.bitmaps()
        taken_back = await world.begin_and_take_back(_NAS1, _NAS2, phase)
        assert taken_back.phase is MovePhase.CANCELLED
        async with connected(world.guest.qmp_path) as qmp:
            assert (await qmp.names(), await qmp.bitmaps()) == (nodes, bitmaps)


@pytest.mark.soak
@pytest.mark.parametrize(("load", "goal_ms"), [(Load(rate_per_s=60), 100), (Load(80, 256 << 10, 256 << 10), 500)])
async def test_twenty_moves_in_a_row(
    load: Load, goal_ms: float, record_property: Callable[[str, object], None]
) -> None:
    async with moved_world(1, load) as world:
        await _back_and_forth(world, 20)
        durable = world.guest.durable().number
        await world.guest.power_off()
        found = check_disk(world.paths("nas1"))
    pauses = [record.freeze_ms for record in world.records if record.freeze_ms is not None]
    gaps = sorted(gap * 1000 for gap in world.gaps_s)
    record_property("stopped_ms", f"p50 {median(pauses):.0f}, max {max(pauses):.0f}")
    record_property("gaps_ms", f"p50 {median(gaps):.0f}, max {gaps[-1]:.0f}")
    assert found.sound, found
    assert found.records_through >= durable
    assert median(gaps) < goal_ms


_STEPS = ("prepare", "bulk", "precopy", "cutover", "switching", "switched", "retired", "done")


@pytest.mark.parametrize(
    ("step", "before", "guest_dies"),
    [
        pytest.param(
            number, before, dies, id=f"{'before' if before else 'after'} {step}{', guest too' if dies else ''}",
            marks=() if (step, before, dies) in {("switching", False, False), ("switching", False, True)} else soak,
        )
        for number, step in enumerate(_STEPS, 1) for before in (True, False) for dies in (False, True)
    ],
)  # fmt: skip
async def test_a_move_whose_process_is_killed_at_a_step_ends_with_one_complete_copy(
    step: int, before: bool, guest_dies: bool
) -> None:
    async with moved_world(1, Load(rate_per_s=50)) as world:
        remembered = await _killed_move(world, step, before)
        durable = world.guest.durable().number
        if guest_dies:
            await world.guest.kill()
        else:
            durable = (await world.guest.wait_durable(durable + 5, 20)).number
        assert (await world.go_on(remembered)).phase is MovePhase.DONE
        if not guest_dies:
            durable = (await world.guest.wait_durable(world.guest.durable().number + 5)).number
            await world.guest.power_off()
        left = {str(path) for root in world.directories.values() for path in root.rglob("*") if path.is_file()}
        assert left == {str(path) for path in world.paths("nas2")}
        found = check_disk(world.paths("nas2"))
    assert found.sound, found
    assert found.records_through >= durable


async def _killed_move(world: MovedWorld, step: int, before: bool) -> MoveRecord:
    remembered = world.settings.state_dir.parent / "remembered"
    wanted = {
        "settings": str(world.settings.file), "monitor": str(world.guest.qmp_path), "source": _NAS1,
        "destination": _NAS2, "remembered": str(remembered), "step": step, "before": before,
    }  # fmt: skip
    arguments = ("-m", "tests.support.dying_move", json.dumps(wanted))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    assert await asyncio.wait_for(process.wait(), 120) == -signal.SIGKILL
    return decode(remembered.read_bytes(), "what it remembered")


@pytest.mark.parametrize("server", ["nas1", "nas2"])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "step",
    [pytest.param(number, id=name, marks=() if name == "switching" else soak) for number, name in enumerate(_STEPS, 1)],
)
async def test_a_move_outlives_the_death_of_a_server_s_processes_at_a_step(
    monkeypatch: pytest.MonkeyPatch, step: int, before: bool, server: str
) -> None:
    steps = 0
    async with moved_world(1, Load(rate_per_s=50)) as world:

        def killing(write: Callable[[object, MoveRecord], Awaitable[MoveRecord]]) -> object:
            async def killed(self: object, record: MoveRecord) -> MoveRecord:
                nonlocal steps
                steps += 1
                if steps == step and before:
                    _kill_connections(world.servers[server])
                written = await write(self, record)
                if steps == step and not before:
                    _kill_connections(world.servers[server])
                return written

            return killed

        for kind, name in ((MoveJournal, "write"), (QuickJournal, "write"), (MoveJournal, "remember")):
            monkeypatch.setattr(kind, name, killing(getattr(kind, name)))
        await world.move(_NAS1, _NAS2)
        durable = (await world.guest.wait_durable(world.guest.durable().number + 5)).number
        await world.guest.power_off()
        found = check_disk(world.paths("nas2"))
        left = {str(path) for root in world.directories.values() for path in root.rglob("*") if path.is_file()}
    assert steps >= step
    assert left == {str(path) for path in world.paths("nas2")}
    assert found.sound, found
    assert found.records_through >= durable


def _kill_connections(server: PrivateSamba) -> None:
    for pid in server.pids()[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
