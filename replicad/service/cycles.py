"""A cycle of a configured machine, on its own connections."""

from __future__ import annotations

from dataclasses import replace

from replicad.settings import Settings
from replicad.workflows.context import Context
from replicad.workflows.replicate import CycleReport
from replicad.workflows.retries import replicate_with_retries

from .bandwidth import BandwidthLimits
from .compose import Shares
from .machines import open_machine
from .watch import Watch


class ConfiguredCycles:
    """Runs cycles as the configuration says that was taken last; those under way go on with the one before, but for
    the bandwidth."""

    def __init__(self, settings: Settings, ctx: Context) -> None:
        self._settings = settings
        self._limits = BandwidthLimits(settings)
        self._ctx = ctx

    def apply(self, settings: Settings) -> None:
        """Take another configuration for the cycles to come."""
        self._settings = settings
        self._limits.apply(settings)

    async def run(self, vm: str, watch: Watch, *, resync: bool) -> CycleReport:
        """As `Cycles.run`."""
        machine, ctx = self._settings.machine(vm), replace(self._ctx, observe=watch.hear)
        async with Shares(self._settings, observe=watch.hear, limits=self._limits, meter=watch.meter) as shares:
            opened = await open_machine(machine, shares, ctx.clock, resync=resync)
            return await replicate_with_retries(opened.job, opened.source, opened.replica, ctx)
