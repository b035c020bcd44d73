"""How much room the clones take that are kept at sources: told, and not asked for whenever somebody looks.

To know it, where each byte of the clones lies has to be asked for. So it is done now and then, and what was found is
remembered with its time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from replicad.model.clock import Clock
from replicad.model.errors import ReplicadError
from replicad.settings import Settings, VirtualMachine
from replicad.tracking.extents import kept_bytes

from .compose import Shares

MEASURE_EVERY_S = 60.0
_LEAST_REST = 99
"""How many times as long as measuring took nothing is measured after it: fragmented disks must not keep a core busy."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("room")


@dataclass(frozen=True, slots=True)
class KeptRoom:
    """Bytes that the clones kept at a source took at `at` (UTC), and no other file has a share in."""

    kept_bytes: int
    at: datetime


async def measured(machine: VirtualMachine, shares: Shares, clock: Clock) -> KeptRoom | None:
    """What clones take at a machine's source now, of whichever replica; None where there can be none. Raises what
    opening the source and asking its file system raise."""
    if not machine.consistency.leaves_clones:
        return None
    at = clock.now()
    return KeptRoom(await kept_bytes(await shares.open(machine.source)), at)


class KeptClones:
    """Measures, while `run` runs, what the clones take at the sources of all machines that may have some. For one event
    loop; the file systems are asked on threads."""

    def __init__(self, settings: Settings, clock: Clock, open_shares: Callable[[Settings], Shares] = Shares) -> None:
        self._settings, self._clock, self._open_shares = settings, clock, open_shares
        self._found: dict[str, KeptRoom] = {}
        self._said: dict[str, str] = {}

    def apply(self, settings: Settings) -> None:
        """Take another configuration."""
        self._settings = settings
        gone = self._found.keys() - {machine.name for machine in self._machines()}
        for vm in gone:
            self._found.pop(vm)

    def of(self, vm: str) -> KeptRoom | None:
        """What was found last; None where there can be no clones, and where it is not known."""
        return self._found.get(vm)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            began_s = self._clock.monotonic_s()
            await self.measure()
            await self._clock.sleep(max(MEASURE_EVERY_S, _LEAST_REST * (self._clock.monotonic_s() - began_s)))

    async def measure(self) -> None:
        """Once at all machines, one after the other. Nothing is known of one whose source does not answer."""
        machines = self._machines()
        if not machines:
            return
        async with self._open_shares(self._settings) as shares:
            for machine in machines:
                await self._measure_one(machine, shares)

    def _machines(self) -> list[VirtualMachine]:
        return [m for m in self._settings.virtual_machines.values() if m.consistency.leaves_clones]

    async def _measure_one(self, machine: VirtualMachine, shares: Shares) -> None:
        vm = machine.name
        try:
            found = await measured(machine, shares, self._clock)
        except ReplicadError as error:
            self._found.pop(vm, None)
            if self._said.get(vm) != error.answer:
                self._said[vm] = error.answer
                _log.warning("how much room the kept clones take can't be told", vm=vm, why=str(error))
            return
        except Exception:  # noqa: BLE001  a defect that one machine meets must not end the service for all
            self._found.pop(vm, None)
            _log.error(
                "how much room the kept clones take can't be told: this program has a defect", vm=vm, exc_info=True
            )
            return
        self._said.pop(vm, None)
        # The configuration may have changed meanwhile.
        if found is not None and any(vm == other.name for other in self._machines()):
            self._found[vm] = found
