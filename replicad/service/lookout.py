"""Telling the service manager and the hooks how the machines stand."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from replicad.model.clock import Clock
from replicad.model.errors import ReplicadError
from replicad.model.health import Health

from .announcing import Announcer
from .control import MachineView
from .sd_notify import Notifier

_LOOK_EVERY_S = 10.0

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("daemon")


class Machines(Protocol):
    """Who knows them; `Control` does."""

    async def machines(self) -> list[MachineView]:
        """All machines as they stand now; ReplicadError if that can't be told."""


class Lookout:
    """Looks at all machines every ten seconds, and tells the service manager and the hooks how they stand; and the
    manager, as often as it wants, that the event loop is alive."""

    def __init__(self, machines: Machines, notifier: Notifier, announcer: Announcer, clock: Clock) -> None:
        self._machines, self._notifier, self._announcer, self._clock = machines, notifier, announcer, clock
        self._trouble = ""

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell_that_the_loop_is_alive(), name="watchdog")
            group.create_task(self._look_again_and_again(), name="looks")

    async def _tell_that_the_loop_is_alive(self) -> None:
        """Also while what is looked at waits for a disk."""
        while True:
            self._notifier.watchdog()
            await self._clock.sleep(min(self._notifier.watchdog_interval_s() or _LOOK_EVERY_S, _LOOK_EVERY_S))

    async def _look_again_and_again(self) -> None:
        while True:
            try:
                views = await self._machines.machines()
            except ReplicadError as error:
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    _log.warning("how the machines stand can't be told", why=self._trouble)
            else:
                self._trouble = ""
                self._announcer.look(views, self._clock.now())
                self._notifier.status(_summary(views))
            await self._clock.sleep(_LOOK_EVERY_S)


def _summary(views: list[MachineView]) -> str:
    bad = [view for view in views if view.standing.health is not Health.NORMAL]
    running = sum(view.run is not None for view in views)
    text = f"{len(views)} machines, {running} cycles under way"
    if not bad:
        return f"{text}, all well"
    worst = max(bad, key=lambda view: list(Health).index(view.standing.health))
    return f"{text}, {len(bad)} not well: {worst.vm}: {'; '.join(worst.standing.reasons)}"
