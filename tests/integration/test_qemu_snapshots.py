"""Snapshots of a real QEMU's disks where files can't be cloned: the bytes stand still while the machine writes on."""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from replicad.hypervisor.qemu.exports import Exports
from replicad.hypervisor.qemu.freezer import QemuFreezer
from replicad.hypervisor.qemu.leftovers import prefix_of
from replicad.hypervisor.qemu.monitor import Monitor
from replicad.hypervisor.qemu.qmp import Qmp
from replicad.hypervisor.qemu.snapshots import QemuSnapshots
from replicad.model.errors import BusyError, OutOfSpaceError, ReplicadError
from replicad.model.points import Consistency
from replicad.storage.memory import MemoryShare
from replicad.storage.port import ShareFile
from tests.support.filesystems import mounted
from tests.support.qemu import Qemu, journal_in, make_vhdx, running_qemu
from tests.support.qemu_faults import Blow, Commands, struck
from tests.support.world import SteadyClock

NAMES = ("웹 디스크 🖥.vhdx", "b.vhdx")
REPLICA = secrets.token_hex(8)
PREFIX = prefix_of(REPLICA)
MIB = 1024 * 1024


@dataclass
class Stage:
    qemu: Qemu
    directory: Path
    short: list[str] = field(default_factory=list)
    turn: int = 0

    def snapshots(self) -> QemuSnapshots:
        monitor, clock = Monitor(self.qemu.monitor, 20), SteadyClock().clock()
        freezer = QemuFreezer(monitor, None, journal_in(MemoryShare(), clock, print), "웹", print)

        async def room() -> str:
            return self.short[0] if self.short else ""

        return QemuSnapshots(monitor, Exports(monitor), freezer, str(self.directory), room, clock)

    def bytes_now(self) -> dict[str, bytes]:
        return {name: (self.directory / name).read_bytes() for name in NAMES}

    async def check_nothing_is_left(self) -> None:
        assert not [name for name in await self.qemu.own.names() if name.startswith("replicad-")]
        assert await self.qemu.own.execute("query-block-exports") == []
        assert await self.qemu.own.execute("query-fdsets") == []
        assert await self.qemu.own.status() == "running"
        assert sorted(path.name for path in self.directory.iterdir()) == sorted((*NAMES, "note.xml"))
        # It writes to the disk itself again.
        before = self.bytes_now()
        self.turn += 1
        await self.qemu.own.io("disk0", f"write -P {200 + self.turn} 60M 1M")
        assert self.bytes_now()[NAMES[0]] != before[NAMES[0]]


@asynccontextmanager
async def stage(directory: Path, *, named: bool = True) -> AsyncIterator[Stage]:
    disks = [make_vhdx(directory / name) for name in NAMES]
    (directory / "note.xml").write_text("<x/>")
    async with running_qemu(disks, named=named) as qemu:
        for disk in ("disk0", "disk1"):
            await qemu.own.io(disk, "write -P 1 0 3M")
            await qemu.own.io(disk, "flush")
        yield Stage(qemu, directory)


async def read(file: ShareFile) -> bytes:
    size = (await file.identity()).size_bytes
    buffer = bytearray(size + 4096)
    assert await file.read_into(buffer, 0) == size
    return bytes(buffer[:size])


async def scribble(qemu: Qemu, seed: int, count: int = 30) -> None:
    random = Random(seed)
    for _ in range(count):
        disk, at = random.randrange(2), random.randrange(60 * 256) * 4096
        await qemu.own.io(f"disk{disk}", f"write -P {random.randrange(2, 256)} {at} {random.randrange(1, 64) * 4096}")


