"""A switch of a real QEMU's disks that is disturbed at each command, and one whose process is killed there: the machine
runs on, all of its disks are at one side, and a process that comes after is told which."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest

from replicad.hypervisor.qemu.qmp import Qmp
from replicad.model.errors import PermanentError, ReplicadError, TimedOutError, UnreachableError
from replicad.model.moves import Side
from replicad.storage.local import LocalShare
from tests.support.moving_guest import Move
from tests.support.qemu import Qemu, make_vhdx, running_qemu

NAMES = ("웹 디스크 🖥.vhdx", "둘째 📦.vhdx")
QDEVS = {NAMES[0]: "/machine/peripheral/a/virtio-backend", NAMES[1]: "/machine/peripheral/b/virtio-backend"}
_GOES_ON_WITHIN_S = 5.0


@asynccontextmanager
async def machine(directory: Path, *, named: bool) -> AsyncIterator[tuple[Qemu, Move]]:
    """A machine with two disks, and the next move of it."""
    source, state = directory / "원본", directory / "state"
    source.mkdir(parents=True)
    state.mkdir(exist_ok=True)
    disks = [make_vhdx(source / name, "16M") for name in NAMES]
    more = ["-device", "virtio-blk-pci,drive=disk0,id=a", "-device", "virtio-blk-pci,drive=disk1,id=b"]
    async with running_qemu(disks, named=named, machine="q35", more=more) as qemu:
        yield qemu, Move(qemu.monitor, source, directory / "대상", NAMES, LocalShare(str(state)))


async def through(move: Move) -> None:
    async with move.user().still(move.files) as still:
        move.copy()
        await still.check()
        await still.switch(move.files)


async def check(qemu: Qemu, move: Move, turn: int) -> Side:
    """Where the machine uses its disks, which is one side, as it is told to be, with nothing left. It may be only just
    being told to go on, by the watchdog."""
    async with asyncio.timeout(_GOES_ON_WITHIN_S):
        while await qemu.own.status() != "running" or len(await qemu.own.names()) != 4:
            pass
    [told] = await move.sides()
    assert await move.journal().left() == ()
    for name, qdev in QDEVS.items():
        found = {side: (at / name).read_bytes() for side, at in _places(move)}
        await qemu.own.io(f"-d {qdev}", f"write -P {turn % 255 + 1} 8M 64k")
        await qemu.own.io(f"-d {qdev}", "flush")
        assert [side for side, at in _places(move) if (at / name).read_bytes() != found[side]] == [told]
    return told


def _places(move: Move) -> list[tuple[Side, Path]]:
    there = [(Side.SOURCE, move.source), (Side.DESTINATION, move.destination)]
    return [(side, at) for side, at in there if (at / NAMES[1]).exists()]


class Disturbed:
    """Counts the commands to QEMU, and does something at one of them."""

    def __init__(self, at: int, how: str, qemu: Qemu | None = None) -> None:
        self.at, self.how, self.qemu = at, how, qemu
        self.commands: list[str] = []

    @contextmanager
    def here(self) -> Iterator[None]:
        execute = Qmp.execute

        async def disturbed(qmp: Qmp, command: str, *arguments: object, **named: object) -> object:
            self.commands.append(command)
            struck = len(self.commands) == self.at
            if struck and self.how != "cut after":
                await self.strike(qmp)
            answer = await execute(qmp, command, *arguments, **named)  # type: ignore[arg-type]  # handed on
            if struck and self.how == "cut after":
                await self.strike(qmp)
            return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("replicad.hypervisor.qemu.freezer._ASK_AGAIN_EVERY_S", 0.01)
            patch.setattr(Qmp, "execute", disturbed)
            yield

    async def strike(self, qmp: Qmp) -> None:
        if self.how == "refused":
            raise PermanentError("run", qmp.subject, "QEMU says: not today")
        if self.how == "killed":
            assert self.qemu is not None
            await self.qemu.kill()
            return
        await qmp.close()
        kind = UnreachableError if self.how == "cut before" else TimedOutError
        raise kind("run", qmp.subject, "the connection was lost")


async def _disturb_each(tmp_path: Path, how: str, named: bool, every: int) -> None:
    sides, at, done = set(), 1, False
    async with machine(tmp_path, named=named) as (qemu, move):
        while not done:
            struck = Disturbed(at, how)
            failed = None
            with struck.here():
                try:
                    await through(move)
                except ReplicadError as error:
                    failed = error
            done = len(struck.commands) < at
            side = await check(qemu, move, at)
            assert failed is not None or side is Side.DESTINATION, struck.commands[at - 1]
            assert failed is None or side is Side.SOURCE or struck.commands[:at].count("cont"), (at, struck.commands)
            sides.add(side)
            if side is Side.DESTINATION:
                move = move.back
            at += every
    assert sides == {Side.SOURCE, Side.DESTINATION}
    assert at > 25


@pytest.mark.parametrize(("how", "named"), [("refused", True), ("cut after", False)])
async def test_disturbed_at_any_command_it_runs_on_with_one_side(tmp_path: Path, how: str, named: bool) -> None:
    await _disturb_each(tmp_path, how, named, 2)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("how", "named"), [("refused", False), ("cut after", True), ("cut before", True), ("cut before", False)]
)
async def test_disturbed_in_other_ways_at_any_command(tmp_path: Path, how: str, named: bool) -> None:
    await _disturb_each(tmp_path, how, named, 1)


async def test_cancelled_after_any_number_of_steps_it_runs_on_with_one_side(tmp_path: Path) -> None:
    sides, steps, done = set(), 0, False
    async with machine(tmp_path, named=True) as (qemu, move):
        while not done:
            task = asyncio.ensure_future(through(move))
            for _ in range(steps):
                await asyncio.sleep(0)
            done = task.done()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() or task.exception() is None
            side = await check(qemu, move, steps)
            assert not done or side is Side.DESTINATION
            sides.add(side)
            if side is Side.DESTINATION:
                move = move.back
            steps += 1 + steps // 3
    assert Side.SOURCE in sides


async def test_qemu_killed_at_any_command_ends_in_an_error_of_ours_at_most(tmp_path: Path) -> None:
    at, last = 1, 1
    while at <= last:
        async with machine(tmp_path / str(at), named=bool(at % 2)) as (qemu, move):
            if at == 1:
                with (counted := Disturbed(0, "")).here():
                    await through(move)
                last, move = len(counted.commands), move.back
            with (struck := Disturbed(at, "killed", qemu)).here():
                try:
                    await through(move)
                except ReplicadError:
                    assert len(struck.commands) >= at
            assert set((await move.user().sides(move.files)).values()) == {Side.NOBODY}
            assert await move.journal().left() == ()
        at += 5
    assert last > 25


_KILLED = """
import asyncio, sys
from tests.fault.test_switches_cut_short import killed_at
asyncio.run(killed_at(*sys.argv[1:]))
"""


async def killed_at(monitor: str, source: str, destination: str, state: str, at: str, when: str) -> None:
    """For a process of its own, which kills itself at a command from the stop on, before or after it."""
    execute, commands = Qmp.execute, list[str]()

    async def deadly(qmp: Qmp, command: str, *arguments: object, **named: object) -> object:
        if commands or command == "stop":
            commands.append(command)
        struck = len(commands) == int(at)
        if struck and when == "with the watchdog":
            [dog] = psutil.Process().children()
            dog.kill()
            dog.wait()
        if struck and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await execute(qmp, command, *arguments, **named)  # type: ignore[arg-type]  # handed on
        if struck:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qmp, "execute", deadly)
        await through(Move(Path(monitor), Path(source), Path(destination), NAMES, LocalShare(state)))


async def _killed(tmp_path: Path, move: Move, at: int, when: str) -> bool:
    """Whether it came to that."""
    arguments = map(str, (move.monitor, move.source, move.destination, tmp_path / "state", at, when))
    dying = await asyncio.create_subprocess_exec(sys.executable, "-c", _KILLED, *arguments)
    status = await dying.wait()
    assert status in (0, -signal.SIGKILL)
    return status != 0


async def _kill_each(tmp_path: Path, when: str, named: bool, every: int) -> None:
    sides, at, was_killed = set(), 1, True
    async with machine(tmp_path, named=named) as (qemu, move):
        while was_killed:
            was_killed = await _killed(tmp_path, move, at, when)
            side = await check(qemu, move, at)
            assert was_killed or side is Side.DESTINATION
            sides.add(side)
            if side is Side.DESTINATION:
                move = move.back
            at += every
    assert sides == {Side.SOURCE, Side.DESTINATION}
    assert at > 15


async def test_killed_while_it_stands_still_the_machine_goes_on_within_seconds(tmp_path: Path) -> None:
    await _kill_each(tmp_path, "after", True, 6)


@pytest.mark.soak
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("named", [True, False])
async def test_killed_at_any_command_the_machine_goes_on(tmp_path: Path, when: str, named: bool) -> None:
    await _kill_each(tmp_path, when, named, 1)


@pytest.mark.parametrize("named", [True, False])
async def test_killed_with_its_watchdog_between_two_disks_the_next_process_sets_them_back(
    tmp_path: Path, named: bool
) -> None:
    async with machine(tmp_path, named=named) as (qemu, move):
        with (counted := Disturbed(0, "")).here():
            await through(move)
        move = move.back
        at = counted.commands.index("qom-set") - counted.commands.index("stop") + 1
        assert await _killed(tmp_path, move, at, "with the watchdog")
        assert await qemu.own.status() == "paused"
        assert len(await qemu.own.names()) == 10
        used = [one["inserted"]["image"]["filename"] for one in await qemu.own.execute("query-block")]
        assert {Path(name).parent for name in used} == {move.source, move.destination}
        assert await move.sides() == {Side.SOURCE}
        assert await check(qemu, move, 5) is Side.SOURCE
