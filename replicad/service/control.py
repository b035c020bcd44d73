"""What can be asked of a daemon that runs, whoever asks: the API, a trigger file, a signal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from replicad.catalog import Catalog
from replicad.model.agenda import Agenda, LatestPoint, next_wanted
from replicad.model.clock import Clock
from replicad.model.errors import BusyError, NotFoundError
from replicad.model.health import Circumstances, Standing, standing
from replicad.model.retention import Keep
from replicad.model.runs import Outcome, Run
from replicad.model.statistics import Statistics
from replicad.model.verification import VerificationPlan
from replicad.settings import Settings

from .events import CycleEnded, Event, MachineChanged
from .hub import Hub
from .kept_clones import KeptRoom
from .moving.configured import Moves
from .moving.following import what_to_change
from .moving.queue import MoveCounts
from .point_lists import KnownPoints, PointLists
from .supervisor import Glance, Supervisor
from .verifying import End, Verifier
from .watch import Progress

STATISTICS_SPAN = timedelta(days=1)
_FRESH_S = 600.0


@dataclass(frozen=True, slots=True)
class MachineView:
    """One machine as it stands now. `next_run` is None while none is planned; `warnings` are of the cycle under way, or
    of the last one; `statistics` are of the last day. `verifying` is how far a verification is that has begun;
    `kept_clones` what clones take at its source, None where there can be none or it is not known."""

    vm: str
    standing: Standing
    agenda: Agenda
    run: Run | None
    progress: Progress | None
    warnings: tuple[str, ...]
    next_run: datetime | None
    rpo_s: int | None
    statistics: Statistics
    verification: VerificationPlan
    verifying: Progress | None
    kept_clones: KeptRoom | None = None


class Control:
    """Answers for a daemon. `reload` takes the configuration file again, and raises what is wrong with it."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        supervisor: Supervisor,
        catalog: Catalog,
        clock: Clock,
        reload: Callable[[], Awaitable[None]],
        hub: Hub,
        verifier: Verifier,
        points: PointLists,
        kept_clones: Callable[[str], KeptRoom | None] = lambda vm: None,
        moves: Moves | None = None,
    ) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._verifier = verifier
        self._catalog = catalog
        self._clock = clock
        self.reload = reload
        self.moves = moves
        self.hub = hub
        hub.listen(self._hear)
        self._points = points
        self._kept_clones = kept_clones
        hub.listen(points.hear)
        self._statistics: dict[str, tuple[float, Statistics]] = {}
        self._ended: dict[str, int] = {}
        """How many cycles have ended: whether one did while somebody counted."""

    def names(self) -> tuple[str, ...]:
        """All machines, sorted."""
        return self._supervisor.machines()

    def now(self) -> datetime:
        """The time of day, in UTC."""
        return self._clock.now()

    def steady_s(self) -> float:
        """A clock that is never set, in seconds."""
        return self._clock.monotonic_s()

    @property
    def most_at_once(self) -> int:
        """How many cycles may be under way."""
        return self._settings().max_concurrent

    def move_counts(self) -> MoveCounts:
        """How many moves there are now."""
        return MoveCounts() if self.moves is None else self.moves.counts()

    def look(self, vm: str) -> Glance:
        """As `Supervisor.look`: what costs nothing to know of a machine."""
        return self._supervisor.look(vm)

    async def machines(self) -> list[MachineView]:
        """All machines as they stand now."""
        views = []
        for vm in self.names():
            with suppress(NotFoundError):  # it leaves the configuration just now
                views.append(await self.machine(vm))
        return views

    async def machine(self, vm: str) -> MachineView:
        """One machine as it stands now. NotFoundError."""
        statistics = await self._statistics_of(vm)
        glance, now, settings = self._supervisor.look(vm), self._clock.now(), self._settings().virtual_machines.get(vm)
        rpo_s = settings.rpo_s if settings is not None else None
        verification = self._verifier.plan_of(vm)
        around = Circumstances(
            running=glance.run,
            resynchronising=glance.run is not None and glance.agenda.resync_requested,
            interrupted=glance.last is Outcome.INTERRUPTED,
            statistics=statistics,
            verification=verification,
            verify_every_s=settings.verify_every_s if settings is not None else None,
        )
        told = what_to_change(self._settings()).get(vm)
        warnings = glance.warnings if told is None else (told, *glance.warnings)
        return MachineView(
            vm, standing(glance.agenda, around, rpo_s, now), glance.agenda, glance.run, glance.progress,
            warnings, next_wanted(glance.agenda), rpo_s, statistics, verification,
            self._verifier.progress_of(vm), self._kept_clones(vm),
        )  # fmt: skip

    async def request(self, vm: str, *, resync: bool = False) -> asyncio.Future[Run]:
        """As `Supervisor.request`."""
        return await self._supervisor.request(vm, resync=resync)

    async def request_for_change(self, vm: str) -> None:
        """Have a cycle begin because the source has changed; not while the machine is paused, nor after a cycle that
        failed: that is tried again when it is time to."""
        try:
            agenda = self._supervisor.look(vm).agenda
            if agenda.paused_at is None and agenda.failure is None:
                (await self._supervisor.request(vm)).cancel()  # nobody waits for it
        except (BusyError, NotFoundError):
            pass  # paused or removed in the meantime

    def latest_of(self, vm: str) -> LatestPoint | None:
        """The latest point that is known of a machine; None if it is not kept, too."""
        with suppress(NotFoundError):
            return self._supervisor.look(vm).agenda.latest
        return None

    async def verify(self, vm: str, *, repair: bool = False) -> asyncio.Future[End]:
        """As `Verifier.request`."""
        self._supervisor.look(vm)
        return await self._verifier.request(vm, repair=repair)

    def look_at_verification(self, vm: str) -> tuple[Progress | None, tuple[str, ...]]:
        """How far the verification is that has begun, and what it, or the last one, warned of. NotFoundError."""
        return self._verifier.progress_of(vm), self._verifier.warnings_of(vm)

    async def pause(self, vm: str) -> None:
        """As `Supervisor.pause`."""
        await self._supervisor.pause(vm)

    async def resume(self, vm: str) -> None:
        """As `Supervisor.resume`."""
        await self._supervisor.resume(vm)

    async def acknowledge(self, vm: str) -> None:
        """As `Supervisor.acknowledge`."""
        await self._supervisor.acknowledge(vm)

    async def runs(
        self, vm: str | None = None, since: datetime | None = None, limit: int = 100, before: int | None = None
    ) -> tuple[Run, ...]:
        """The history of cycles, as `Catalog.runs`. NotFoundError for a machine that is not kept."""
        if vm is not None:
            self._supervisor.look(vm)
        return await self._catalog.runs(vm, since, limit, before)

    async def points(self, vm: str) -> KnownPoints:
        """As `PointLists.of`. NotFoundError for a machine that is not kept."""
        self._supervisor.look(vm)
        return await self._points.of(vm)

    def keep(self, vm: str) -> Keep | None:
        """The rules by which its points are kept; None if it is not in the configuration any more."""
        machine = self._settings().virtual_machines.get(vm)
        return machine.keep if machine is not None else None

    async def _statistics_of(self, vm: str) -> Statistics:
        """Those of the last day, at most ten minutes old unless a cycle ended since: many ask, and little changes."""
        now_s, known = self._clock.monotonic_s(), self._statistics.get(vm)
        if known is not None and now_s - known[0] < _FRESH_S:
            return known[1]
        now, ended = self._clock.now(), self._ended.get(vm, 0)
        machine = self._settings().virtual_machines.get(vm)
        rpo_s = machine.rpo_s if machine is not None else None
        statistics = await self._catalog.statistics(vm, rpo_s, now - STATISTICS_SPAN, now)
        if self._ended.get(vm, 0) == ended:
            self._statistics[vm] = (now_s, statistics)
        return statistics

    def _hear(self, event: Event) -> None:
        """What was counted before a cycle ended is old, nothing is kept of machines that are gone, and verifications
        may begin or have to stop."""
        if isinstance(event, CycleEnded):
            vm = event.run.vm
            self._statistics.pop(vm, None)
            self._ended[vm] = self._ended.get(vm, 0) + 1
        elif isinstance(event, MachineChanged):
            self._statistics.pop(event.vm, None)
            if event.vm not in self._settings().virtual_machines:
                self._ended.pop(event.vm, None)
        if isinstance(event, CycleEnded | MachineChanged):
            self._verifier.look_again()
