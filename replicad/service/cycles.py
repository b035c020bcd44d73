"""A cycle, or a verification, of a configured machine, on its own connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog

from replicad.model.agenda import LatestPoint
from replicad.model.errors import ReplicadError
from replicad.model.progress import Alarmed, Observer, ProgressEvent, Said
from replicad.model.tracking_words import TrackerMistake, mistakes_of
from replicad.replica.directory import check_is_replica_of
from replicad.settings import Settings
from replicad.workflows.context import Context
from replicad.workflows.covered import Covered
from replicad.workflows.damage import Verification
from replicad.workflows.list_points import PointList, list_points_if_any
from replicad.workflows.repair import verify_and_repair
from replicad.workflows.replicate import CycleReport
from replicad.workflows.retries import replicate_with_retries
from replicad.workflows.status import look_at_replica
from replicad.workflows.verify import verify

from .bandwidth import BandwidthLimits
from .compose import Shares
from .machines import open_machine, open_source
from .watch import Watch

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("commands")


def log_what_was_said(said: Said) -> None:
    """A line of a program of the user's, in the log."""
    _log.info(said.line, vm=said.vm, command=said.program)


def also_logged(observe: Observer) -> Observer:
    """The same observer; what programs say, and what somebody should know at once, is in the log, too."""

    def hear(event: ProgressEvent) -> None:
        if isinstance(event, Said):
            log_what_was_said(event)
        elif isinstance(event, Alarmed):
            _log.error(event.text)
        observe(event)

    return hear


class ConfiguredCycles:
    """Runs cycles as the configuration says that was taken last; those under way go on with the one before, but for
    the bandwidth."""

    def __init__(self, settings: Settings, ctx: Context, shares: type[Shares] = Shares) -> None:
        self._settings = settings
        self.limits = self._limits = BandwidthLimits(settings)
        self._ctx = ctx
        self._kind = shares
        self._open: set[Shares] = set()

    def apply(self, settings: Settings) -> None:
        """Take another configuration for the cycles to come."""
        self._settings = settings
        self._limits.apply(settings)

    async def run(self, vm: str, watch: Watch, *, resync: bool) -> CycleReport:
        """As `Cycles.run`."""
        machine, ctx = self._settings.machine(vm), replace(self._ctx, observe=also_logged(watch.hear))
        async with self._shares(
            self._kind(self._settings, observe=watch.hear, limits=self._limits, meter=watch.meter)
        ) as shares:
            opened = await open_machine(machine, shares, ctx, resync=resync)
            return await replicate_with_retries(opened.job, opened.source, opened.replica, ctx)

    async def verify(self, vm: str, watch: Watch, covered: Covered, *, repair: bool) -> Verification:
        """As `Verifications.verify`."""
        machine, ctx = self._settings.machine(vm), replace(self._ctx, observe=also_logged(watch.hear))
        async with self._shares(
            Shares(
                self._settings, observe=watch.hear, limits=self._limits, bandwidth=machine.verify_bandwidth,
                meter=watch.meter,
            )
        ) as shares:  # fmt: skip
            share = await shares.open_replica(machine)
            await check_is_replica_of(share, vm, vm)
            if not repair:
                return await verify(share, vm, None, ctx, covered)
            source = await open_source(machine, shares, ctx)
            return await verify_and_repair(share, vm, source, ctx, covered)

    async def mistakes_after(self, vm: str, number: int) -> tuple[TrackerMistake, ...] | None:
        """As `Cycles.mistakes_after`."""
        try:
            listed = await self.points(vm)
        except ReplicadError:
            return None
        return mistakes_of(point for point in listed.points if point.number > number)

    async def latest_point(self, vm: str) -> LatestPoint | None:
        """As `Cycles.latest_point`."""
        machine = self._settings.machine(vm)
        try:
            async with self._shares(self._kind(self._settings)) as shares:
                seen = await look_at_replica(await shares.open_replica(machine), vm)
        except ReplicadError:
            return None
        point = seen.latest
        return LatestPoint(point.number, point.time, point.consistency) if point is not None else None

    async def points(self, vm: str) -> PointList:
        """The recovery points of a machine, read without its replica's lock; none if there is no replica yet. Raises
        what connecting and reading raise, and DivergedError if the replica is that of another machine."""
        machine = self._settings.machine(vm)
        async with self._shares(Shares(self._settings, limits=self._limits)) as shares:
            share = await shares.open_replica(machine)
            await check_is_replica_of(share, vm, vm)
            return await list_points_if_any(share, vm)

    def give_up(self) -> None:
        """As `Cycles.give_up`."""
        for shares in self._open:
            shares.give_up()

    @asynccontextmanager
    async def _shares(self, shares: Shares) -> AsyncIterator[Shares]:
        self._open.add(shares)
        try:
            async with shares:
                yield shares
        finally:
            self._open.discard(shares)
