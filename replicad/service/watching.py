"""Cycles that begin because a disk of the source has changed (`watch:`): hints only, beside the schedule."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from replicad.model.address import Address
from replicad.model.agenda import LatestPoint
from replicad.model.clock import Clock
from replicad.model.errors import ReplicadError, SignInError, UnsupportedError
from replicad.model.schedule import retry_pause_s
from replicad.settings import Settings, VirtualMachine
from replicad.storage.port import ChangeHints
from replicad.tracking.selection import Selection, is_selected

from .compose import Shares

_AGES_S = 3600.0
_LOOK_EVERY_S = 5.0
_REST_S = 1.0
"""Between two looks while something changes: a disk in use is written all the time."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("watch")


class Sources(Protocol):
    """Where hints come from; `Shares` is one."""

    async def changes(self, address: Address) -> ChangeHints:
        """Hints of changes in a directory."""


@dataclass(slots=True)
class _Watched:
    machine: VirtualMachine
    task: asyncio.Task[None]


class Watches:
    """Gives a trigger for each machine whose source changes, while `run` runs. For one event loop.

    `give` has a cycle begin, and does not raise; `latest_of` is the latest point of a machine, as far as it is known.
    `open_shares` makes the shares over whose connections servers are listened to, each with one sign-in of its own.
    """

    def __init__(
        self, settings: Settings, give: Callable[[str], Awaitable[None]],
        latest_of: Callable[[str], LatestPoint | None], clock: Clock,
        open_shares: Callable[[Settings], Shares] = Shares,
    ) -> None:  # fmt: skip
        self._settings, self._give, self._clock, self._open_shares = settings, give, clock, open_shares
        self._latest_of = latest_of
        self._changed = asyncio.Event()

    def apply(self, settings: Settings) -> None:
        """Take another configuration."""
        self._settings = settings
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            servers = self._settings.servers
            async with self._open_shares(self._settings) as shares, asyncio.TaskGroup() as group:
                watched: dict[str, _Watched] = {}
                try:
                    while self._settings.servers == servers:
                        self._changed.clear()
                        await self._adapt(watched, shares, group)
                        await self._changed.wait()
                finally:
                    shares.give_up()  # to close what is open is not worth a wait: servers do it themselves
                    for one in watched.values():
                        one.task.cancel()

    async def _adapt(self, watched: dict[str, _Watched], shares: Sources, group: asyncio.TaskGroup) -> None:
        """Watch the machines that are to be watched now, and no others."""
        wanted = {vm: machine for vm, machine in self._settings.virtual_machines.items() if machine.watch is not None}
        for vm in [vm for vm, one in watched.items() if wanted.get(vm) != one.machine]:
            one = watched.pop(vm)
            one.task.cancel()
            await asyncio.wait([one.task])
        for vm, machine in wanted.items():
            if vm not in watched:
                task = group.create_task(self._watch(machine, shares), name=f"watch of {vm}")
                watched[vm] = _Watched(machine, task)

    async def _watch(self, machine: VirtualMachine, shares: Sources) -> None:
        """Until nobody tells of changes there."""
        try:
            await self._listen(machine, shares)
        except Exception:  # noqa: BLE001  a defect that one machine meets must not end the service for all
            _log.warning(
                "the source is not watched: this program has a defect; only the schedule begins cycles",
                vm=machine.name, exc_info=True,
            )  # fmt: skip

    async def _listen(self, machine: VirtualMachine, shares: Sources) -> None:
        failures, said = 0, ""
        try:
            hints = await shares.changes(machine.source)
        except ReplicadError as error:
            _log.warning("the source can't be watched", vm=machine.name, why=str(error))
            return
        async with contextlib.aclosing(_Closing(hints)):
            listening = _Listening(machine, hints, self._clock)
            while True:
                try:
                    await listening.until_changed()
                    failures, said = 0, ""
                    await self._give(machine.name)
                except UnsupportedError as error:
                    _log.warning(
                        "the source is not watched: only the schedule begins cycles", vm=machine.name, why=str(error)
                    )
                    return
                except SignInError as error:
                    _log.warning(
                        "the source is not watched until a cycle has gone well: only the schedule begins cycles",
                        vm=machine.name, why=str(error),
                    )  # fmt: skip
                    await self._until_a_cycle_has_gone_well(machine.name)
                except ReplicadError as error:
                    failures += 1
                    if error.answer != said:
                        said = error.answer
                        _log.warning("the source can't be watched now", vm=machine.name, why=str(error))
                    await self._clock.sleep(retry_pause_s(failures))

    async def _until_a_cycle_has_gone_well(self, vm: str) -> None:
        """A few refused sign-ins lock an account: only a cycle, which a person has let go on, tries it again."""
        before = self._latest_of(vm)
        while self._latest_of(vm) == before:
            await self._clock.sleep(_LOOK_EVERY_S)


@dataclass(frozen=True, slots=True)
class _Closing:
    hints: ChangeHints

    async def aclose(self) -> None:
        await self.hints.close()


class _Listening:
    """Waits for the moments at which a machine's changes are to begin a cycle."""

    def __init__(self, machine: VirtualMachine, hints: ChangeHints, clock: Clock) -> None:
        self._selection = Selection(machine.disks, machine.exclude, machine.config_files)
        self._watch = machine.watch
        self._hints, self._clock = hints, clock
        self._given_s: float | None = None

    async def until_changed(self) -> None:
        """Until a file of the machine has changed and it is quiet again, or has been changing for long enough; and
        until so long after the last time."""
        if self._watch is None:
            raise ValueError("this machine is not watched")
        while not await self._heard(_AGES_S):
            pass
        first_s = self._clock.monotonic_s()
        latest_s = first_s + self._watch.at_most_every_s
        while (left_s := latest_s - self._clock.monotonic_s()) > 0:
            await self._clock.sleep(min(_REST_S, left_s))
            if not await self._heard(min(max(0.0, self._watch.quiet_s - _REST_S), max(0.0, left_s - _REST_S))):
                break
        if self._given_s is not None:
            await self._clock.sleep(max(0.0, self._given_s + self._watch.at_most_every_s - self._clock.monotonic_s()))
        self._given_s = self._clock.monotonic_s()

    async def _heard(self, within_s: float) -> bool:
        """Whether a file of the machine changes within that time."""
        until_s = self._clock.monotonic_s() + within_s
        while True:
            left_s = until_s - self._clock.monotonic_s()
            paths = await self._hints.wait(max(0.0, left_s))
            if paths is not None and (not paths or any(is_selected(path, self._selection) for path in paths)):
                return True
            if paths is None and left_s <= _REST_S / 100:
                return False
            if paths is not None:
                await self._clock.sleep(min(_REST_S, max(0.0, left_s)))
