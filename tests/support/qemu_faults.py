"""What can happen to a QEMU, to its monitor's connection and to ourselves, at any one of the commands of a cycle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NoReturn

import pytest

from replicad.hypervisor.qemu.qmp import Qmp
from replicad.model.errors import UnreachableError
from tests.support.faulty import Crash, FaultyShare
from tests.support.qemu import Qemu


class Blow(Enum):
    """What happens at one command."""

    KILLED = "QEMU is killed before it"
    KILLED_AFTER = "QEMU is killed when it has done it"
    LOST = "the connection is lost before it"
    LOST_AFTER = "the connection is lost when it was done, and before that is told"
    REFUSED = "it is refused"
    SILENT = "it is not done, and nothing is answered"
    LATE = "it is done, and answered too late"
    DIED = "this process dies before it"
    DIED_AFTER = "this process dies when it was done"


@dataclass
class Commands:
    """Counts what one process of ours asks of its QEMU, and strikes at one of the commands."""

    qemu: Qemu
    number: int = 0
    blow: Blow = Blow.LOST
    log: list[str] = field(default_factory=list)
    ours: list[FaultyShare] = field(default_factory=list)
    """The shares that die with this process."""

    async def execute(self, qmp: Qmp, command: str, arguments: Mapping[str, object] | None) -> Any:
        for share in self.ours:
            share.alive()
        self.log.append(command)
        if len(self.log) != self.number:
            return await _execute(qmp, command, arguments)
        match self.blow:
            case Blow.KILLED:
                await self.qemu.kill()
            case Blow.LOST:
                _cut(qmp)
            case Blow.REFUSED:
                return await _execute(qmp, "blockdev-del", {"node-name": "없음"})
            case Blow.SILENT:
                return await _unanswered(qmp, command, arguments, done=False)
            case Blow.LATE:
                return await _unanswered(qmp, command, arguments, done=True)
            case Blow.DIED:
                self._die(qmp)
        done = await _execute(qmp, command, arguments)
        match self.blow:
            case Blow.KILLED_AFTER:
                await self.qemu.kill()
            case Blow.LOST_AFTER:
                _cut(qmp)
                qmp.lost = True
                raise UnreachableError(f"run '{command}' at", qmp.subject, "the connection was lost")
            case Blow.DIED_AFTER:
                self._die(qmp)
        return done

    def _die(self, qmp: Qmp) -> None:
        _cut(qmp)
        for share in self.ours:
            share.crash()
        raise Crash


_execute = Qmp._execute  # in its place: a process between would be taken for QEMU


async def _unanswered(qmp: Qmp, command: str, arguments: Mapping[str, object] | None, *, done: bool) -> Any:
    asked = qmp._client.execute  # the time limit itself is what is met

    async def execute(command: str, arguments: dict[str, object]) -> NoReturn:
        if done:
            await asked(command, arguments)
        raise TimeoutError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qmp._client, "execute", execute)
        return await _execute(qmp, command, arguments)


def _cut(qmp: Qmp) -> None:
    writer = qmp._client._writer  # as the kernel does it, without a word to the client
    if writer is not None:
        writer.transport.abort()


@contextmanager
def struck(commands: Commands) -> Iterator[Commands]:
    """Inside, whatever is asked of a QEMU goes through `commands`."""

    async def execute(qmp: Qmp, command: str, arguments: Mapping[str, object] | None) -> Any:
        return await commands.execute(qmp, command, arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qmp, "_execute", execute)
        yield commands