@pytest.mark.parametrize("named", [True, False])
async def test_bytes_stand_still_while_the_machine_writes_and_grows_its_disks(tmp_path: Path, named: bool) -> None:
    async with stage(tmp_path, named=named) as it:
        for turn in range(3):
            before = it.bytes_now()
            async with it.snapshots().standing(REPLICA, [*NAMES, "note.xml"], application=False) as standing:
                assert standing.consistency is Consistency.CRASH
                assert standing.missing == {"note.xml": "QEMU does not use it"}
                assert await it.qemu.own.status() == "running"
                async with asyncio.TaskGroup() as group:
                    group.create_task(scribble(it.qemu, turn))
                    reading = [group.create_task(read(standing.files[name])) for name in NAMES]
                assert [task.result() == before[name] for task, name in zip(reading, NAMES, strict=True)] == [True] * 2
                for name in NAMES:
                    await _check_extents(standing.files[name], before[name])
                    assert await read(standing.files[name]) == before[name]
                await standing.confirm()
                assert it.bytes_now() != before
            await it.check_nothing_is_left()


async def _check_extents(file: ShareFile, content: bytes) -> None:
    covered = bytearray(content)
    for extent in await file.allocated_extents():
        covered[extent.offset_bytes : extent.end_bytes] = bytes(extent.length_bytes)
    assert not any(covered), "what no extent covers reads as zeros"


async def test_too_little_room_begins_nothing_and_ends_what_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicad.hypervisor.qemu.snapshots._LOOK_AT_ROOM_EVERY_S", 0.01)
    async with stage(tmp_path) as it:
        it.short = ["5 bytes are free"]
        with pytest.raises(OutOfSpaceError, match="5 bytes are free"):
            async with it.snapshots().standing(REPLICA, NAMES, application=False):
                pass
        it.short = []
        async with it.snapshots().standing(REPLICA, NAMES, application=False) as standing:
            it.short = ["6 bytes are free"]
            async with asyncio.timeout(10):
                while any(name.startswith(PREFIX) for name in await it.qemu.own.names()):
                    pass  # each look waits for QEMU
            with pytest.raises(BusyError, match="6 bytes are free"):
                await standing.confirm()
            with pytest.raises(ReplicadError):
                await read(standing.files[NAMES[0]])
        await it.check_nothing_is_left()


async def test_a_disk_that_grows_right_after_the_moment_is_shown_without_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(tmp_path) as it:
        before, execute = it.bytes_now(), Qmp.execute

        async def growing(self: Qmp, command: str, arguments: dict[str, object], **named: object) -> object:
            if arguments.get("driver") == "snapshot-access":
                await it.qemu.own.io("disk0", "write -P 3 40M 8M")
                await it.qemu.own.io("disk1", "write -P 3 40M 8M")
            return await execute(self, command, arguments, **named)  # type: ignore[arg-type]  # handed on

        monkeypatch.setattr(Qmp, "execute", lambda self, c, a=None, **n: growing(self, c, a or {}, **n))
        async with it.snapshots().standing(REPLICA, NAMES, application=False) as standing:
            assert it.bytes_now() != before
            for name in NAMES:
                assert await read(standing.files[name]) == before[name]
                await _check_extents(standing.files[name], before[name])
        await it.check_nothing_is_left()


@pytest.mark.root
async def test_a_full_file_system_breaks_the_snapshot_and_not_the_machine() -> None:
    with mounted("ext4", 64 * MIB) as directory:
        (directory / "lost+found").rmdir()
        async with stage(directory) as it:
            for disk in ("disk0", "disk1"):
                await it.qemu.own.io(disk, "write -P 1 0 12M")
            async with it.snapshots().standing(REPLICA, NAMES, application=False) as standing:
                filler = directory / "filler"
                with pytest.raises(OSError, match="No space"):
                    filler.write_bytes(bytes(64 * MIB))
                await it.qemu.own.io("disk0", "write -P 9 0 12M")
                assert await it.qemu.own.status() == "running"
                with pytest.raises(BusyError):
                    await standing.confirm()
                filler.unlink()
            data = it.bytes_now()[NAMES[0]]
            assert data.count(b"\x09" * MIB) >= 12
            await it.check_nothing_is_left()


