"""Machines whose disks are moved while they run: which file is used, and what stands in while they are off."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from replicad.hypervisor.port import Relocation, Still, Usage
from replicad.hypervisor.qemu.freezer import UNDO_KIND, undo_freeze
from replicad.hypervisor.qemu.monitor import Monitor
from replicad.hypervisor.qemu.switching import QemuUser
from replicad.hypervisor.thawing import FreezeJournal
from replicad.model.address import Address, LocalAddress
from replicad.model.moves import Side
from replicad.model.progress import ProgressEvent
from replicad.storage.memory import MemoryShare
from replicad.storage.port import Share
from tests.support.files import HOLDER
from tests.support.world import SteadyClock

_FICLONE = 0x40049409
VM = "웹 🖥"


@dataclass
class Unused:
    """A `DiskUser` of files that nobody uses; what it was asked for is noted."""

    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    async def usage(self, files: Sequence[Relocation]) -> Usage:
        self._note("usage", files)
        return Usage.IDLE

    @asynccontextmanager
    async def still(self, files: Sequence[Relocation]) -> AsyncIterator[Still]:
        self._note("still", files)
        yield _UnusedStill(self)
        self._note("end", files)

    async def has_ended(self) -> bool:
        raise AssertionError

    async def sides(self, files: Sequence[Relocation]) -> Mapping[str, Side]:
        self._note("sides", files)
        return {file.path: Side.NOBODY for file in files}

    def _note(self, what: str, files: Sequence[Relocation]) -> None:
        self.asked.append((what, tuple(file.path for file in files)))


@dataclass
class _UnusedStill:
    of: Unused

    async def check(self) -> None:
        self.of._note("check", ())

    async def switch(self, files: Sequence[Relocation], *, may_go_back: bool = True) -> None:
        self.of._note("switch", files)


@dataclass
class Move:
    """The files of a machine at `source`, and where they go; `user` is made anew as by each process of ours."""

    monitor: Path
    source: Path
    destination: Path
    names: tuple[str, ...]
    state: Share = field(default_factory=MemoryShare)
    events: list[ProgressEvent] = field(default_factory=list)
    unused: Unused = field(default_factory=Unused)

    @property
    def files(self) -> list[Relocation]:
        source, destination = LocalAddress(str(self.source)), LocalAddress(str(self.destination))
        return [Relocation(name, source.child(name), destination.child(name), 0, name) for name in self.names]

    @property
    def back(self) -> Move:
        """The move the other way round."""
        return Move(self.monitor, self.destination, self.source, self.names, self.state, self.events, self.unused)

    def journal(self) -> FreezeJournal:
        return FreezeJournal(self.state, lambda: HOLDER, SteadyClock().clock(), {UNDO_KIND: _undo}, self.events.append)

    def user(self, longest_s: float | None = None) -> QemuUser:
        return QemuUser(
            Monitor(self.monitor, 20), self.journal(), VM, seen_at, self.unused, self.events.append, longest_s
        )

    def copy(self) -> None:
        """What travels while the machine stands still: all of it, here."""
        self.destination.mkdir(exist_ok=True)
        for name in self.names:
            shutil.copyfile(self.source / name, self.destination / name)

    def clone(self) -> None:
        """The same at once, on a file system that can."""
        self.destination.mkdir(exist_ok=True)
        for name in self.names:
            with (self.source / name).open("rb") as old, (self.destination / name).open("wb") as new:
                fcntl.ioctl(new, _FICLONE, old.fileno())

    async def sides(self) -> set[Side]:
        """Where the machine uses its disks, as a process says that has just begun."""
        return set((await self.user().sides(self.files)).values())


async def _undo(vm: str, how: Mapping[str, str]) -> None:
    await undo_freeze(how, 20)


def seen_at(address: Address) -> str | None:
    """A directory of this host is seen where it is, and nothing else."""
    return address.path if isinstance(address, LocalAddress) else None
