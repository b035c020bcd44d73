"""Clones that are kept at sources must not take the room that the machines need: they go first.

A machine whose disk can't grow any more stands still. So the room is looked at all the time, in the midst of cycles,
too, and not only when one begins: the next cycle then reads everything, and no more is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from replicad.model.clock import Clock
from replicad.model.errors import ReplicadError
from replicad.settings import Settings, VirtualMachine
from replicad.tracking.extents import drop_clones, is_short_of_room

from .compose import Shares
from .events import Event, Trouble

LOOK_EVERY_S = 10.0

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("room")


class CloneRoom:
    """Drops the kept clones of machines whose source has less free room than their `keep_free`, while `run` runs.

    `tell` hears of each time, and must neither block nor raise. For one event loop.
    """

    def __init__(
        self, settings: Settings, clock: Clock, tell: Callable[[Event], None],
        open_shares: Callable[[Settings], Shares] = Shares,
    ) -> None:  # fmt: skip
        self._settings, self._clock, self._tell, self._open_shares = settings, clock, tell, open_shares
        self._said: dict[str, str] = {}

    def apply(self, settings: Settings) -> None:
        """Take another configuration."""
        self._settings = settings

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Once at all machines. One whose source does not answer keeps nobody else's clones."""
        machines = [m for m in self._settings.virtual_machines.values() if m.consistency.leaves_clones]
        if not machines:
            return
        async with self._open_shares(self._settings) as shares, asyncio.TaskGroup() as group:
            for machine in machines:
                group.create_task(self._look_at(machine, shares), name=f"room of {machine.name}")

    async def _look_at(self, machine: VirtualMachine, shares: Shares) -> None:
        try:
            share = await shares.open(machine.source)
            dropped = await drop_clones(share) if await is_short_of_room(share, machine.consistency.keep_free.of) else 0
        except ReplicadError as error:
            if self._said.get(machine.name) != error.answer:
                self._said[machine.name] = error.answer
                _log.warning("the room at the source can't be looked at", vm=machine.name, why=str(error))
            return
        except Exception:  # noqa: BLE001  a defect that one machine meets must not end the service for all
            _log.error(
                "the room at the source can't be looked at: this program has a defect", vm=machine.name, exc_info=True
            )
            return
        self._said.pop(machine.name, None)
        if dropped:
            text = (
                f"{share.name} has less free space than 'keep_free' asks for, so the clones kept there were dropped; "
                "the next cycle reads the disks whole"
            )
            self._tell(Trouble(machine.name, text))