_DYING = """
import asyncio, sys
from pathlib import Path
from tests.integration.test_qemu_snapshots import NAMES, Stage

class There:
    monitor = Path(sys.argv[1])

async def main():
    async with Stage(There(), Path(sys.argv[2])).snapshots().standing(sys.argv[3], NAMES, application=False):
        print("standing", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_what_a_killed_process_left_is_taken_away_by_the_next(tmp_path: Path) -> None:
    async with stage(tmp_path) as it:
        before = it.bytes_now()
        dying = subprocess.Popen(
            [sys.executable, "-c", _DYING, str(it.qemu.monitor), str(tmp_path), REPLICA],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert dying.stdout is not None
        assert await asyncio.to_thread(dying.stdout.readline) == "standing\n"
        dying.send_signal(signal.SIGKILL)
        dying.wait()
        dying.stdout.close()
        assert [name for name in await it.qemu.own.names() if name.startswith(PREFIX)]
        await scribble(it.qemu, 5)
        now = it.bytes_now()
        assert now != before
        async with it.snapshots().standing(REPLICA, NAMES, application=False) as standing:
            assert {name: await read(standing.files[name]) for name in NAMES} == now
        assert not list(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))
        await it.check_nothing_is_left()


@pytest.mark.parametrize("blow", [Blow.LOST, Blow.SILENT, Blow.REFUSED])
async def test_the_file_that_copies_go_to_is_not_kept_open_by_qemu(tmp_path: Path, blow: Blow) -> None:
    """As long as anybody is connected, QEMU keeps what it was given, and the room that it takes."""
    async with stage(tmp_path) as it:

        async def through() -> None:
            async with it.snapshots().standing(REPLICA, NAMES, application=False) as standing:
                await standing.confirm()

        with struck(Commands(it.qemu)) as all_of_them:
            await through()
        with struck(Commands(it.qemu, all_of_them.log.index("remove-fd") + 1, blow)), pytest.raises(ReplicadError):
            await through()
        await it.check_nothing_is_left()


async def test_cancelled_at_any_step_the_machine_goes_on_with_its_own_disks(tmp_path: Path) -> None:
    async with stage(tmp_path) as it:

        async def through() -> None:
            async with it.snapshots().standing(REPLICA, NAMES, application=False) as standing:
                await standing.confirm()

        steps, done = 0, False
        while not done:
            task = asyncio.ensure_future(through())
            for _ in range(steps):
                await asyncio.sleep(0)
            done = task.done()
            task.cancel()
            await asyncio.wait([task])
            assert await it.qemu.own.status() == "running"
            assert not [name for name in await it.qemu.own.names() if name.startswith("replicad-")], steps
            steps += 1 + steps // 4
        assert not task.cancelled()
        await through()
        await it.check_nothing_is_left()


async def test_qemu_killed_at_any_command_ends_in_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicad.hypervisor.qemu.freezer._PATIENCE_S", 0.1)
    monkeypatch.setattr("replicad.hypervisor.qemu.freezer._ASK_AGAIN_EVERY_S", 0.01)
    execute, commands, kill_at = Qmp.execute, 0, 0

    async def counted(self: Qmp, command: str, *arguments: object, **named: object) -> object:
        nonlocal commands
        commands += 1
        if commands == kill_at:
            await it.qemu.kill()
        return await execute(self, command, *arguments, **named)  # type: ignore[arg-type]  # handed on

    monkeypatch.setattr(Qmp, "execute", counted)
    disks = [make_vhdx(tmp_path / name) for name in NAMES]
    total = 0
    while kill_at <= total:
        async with running_qemu(disks) as qemu:
            it, commands = Stage(qemu, tmp_path), 0
            try:
                async with it.snapshots().standing(REPLICA, NAMES, application=False) as standing:
                    await standing.confirm()
            except ReplicadError:
                assert kill_at
            total = total or commands
            assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
        kill_at += 3  # each one, and in more ways: tests/fault/test_qemu_faults.py
    assert total > 20
