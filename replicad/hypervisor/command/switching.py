"""Moving the disks of a machine while it runs, by the user's own commands: `freeze`, `switch`, `thaw`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from replicad.hypervisor.held import is_written
from replicad.hypervisor.port import Relocation, Usage
from replicad.hypervisor.thawing import KIND, OpenPage, Undo
from replicad.model.address import LocalAddress
from replicad.model.errors import BusyError, ConflictError, IntegrityError, ReplicadError, UnsupportedError
from replicad.model.moves import Side
from replicad.model.points import Consistency
from replicad.model.progress import Alarmed, Observer
from replicad.storage.blocking import run_blocking
from replicad.storage.port import Share
from replicad.storage.together import together
from replicad.storage.undisturbed import undisturbed

from .freezing import CommandFreezer
from .running import Call, CommandNotStartedError, Phase, call_of, run

SWITCH_UNDO_KIND = "command-switch"
"""The kind of what `undo_switch` undoes."""
_SWITCH_BACK = "switch back"
_STATES = "states"
_AT_ONCE = 8
_STAT_TIMEOUT_S = 30.0

State = tuple[int, int]
"""The size of a file, and the time that its share shows."""


class CommandUser:
    """The `DiskUser` of a machine that stands still, is switched and goes on by commands, for one move.

    `switch` is told both paths of each disk, and has the machine use the new one from then on: also if it does already.
    When it fails, or this process dies before it has ended, it is run once more the other way round before `thaw`, so
    that a machine goes on with all its disks at one side. `is_disk` tells which of the files the commands are told of.
    """

    def __init__(
        self,
        freezer: CommandFreezer,
        switch: tuple[str, ...],
        source: Share,
        places: Sequence[Share],
        is_disk: Callable[[str], bool],
    ) -> None:
        self._freezer = freezer
        self._switch = switch
        self._source = source
        self._places = places
        self._is_disk = is_disk
        self._before: Mapping[str, Side] | None = None
        self._has_switched = False

    async def usage(self, files: Sequence[Relocation]) -> Usage:
        """RUNNING: a machine that is off has nothing to do at `freeze`. PermanentError for paths that do not fit into
        what a command is told."""
        self._calls(files)
        return Usage.RUNNING

    @asynccontextmanager
    async def still(self, files: Sequence[Relocation]) -> AsyncIterator[CommandStill]:
        """As the port says, as far as `freeze` and `thaw` do what they say."""
        self._calls(files)
        disks = tuple(str(file.source) for file in files if self._is_disk(file.path))
        async with self._freezer.journal.of(self._freezer.vm) as page:
            # Some let a machine stand still by having it close its disks.
            self._before = await self._look(files)
            try:
                async with self._freezer.frozen_on(page, disks, application=False):
                    found = await self._states(files)
                    yield CommandStill(self, page, found)
            finally:
                self._before = None

    async def has_ended(self) -> bool:
        """False: nobody can tell."""
        return False

    async def sides(self, files: Sequence[Relocation]) -> Mapping[str, Side]:
        """As the port says, where either of the two files alone is open for writing; else NOBODY: then it has to be
        seen from what they hold. What an earlier process left undone is done first."""
        if self._before is not None:
            return {file.path: self._before.get(file.path, Side.NOBODY) for file in files}
        await self._freezer.journal.undo_left(self._freezer.vm)
        return await self._look(files)

    async def check(self, found: Mapping[str, State]) -> None:
        """BusyError if a file of the source is not as it was found."""

        async def compare(path: str) -> None:
            if await self._state(path) != found[path]:
                raise BusyError(
                    "keep standing still", self._freezer.vm, f"{path} was written after 'freeze' had ended",
                    "Have 'freeze' make sure that nothing writes the disks before it ends.",
                )  # fmt: skip

        await together(compare, sorted(found), _AT_ONCE)

    async def switch(self, page: OpenPage, files: Sequence[Relocation], *, may_go_back: bool) -> None:
        """All of them, or none, unless it raises a ConflictError, or there is no going back."""
        forward, back = self._calls(files)
        if not forward.disks:
            return
        if may_go_back:
            await self._switch_there_or_back(page, files, forward, back)
        else:
            await run(forward, self._freezer.observe)
            await self._refuse_used(files)
        self._has_switched = True

    async def _switch_there_or_back(
        self, page: OpenPage, files: Sequence[Relocation], forward: Call, back: Call
    ) -> None:  # fmt: skip
        states = {
            str(file.destination): await self._new_state(file)
            for file in files
            if self._is_disk(file.path) and isinstance(file.destination, LocalAddress)
        }
        try:
            await page.freezing(
                _SWITCH_BACK, back.as_how() | {KIND: SWITCH_UNDO_KIND, _STATES: json.dumps(states)}
            )  # fmt: skip
        except BaseException:
            await undisturbed(page.thawed(_SWITCH_BACK))
            raise
        try:
            await run(forward, self._freezer.observe)
            await self._refuse_used(files)
            await page.confirmed(_SWITCH_BACK)
        except BaseException as error:
            await undisturbed(self._back(page, back, error))
            raise

    def _calls(self, files: Sequence[Relocation]) -> tuple[Call, Call]:
        """There, and back. PermanentError for paths that do not fit."""
        disks = [file for file in files if self._is_disk(file.path)]
        old = tuple(str(file.source) for file in disks)
        new = tuple(str(file.destination) for file in disks)
        vm, timeout_s = self._freezer.vm, self._freezer.timeout_s
        there = Call(vm, Phase.SWITCH, self._switch, old, Consistency.CRASH, timeout_s, new)
        back = Call(vm, Phase.SWITCH, self._switch, new, Consistency.CRASH, timeout_s, old)
        there.variables()
        return there, back

    async def _back(self, page: OpenPage, back: Call, error: BaseException) -> None:
        if not isinstance(error, CommandNotStartedError):
            try:
                await run(back, self._freezer.observe)
            except ReplicadError as failed:
                # Not tried again: it goes on with what it has, and writes that.
                await page.thawed(_SWITCH_BACK)
                raise _is_torn(back.vm, failed, error) from error
        await page.thawed(_SWITCH_BACK)

    async def _refuse_used(self, files: Sequence[Relocation]) -> None:
        """BusyError if somebody writes at the source still: it was not switched, or not by this program alone."""

        async def refuse(file: Relocation) -> None:
            if self._is_disk(file.path) and await _is_seen_written(self._source, file.path):
                raise BusyError(
                    "switch", self._freezer.vm, f"somebody still has {file.source} open for writing",
                    "Have 'switch' end when the machine uses the new disks alone.",
                )  # fmt: skip

        await together(refuse, files, _AT_ONCE)

    async def _look(self, files: Sequence[Relocation]) -> dict[str, Side]:
        async def look(file: Relocation) -> tuple[str, Side]:
            if not self._is_disk(file.path):
                return file.path, Side.NOBODY
            at_source = await _is_seen_written(self._source, file.path)
            # A machine that was just switched may be about to open them, and whoever asks is in its way.
            ask = not self._has_switched
            at_destination = ask and await _is_seen_written(self._places[file.place], file.target)
            if at_source is at_destination:
                return file.path, Side.NOBODY
            return file.path, Side.SOURCE if at_source else Side.DESTINATION

        return dict(await together(look, files, _AT_ONCE))

    async def _states(self, files: Sequence[Relocation]) -> dict[str, State]:
        async def state(file: Relocation) -> tuple[str, State]:
            return file.path, await self._state(file.path)

        return dict(await together(state, files, _AT_ONCE))

    async def _state(self, path: str) -> State:
        stat = await self._source.stat(path)
        return stat.size_bytes, stat.write_time_ns

    async def _new_state(self, file: Relocation) -> State:
        stat = await self._places[file.place].stat(file.target)
        return stat.size_bytes, stat.write_time_ns


@dataclass(slots=True)
class CommandStill:
    """A `Still` between `freeze` and `thaw`."""

    _user: CommandUser
    _page: OpenPage
    _found: Mapping[str, State]
    _is_switched: bool = field(default=False)

    async def check(self) -> None:
        """As the port says, as far as sizes and times tell."""
        await self._user.check(self._found)

    async def switch(self, files: Sequence[Relocation], *, may_go_back: bool = True) -> None:
        """As the port says. BusyError if the command fails or somebody still writes at the source."""
        if self._is_switched:
            raise ValueError("it was switched already")
        await self.check()
        await self._user.switch(self._page, files, may_go_back=may_go_back)
        self._is_switched = True


def undo_switch(observe: Observer) -> Undo:
    """What has a machine go on at the source, for the freeze journal, when a process died while it was being switched.

    Tried once, before the machine goes on: after that its disks may have been written, and they tell which it uses.
    """

    async def undo(vm: str, how: Mapping[str, str]) -> None:
        call, states = call_of(vm, how), _states_of(vm, how)
        if written := await _written_since(states):
            observe(Alarmed(f"{vm} was not switched back: it has gone on with {written} already"))
            return
        try:
            await run(call, observe)
        except ReplicadError as error:
            observe(Alarmed(f"{vm} could not be switched back, and goes on with the disks that it has: {error}"))

    return undo


def _states_of(vm: str, how: Mapping[str, str]) -> dict[str, State]:
    try:
        return {str(path): (int(size), int(time)) for path, (size, time) in json.loads(how[_STATES]).items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        raise IntegrityError(
            "switch back", vm, "what was written down of how to do it makes no sense", "Do it by hand."
        ) from None


async def _written_since(states: Mapping[str, State]) -> str | None:
    """The first of the local files that is not as it was."""

    def look() -> str | None:
        for path, state in states.items():
            try:
                stat = Path(path).stat()
            except OSError:
                continue  # it is not there, so nothing uses it
            if (stat.st_size, stat.st_mtime_ns) != state:
                return path
        return None

    executor = ThreadPoolExecutor(1, thread_name_prefix="replicad-switch-back")
    try:
        return await run_blocking(executor, "look at", "the disks of the destination", look, _STAT_TIMEOUT_S)
    finally:
        executor.shutdown(wait=False)


async def _is_seen_written(share: Share, path: str) -> bool:
    try:
        return await is_written(share, path)
    except UnsupportedError:
        return False


def _is_torn(vm: str, failed: ReplicadError, error: BaseException) -> ConflictError:
    why = error.answer if isinstance(error, ReplicadError) else "it was cancelled"
    return ConflictError(
        "switch", vm, f"{why}; and it could not be switched back: {failed.answer}",
        "Look which disks it uses: it may use some at the source and some at the destination. Nothing is deleted.",
    )  # fmt: skip
