"""A machine whose disks are switched by shell scripts, and what becomes of it when this process dies meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from replicad.hypervisor.command.switching import CommandUser
from replicad.hypervisor.port import Relocation
from replicad.model.address import LocalAddress
from replicad.model.moves import MoveRecord
from replicad.settings import Consistency
from replicad.settings.model import Commands
from replicad.storage.local import LocalShare
from replicad.storage.port import Share
from replicad.workflows.move_journal import decode, encode
from tests.support.cold_moves import ColdMoves, local_settings
from tests.support.commands import Stage, command_stage

DISKS = ("웹 하나 🖥.vhdx", "둘.vhdx")
FILES = (*DISKS, "웹.xml")
SWITCH = r"""
printf '%s\n' "$REPLICAD_DISKS" > "$1/old"
printf '%s\n' "$REPLICAD_NEW_DISKS" > "$1/new"
paste -d '|' "$1/old" "$1/new" | while IFS='|' read -r old new; do
  for use in "$1"/uses/*; do
    if [ "$(cat "$use")" = "$old" ]; then printf '%s' "$new" > "$use"; echo switched >> "$1/turns"; fi
  done
BETWEEN
done
"""
"""Has the machine use one disk after the other; BETWEEN is run after each of them."""
_REPOSITORY = Path(__file__).parents[2]


class SwitchedMachine:
    """Files at a source and, complete, at a destination; `uses/` says which of them the machine has."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.source, self.destination = (LocalShare(str(stage.root / side)) for side in ("source", "곳"))

    async def close(self) -> None:
        await self.source.close()
        await self.destination.close()

    def prepare(self, *, with_copies: bool = True) -> None:
        """Have it use the source."""
        for side in ("source", "곳", "uses"):
            (self.stage.root / side).mkdir()
        for number, name in enumerate(FILES):
            for side in ("source", "곳") if with_copies else ("source",):
                (self.stage.root / side / name).write_bytes(bytes([number]) * 4_096)
        for number, name in enumerate(DISKS):
            (self.stage.root / "uses" / str(number)).write_text(str(self.stage.root / "source" / name))

    def relocations(self) -> list[Relocation]:
        source, place = LocalAddress(self.source.name), LocalAddress(self.destination.name)
        return [Relocation(name, source.child(name), place.child(name), 0, name) for name in FILES]

    def user(self, switch: str = SWITCH, freeze: str = "", thaw: str = "", place: Share | None = None) -> CommandUser:
        freezer = self.stage.freezer(freeze, thaw)
        switch = switch.replace("BETWEEN", ":")
        return CommandUser(
            freezer,
            self.stage.script(switch),
            self.source,
            [place or self.destination],
            lambda path: path.endswith(".vhdx"),
        )

    @property
    def uses(self) -> str:
        """The side that all of its disks are at; `both` if that is not one."""
        sides = {Path(use.read_text()).parent.name for use in (self.stage.root / "uses").iterdir()}
        return sides.pop() if len(sides) == 1 else "both"


@asynccontextmanager
async def switched_machine(root: Path, *, is_new: bool = True) -> AsyncIterator[SwitchedMachine]:
    async with command_stage(root) as stage:
        machine = SwitchedMachine(stage)
        if is_new:
            machine.prepare()
        try:
            yield machine
        finally:
            await machine.close()


def switch_and_be_killed(root: Path, switch: str, freeze: str, thaw: str) -> None:
    """Freeze, switch and thaw in a process of its own, which one of the scripts kills."""
    _be_killed("main", root, switch, freeze, thaw)


def move_and_be_killed(root: Path, record: MoveRecord, switch: str, freeze: str, thaw: str) -> None:
    """A whole move in a process of its own, which one of the scripts kills."""
    (root / "record").write_bytes(encode(record))
    _be_killed("main_of_move", root, switch, freeze, thaw)


def switching(stage: Stage, switch: str, freeze: str, thaw: str) -> Consistency:
    """The configuration of a machine with these scripts."""
    commands = Commands(stage.script(freeze), stage.script(thaw), switch=stage.script(switch.replace("BETWEEN", ":")))
    return Consistency("command", commands=commands, timeout_s=20)


def _be_killed(main: str, root: Path, *scripts: str) -> None:
    program = f"from tests.support.switched import {main}; {main}()"
    arguments = [sys.executable, "-c", program, str(root), *scripts]
    done = subprocess.run(arguments, cwd=_REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -9, done.stderr


def main() -> None:
    """In that process."""
    root, switch, freeze, thaw = sys.argv[1:]

    async def run() -> None:
        async with (
            switched_machine(Path(root), is_new=False) as machine,
            machine.user(switch, freeze, thaw).still(machine.relocations()) as still,
        ):
            await still.check()
            await still.switch(machine.relocations())

    asyncio.run(run())


def main_of_move() -> None:
    """In that process."""
    root, switch, freeze, thaw = sys.argv[1:]

    async def run() -> None:
        async with command_stage(Path(root)) as stage:
            moves = ColdMoves(local_settings(Path(root)), consistency=switching(stage, switch, freeze, thaw))
            await moves.run(decode((Path(root) / "record").read_bytes(), "record"))

    asyncio.run(run())
