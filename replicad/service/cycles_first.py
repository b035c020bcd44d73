"""Cycles come before verifications."""

from __future__ import annotations

from replicad.model.agenda import LatestPoint
from replicad.model.tracking_words import TrackerMistake
from replicad.workflows.replicate import CycleReport

from .attempt import Cycles
from .verifying import Verifier
from .watch import Watch


class CyclesFirst:
    """Cycles before which verifications of the same replica give way."""

    def __init__(self, cycles: Cycles, verifier: Verifier) -> None:
        self._cycles, self._verifier = cycles, verifier

    async def run(self, vm: str, watch: Watch, *, resync: bool) -> CycleReport:
        """As `Cycles.run`."""
        async with self._verifier.cycle(vm, watch):
            return await self._cycles.run(vm, watch, resync=resync)

    async def mistakes_after(self, vm: str, number: int) -> tuple[TrackerMistake, ...] | None:
        """As `Cycles.mistakes_after`."""
        return await self._cycles.mistakes_after(vm, number)

    async def latest_point(self, vm: str) -> LatestPoint | None:
        """As `Cycles.latest_point`."""
        return await self._cycles.latest_point(vm)

    def give_up(self) -> None:
        """As `Cycles.give_up`."""
        self._cycles.give_up()
