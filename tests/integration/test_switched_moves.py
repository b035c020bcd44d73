"""Whole moves of a machine that is switched by commands: as the daemon puts them together, with real files."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from replicad.model.errors import BusyError, UnsupportedError
from replicad.model.moves import MoveOptions, MovePhase, SourceAfter
from replicad.settings import Consistency
from replicad.settings.model import Commands
from replicad.workflows.move_copying import Copying, Round
from tests.support.cold_moves import ColdMoves, local_settings
from tests.support.commands import command_stage
from tests.support.filesystems import mounted
from tests.support.switched import DISKS, SWITCH, SwitchedMachine, move_and_be_killed, switching
from tests.support.vhdx_builder import MIB

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="scripts of a POSIX shell")
# What the machine writes until it stands still, and when it goes on: to the disks that it uses.
WRITE = 'for use in "$1"/uses/*; do printf %s "$REPLICAD_PHASE" >> "$(cat "$use")"; done'


async def test_what_it_writes_until_it_stands_still_goes_along_and_it_goes_on_there(
    tmp_path: Path,
) -> None:
    async with command_stage(tmp_path) as stage:
        machine = SwitchedMachine(stage)
        machine.prepare(with_copies=False)
        moves = ColdMoves(local_settings(tmp_path), consistency=switching(stage, SWITCH, WRITE, WRITE))
        record = await moves.move(machine.source.name, machine.destination.name)
        assert record.phase is MovePhase.DONE
        assert machine.uses == "곳"
        assert stage.log == ["freeze", "switch", "thaw"]
        for number, disk in enumerate(DISKS):
            data = (tmp_path / "곳" / disk).read_bytes()
            assert data == bytes([number]) * 4_096 + b"freeze" + b"thaw"
        assert (tmp_path / "곳/웹.xml").exists()
        assert list((tmp_path / "source").iterdir()) == []
        await machine.close()


async def test_a_switch_that_fails_leaves_it_at_the_source_and_the_next_attempt_moves_it(
    tmp_path: Path,
) -> None:
    async with command_stage(tmp_path) as stage:
        machine = SwitchedMachine(stage)
        machine.prepare(with_copies=False)
        once = SWITCH + 'if [ ! -e "$1/once" ]; then : > "$1/once"; exit 1; fi'
        moves = ColdMoves(local_settings(tmp_path), consistency=switching(stage, once, WRITE, WRITE))
        options = MoveOptions(source_after=SourceAfter.KEEP)
        plan = await moves.plan(machine.source.name, machine.destination.name, options=options)
        with pytest.raises(BusyError, match="sh ended with status 1"):
            await moves.run(plan.record)
        assert machine.uses == "source"
        assert stage.log == ["freeze", "switch", "switch", "thaw"]
        assert {path.name for path in (tmp_path / "source").iterdir()} >= set(DISKS)
        assert not [path for path in (tmp_path / "곳").iterdir() if path.suffix == ".vhdx"]
        record = await moves.run(plan.record)
        assert record.phase is MovePhase.DONE
        assert machine.uses == "곳"
        for number, disk in enumerate(DISKS):
            data = (tmp_path / "곳" / disk).read_bytes()
            assert data == bytes([number]) * 4_096 + b"freeze" + b"thaw" + b"freeze" + b"thaw"
        await machine.close()


@pytest.mark.parametrize(
    "dies_in", ["freeze", "the first disk of switch", "the end of switch", "thaw", "thaw of the way back"]
)
async def test_killed_in_each_phase_the_move_is_gone_on_with_and_no_write_is_lost(tmp_path: Path, dies_in: str) -> None:
    kill = 'if [ ! -e "$1/once" ]; then : > "$1/once"; kill -9 $PPID; fi\n'
    switch, freeze, thaw = SWITCH, WRITE + "\n", WRITE + "\n"
    match dies_in:
        case "freeze":
            freeze += kill
        case "the first disk of switch":
            switch = switch.replace("BETWEEN", kill)
        case "the end of switch":
            switch += kill
        case "thaw":
            thaw += kill
        case _:
            switch += '[ -e "$1/failed" ] || { : > "$1/failed"; exit 1; }\n'
            thaw += kill
    async with command_stage(tmp_path) as stage:
        machine = SwitchedMachine(stage)
        machine.prepare(with_copies=False)
        moves = ColdMoves(local_settings(tmp_path), consistency=switching(stage, switch, freeze, thaw))
        plan = await moves.plan(machine.source.name, machine.destination.name)
        move_and_be_killed(tmp_path, plan.record, switch, freeze, thaw)
        record = await moves.run(plan.record)
        assert record.phase is MovePhase.DONE
        assert machine.uses == "곳"
        assert stage.left() == []
        written = "".join(phase for phase in stage.log if phase != "switch").encode()
        assert stage.log[-1] == "thaw"
        for number, disk in enumerate(DISKS):
            assert (tmp_path / "곳" / disk).read_bytes() == bytes([number]) * 4_096 + written
        left = [path.name for path in (tmp_path / "source").iterdir()]
        assert left == []
        await machine.close()


async def test_what_it_has_written_at_its_destination_is_not_left_by_a_later_switch_that_fails(tmp_path: Path) -> None:
    """Nobody came to write down that it is there: the switch is looked into, and run, once more."""
    kill = 'if [ ! -e "$1/once" ]; then : > "$1/once"; kill -9 $PPID; fi\n'
    fail = 'if [ -e "$1/once" ] && [ ! -e "$1/failed" ]; then : > "$1/failed"; exit 1; fi\n'
    async with command_stage(tmp_path) as stage:
        machine = SwitchedMachine(stage)
        machine.prepare(with_copies=False)
        moves = ColdMoves(local_settings(tmp_path), consistency=switching(stage, fail + SWITCH, WRITE, WRITE))
        plan = await moves.plan(machine.source.name, machine.destination.name)
        move_and_be_killed(tmp_path, plan.record, SWITCH, WRITE, WRITE + "\n" + kill)
        with pytest.raises(BusyError, match="sh ended with status 1"):
            await moves.run(plan.record)
        assert machine.uses == "곳"
        assert stage.log == ["freeze", "switch", "thaw", "thaw", "freeze", "switch", "thaw"]
        record = await moves.run(plan.record)
        assert record.phase is MovePhase.DONE
        assert machine.uses == "곳"
        written = "".join(phase for phase in stage.log if phase != "switch").encode()
        for number, disk in enumerate(DISKS):
            assert (tmp_path / "곳" / disk).read_bytes() == bytes([number]) * 4_096 + written
        await machine.close()


async def test_cancelled_while_it_is_switched_the_switch_is_written_down_and_not_made_again(tmp_path: Path) -> None:
    wait = SWITCH + 'echo > "$1/begun"; cat "$1/go"'
    async with command_stage(tmp_path) as stage:
        machine = SwitchedMachine(stage)
        machine.prepare(with_copies=False)
        moves = ColdMoves(local_settings(tmp_path), consistency=switching(stage, wait, WRITE, WRITE))
        plan = await moves.plan(machine.source.name, machine.destination.name)
        for pipe in ("begun", "go"):
            os.mkfifo(tmp_path / pipe)
        async with asyncio.timeout(30):
            task = asyncio.ensure_future(moves.run(plan.record))
            await asyncio.to_thread((tmp_path / "begun").read_bytes)
            task.cancel()
            await asyncio.to_thread((tmp_path / "go").write_bytes, b"")
            with pytest.raises(asyncio.CancelledError):
                await task
        assert moves.remembered[-1].phase is MovePhase.SWITCHED
        assert (await moves.run(plan.record)).phase is MovePhase.DONE
        assert stage.log == ["freeze", "switch", "thaw"]
        assert machine.uses == "곳"
        await machine.close()


_GROWN = 64 * MIB


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
async def test_of_disks_that_can_be_cloned_only_what_was_written_is_read_in_the_freeze(
    tmp_path: Path, kind: str, rounds: dict[str, Round]
) -> None:
    with mounted(kind, 1 << 30) as where:
        async with command_stage(where) as stage:
            machine = SwitchedMachine(stage)
            machine.prepare(with_copies=False)
            data = {disk: bytearray(Random(disk).randbytes(_GROWN)) for disk in DISKS}
            for disk in DISKS:
                (where / "source" / disk).write_bytes(data[disk])
            rewrite = (
                'for use in "$1"/uses/*; do printf %s "$REPLICAD_PHASE" | '
                'dd of="$(cat "$use")" bs=1 seek=40000000 conv=notrunc 2>/dev/null; done'
            )
            commands = Commands(
                stage.script(rewrite), stage.script(), switch=stage.script(SWITCH.replace("BETWEEN", ":"))
            )
            consistency = Consistency("reflink", commands=commands, timeout_s=20)
            moves = ColdMoves(local_settings(tmp_path), consistency=consistency)
            record = await moves.move(machine.source.name, str(tmp_path / "새 곳"))
            assert record.phase is MovePhase.DONE
            for disk in DISKS:
                data[disk][40_000_000:40_000_006] = b"freeze"
                assert (tmp_path / "새 곳" / disk).read_bytes() == data[disk]
            assert rounds["copying"].scanned_bytes >= 2 * _GROWN
            assert 0 < rounds["cutover"].changed_bytes <= rounds["cutover"].scanned_bytes <= 2 * MIB
            # Nothing of what it kept there is left.
            assert list((where / "source").iterdir()) == []
            await machine.close()


async def test_disks_that_can_not_be_cloned_are_not_moved_by_that_method(tmp_path: Path) -> None:
    async with command_stage(tmp_path) as stage:
        machine = SwitchedMachine(stage)
        machine.prepare(with_copies=False)
        moves = ColdMoves(
            local_settings(tmp_path), consistency=replace(switching(stage, SWITCH, WRITE, WRITE), method="reflink")
        )
        with pytest.raises(UnsupportedError, match="clone"):
            await moves.move(machine.source.name, machine.destination.name)
        assert stage.log == []
        await machine.close()


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> dict[str, Round]:
    """What each round came to, by its name."""
    found: dict[str, Round] = {}
    goes_on = Copying.round

    async def heard(self: Copying, name: str, *, is_last: bool = False) -> Round:
        found[name] = await goes_on(self, name, is_last=is_last)
        return found[name]

    monkeypatch.setattr(Copying, "round", heard)
    return found


async def test_a_machine_whose_commands_can_not_switch_it_is_moved_while_it_is_off(tmp_path: Path) -> None:
    async with command_stage(tmp_path) as stage:
        machine = SwitchedMachine(stage)
        machine.prepare(with_copies=False)
        commands = Commands(stage.script(), stage.script())
        moves = ColdMoves(local_settings(tmp_path), consistency=Consistency("command", wait_s=0, commands=commands))
        plan = await moves.plan(machine.source.name, machine.destination.name)
        with (
            (tmp_path / "source" / DISKS[0]).open("r+b"),
            pytest.raises(BusyError, match="or by commands of your own"),
        ):
            await moves.run(plan.record)
        assert (await moves.run(plan.record)).phase is MovePhase.DONE
        assert stage.log == []
        await machine.close()
