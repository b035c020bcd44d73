"""A machine whose disks are moved while it runs: it writes at every call of the move, and outlives it.

It has its disks open as a hypervisor has, by what they are and not by their names, and knows what they must hold. It is
stopped and switched as QEMU is; when who stopped it dies, a watchdog lets it go on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from replicad.hypervisor.port import Relocation, Usage
from replicad.model.address import LocalAddress
from replicad.model.errors import BusyError, ReplicadError, UnsupportedError
from replicad.model.moves import Side
from replicad.storage.memory import MemoryFile, MemoryShare
from replicad.storage.port import OpenMode

_WRITE_BYTES = 700


@dataclass
class MovedMachine:
    """`disks` are its disks by their paths at the source, as they must be."""

    share: MemoryShare
    random: Random
    disks: dict[str, bytearray] = field(default_factory=dict)
    is_running: bool = True
    is_stopped: bool = False
    refuses: ReplicadError | None = None
    """What the next switch ends with, at its last disk."""
    switches: int = 0
    dies_when_it_goes_on: bool = False
    """After a switch."""
    _open: dict[str, tuple[Side, MemoryFile]] = field(default_factory=dict)

    async def start(self, names: Mapping[str, tuple[Side, str]]) -> None:
        """Run with these disks: for each of them the side and the name at which it is opened."""
        self.share = self.share.view()
        self._open = {path: (side, await self.share.open(name, OpenMode.WRITE)) for path, (side, name) in names.items()}
        self.is_running, self.is_stopped = True, False

    def die(self) -> None:
        """It is killed."""
        self.is_running = False
        self._open.clear()
        self.share.die()

    async def live(self) -> None:
        """Write something, if it can."""
        if not self.is_running or self.is_stopped:
            return
        path = self.random.choice(sorted(self._open))
        offset = self.random.randrange(len(self.disks[path]))
        data = self.random.randbytes(self.random.randint(1, _WRITE_BYTES))[: len(self.disks[path]) - offset]
        await self._open[path][1].write(data, offset)
        self.disks[path][offset : offset + len(data)] = data

    def watchdog(self) -> None:
        """Who stopped it has died."""
        self.is_stopped = False

    def where(self) -> dict[str, Side]:
        """The side that each of its disks is used at."""
        return {path: side for path, (side, _) in self._open.items()}

    # -- what a move sees of it --------------------------------------------------------------------------------------

    async def usage(self, files: Sequence[Relocation]) -> Usage:
        return Usage.RUNNING if self.is_running else Usage.IDLE

    @asynccontextmanager
    async def still(self, files: Sequence[Relocation]) -> AsyncIterator[StillMachine]:
        assert not self.is_stopped, "it is stopped already"
        self.is_stopped = self.is_running
        try:
            yield StillMachine(self)
        finally:
            self.is_stopped = False
            if self.switches and self.dies_when_it_goes_on:
                self.die()

    async def has_ended(self) -> bool:
        return not self.is_running

    async def sides(self, files: Sequence[Relocation]) -> Mapping[str, Side]:
        return {file.path: self.where().get(file.path, Side.NOBODY) for file in files}


@dataclass
class StillMachine:
    machine: MovedMachine

    async def check(self) -> None:
        if self.machine.is_running and not self.machine.is_stopped:
            raise BusyError("stop", "the machine", "it goes on")

    async def switch(self, files: Sequence[Relocation], *, may_go_back: bool = True) -> None:
        machine = self.machine
        if not machine.is_running:
            return
        new: dict[str, tuple[Side, MemoryFile]] = {}
        for number, file in enumerate(files):
            assert isinstance(file.destination, LocalAddress)
            opened = await machine.share.open(file.destination.path.lstrip("/"), OpenMode.WRITE)
            assert await content(opened) == machine.disks[file.path], f"{file.path} was not complete at the switch"
            new[file.path] = (Side.DESTINATION, opened)
            if machine.refuses is not None and number == len(files) - 1:
                error, machine.refuses = machine.refuses, None
                await _close(new.values())
                raise error
        old = [machine._open[path] for path in new if path in machine._open]
        machine._open |= new
        await _close(old)
        machine.switches += 1


async def _close(files: Iterable[tuple[Side, MemoryFile]]) -> None:
    for _, file in files:
        await file.close()


async def content(file: MemoryFile) -> bytes:
    """All of an open file."""
    size = (await file.identity()).size_bytes
    buffer = bytearray(size)
    assert await file.read_into(buffer, 0) == size
    return bytes(buffer)


def refusal() -> UnsupportedError:
    """What a hypervisor says that can't switch a disk."""
    return UnsupportedError("switch", "가.vhdx", "the device does not take another node")
