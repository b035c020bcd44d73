"""The supervisor under everything that may happen to it, in any order: people who ask, pause and reload, cycles that
fail in all ways, clocks that are set, hosts that sleep, daemons that stop and die. In virtual time.

What must hold: a machine never has two cycles at once, none begins before it is wanted or while it is paused, one that
is wanted begins as soon as there is room, and every due time is run or counted as missed, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, TypeVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from replicad.model import agenda as agendas
from replicad.model.agenda import Agenda, LatestPoint
from replicad.model.errors import (
    BusyError,
    DivergedError,
    LockedError,
    OutOfSpaceError,
    ReplicadError,
    UnreachableError,
)
from replicad.model.points import Consistency, CycleKind, RecoveryPoint, Statistics
from replicad.model.runs import Outcome, Run, Severity, Trigger
from replicad.model.schedule import MOST_COUNTED, Every, OnRequest, Schedule, retry_pause_s
from replicad.model.tracking_words import TrackerMistake
from replicad.service.events import Event, Trouble
from replicad.service.supervisor import Supervisor
from replicad.service.watch import Watch
from replicad.workflows.replicate import CycleReport
from tests.support.virtual_time import SettableClock, VirtualTimeLoop, passed_s

T = TypeVar("T")

NAMES = ("웹 🖥", "db", "메일", "d", "e")
MOST_AT_ONCE = 2
LATE_S = 5.1
"""When a machine that is wanted, and finds room, has begun at the latest: the clock is looked at every 5 s."""
WAYS: dict[str, ReplicadError | None] = {
    "well": None,
    "transient": UnreachableError("write", "nas", "the connection was lost"),
    "locked": LockedError("lock", "nas", "host b has held it since noon"),
    "lasting": OutOfSpaceError("write", "nas", "no space is left"),
    "final": DivergedError("use", "nas", "it was made from another source"),
}
names = st.sampled_from(NAMES)
schedules = st.just(OnRequest()) | st.builds(Every, st.sampled_from([100, 300, 3600]), st.sampled_from([0, 0.5]))


@dataclass
class Ledger:
    """What outlives a daemon. One that was killed writes nothing any more."""

    agendas: dict[str, Agenda] = field(default_factory=dict)
    runs: dict[int, Run] = field(default_factory=dict)
    is_dead: bool = False

    async def save_agenda(self, *changed: Agenda) -> None:
        await asyncio.sleep(0)
        if not self.is_dead:
            self.agendas |= {agenda.vm: agenda for agenda in changed}

    async def forget(self, *vms: str) -> None:
        await asyncio.sleep(0)
        if not self.is_dead:
            self.agendas = {vm: agenda for vm, agenda in self.agendas.items() if vm not in vms}

    async def begin_run(self, run: Run) -> Run:
        await asyncio.sleep(0)
        run = replace(run, number=max(self.runs, default=0) + 1)
        if not self.is_dead:
            self.runs[run.number] = run
        return run

    async def finish(self, run: Run, agenda: Agenda) -> None:
        await asyncio.sleep(0)
        if run.failure is not None and run.failure.severity is Severity.TRANSIENT:
            retry_at = run.failure.at + timedelta(seconds=retry_pause_s(agenda.failures))
            assert agenda.retry_at == (retry_at if agenda.due_at is None else min(retry_at, agenda.due_at))
        if run.outcome is Outcome.INTERRUPTED:
            assert agenda.retry_at == run.ended_at, "it is gone on with at once"
        if not self.is_dead:
            self.runs[run.number], self.agendas[agenda.vm] = run, agenda

    def left_behind(self, now: datetime) -> Ledger:
        """What the next daemon finds after a kill, once the catalog has closed what was under way."""
        self.is_dead = True
        found = Ledger(dict(self.agendas), dict(self.runs))
        for run in self.runs.values():
            if run.outcome is None:
                ended_at = max(now, run.started_at)
                found.runs[run.number] = replace(run, ended_at=ended_at, outcome=Outcome.INTERRUPTED)
                if (agenda := found.agendas.get(run.vm)) is not None:
                    found.agendas[run.vm] = agendas.interrupted(agenda, now)
        return found


@dataclass
class Cycles:
    """Those of one daemon: they take their time, and end as the rules say."""

    rules: SupervisorRules
    under_way: set[str] = field(default_factory=set)

    async def run(self, vm: str, watch: Watch, *, resync: bool) -> CycleReport:
        """As `Cycles.run`."""
        rules = self.rules
        await asyncio.sleep(0)  # where one ends that was stopped before it came here
        assert vm not in self.under_way, "two cycles of one machine at once"
        assert len(self.under_way) < MOST_AT_ONCE, "more cycles than may be at once"
        assert vm not in rules.paused, "a cycle of a paused machine"
        assert vm in rules.kept, "a cycle of a machine that is not kept"
        self.under_way.add(vm)
        rules.began_s[vm] = passed_s()
        try:
            await asyncio.sleep(rules.takes_s)
        finally:
            self.under_way.discard(vm)
        if (error := WAYS[rules.ways.get(vm, "well")]) is not None:
            raise error
        rules.points[vm] = rules.points.get(vm, 0) + 1
        point = RecoveryPoint(
            1, "r", vm, rules.points[vm], None, rules.time.now(), CycleKind.DELTA, Consistency.COLD, 1, "h", (), (),
            (), Statistics(1, 1, 1, 1, 1),
        )  # fmt: skip
        return CycleReport(point, False, point.statistics)

    async def mistakes_after(self, vm: str, number: int) -> tuple[TrackerMistake, ...] | None:
        """As `Cycles.mistakes_after`."""
        return ()

    async def latest_point(self, vm: str) -> LatestPoint | None:
        """As `Cycles.latest_point`."""
        await asyncio.sleep(0.1)
        return None

    def give_up(self) -> None:
        """As `Cycles.give_up`."""


class SupervisorRules(RuleBasedStateMachine):
    """One host, and daemons on it, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.time = SettableClock()
        self.ledger = Ledger()
        self.kept: dict[str, Schedule] = {}
        self.paused: set[str] = set()
        self.ways: dict[str, str] = {}
        self.takes_s = 2.0
        self.points: dict[str, int] = {}
        self.seams: dict[str, int] = {}
        """The number of the last run before a machine's due times were counted anew, as it was held back, or got
        another schedule: those after it are accounted for together."""
        self.killed: set[int] = set()
        self.left: dict[str, datetime] = {}
        """Since when paused machines are not kept."""
        self.asked: list[tuple[asyncio.Future[Run], str, float]] = []
        self.began_s: dict[str, float] = {}
        """When the last cycle of a machine began, by the clock of the loop."""
        self.events: list[Event] = []

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """On the loop, as all of it."""
        return self.loop.run_until_complete(work)

    # --- what happens -----------------------------------------------------------------------------------------------

    @initialize(first=st.dictionaries(names, schedules, min_size=1))
    def begin(self, first: dict[str, Schedule]) -> None:
        self.kept = first
        self.do(self._start())

    @rule(span_s=st.sampled_from([0.3, 1, 7, 59, 61, 400]) | st.floats(0, 4000))
    def time_passes(self, span_s: float) -> None:
        async def wait() -> None:
            await asyncio.sleep(span_s)
            assert not self.running.done(), self.running.exception()

        self.do(wait())

    @rule(vm=names, resync=st.booleans())
    def somebody_asks(self, vm: str, resync: bool) -> None:
        async def ask() -> None:
            if vm not in self.kept:
                return
            try:
                self.asked.append((await self.supervisor.request(vm, resync=resync), vm, passed_s()))
                assert vm not in self.paused
            except BusyError:
                assert vm in self.paused

        self.do(ask())

    @rule(vm=names)
    def somebody_pauses(self, vm: str) -> None:
        async def pause() -> None:
            if vm in self.kept:
                self.paused.add(vm)
                await self.supervisor.pause(vm)
                assert vm not in self.cycles.under_way

        self.do(pause())

    @rule(vm=names)
    def somebody_resumes(self, vm: str) -> None:
        async def resume() -> None:
            if vm in self.kept:
                self.paused.discard(vm)
                self._seam(vm)
                await self.supervisor.resume(vm)

        self.do(resume())

    @rule(after=st.dictionaries(names, schedules), changed=st.frozensets(names))
    def configuration_is_another(self, after: dict[str, Schedule], changed: frozenset[str]) -> None:
        async def reload() -> None:
            for vm in NAMES:
                if self.kept.get(vm) != after.get(vm) or vm in changed:
                    self._seam(vm)
            self.left |= {vm: self.time.now() for vm in self.kept.keys() - after.keys()}
            self.kept = after
            self._forget()
            await self.supervisor.keep(after, dict(self.ledger.agendas), MOST_AT_ONCE, changed & after.keys())
            for vm in after:
                assert (self.supervisor.look(vm).agenda.paused_at is not None) == (vm in self.paused)

        self.do(reload())

    @rule(vm=names, way=st.sampled_from([*WAYS]))
    def cycles_will_end(self, vm: str, way: str) -> None:
        self.ways[vm] = way

    @rule(takes_s=st.sampled_from([0.0, 0.2, 2.0, 45.0, 500.0]))
    def cycles_will_take(self, takes_s: float) -> None:
        self.takes_s = takes_s

    @rule(by_s=st.sampled_from([-100_000, -3600, -3, 3, 3600, 100_000]))
    def clock_is_set(self, by_s: int) -> None:
        async def step() -> None:
            self.time.set_forward(timedelta(seconds=by_s))
            if by_s < 0:  # due times come a second time
                for vm in NAMES:
                    self._seam(vm)
            await asyncio.sleep(LATE_S)  # until it is noticed
            if by_s < 0:
                for vm in NAMES:
                    self._seam(vm)

        self.do(step())

    @rule(hours=st.sampled_from([0.1, 8, 200]))
    def host_sleeps(self, hours: float) -> None:
        async def sleep() -> None:
            self.time.sleep(timedelta(hours=hours))
            await asyncio.sleep(LATE_S)

        self.do(sleep())

    @rule(away_s=st.sampled_from([0, 30, 5000]))
    def daemon_is_restarted(self, away_s: float) -> None:
        async def restart() -> None:
            await self._stop()
            assert all(run.outcome is not None for run in self.ledger.runs.values())
            await asyncio.sleep(away_s)
            await self._start()

        self.do(restart())

    @rule(away_s=st.sampled_from([0, 30, 5000]))
    def daemon_is_killed(self, away_s: float) -> None:
        async def kill() -> None:
            self.killed |= {run.number for run in self.ledger.runs.values() if run.outcome is None}
            dead, self.ledger = self.ledger, self.ledger.left_behind(self.time.now())
            await self._stop()
            assert dead.is_dead
            await asyncio.sleep(away_s)
            await self._start()

        self.do(kill())

    # --- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def nobody_waits_without_a_reason(self) -> None:
        async def look() -> None:
            await asyncio.sleep(0.001)  # what has just happened takes effect
            now, glances = self.time.now(), {vm: self.supervisor.look(vm) for vm in self.kept}
            if sum(glance.run is not None for glance in glances.values()) >= MOST_AT_ONCE:
                return
            for vm, glance in glances.items():
                wanted = agendas.next_wanted(glance.agenda)
                if isinstance(schedule := self.kept[vm], Every) and glance.agenda.due_at is not None:
                    ahead_s = (glance.agenda.due_at - now).total_seconds()
                    assert ahead_s <= schedule.every_s, f"{vm} waits for a time that has been"
                if glance.run is None and wanted is not None:
                    assert (now - wanted).total_seconds() < LATE_S, f"{vm} is wanted since {wanted}: {glance}"

        self.do(look())

    @invariant()
    def none_begins_before_its_time_and_no_due_time_is_lost_or_counted_twice(self) -> None:
        for vm in NAMES:
            runs = [run for run in self.ledger.runs.values() if run.vm == vm]
            for run in runs:
                assert run.started_at >= run.due_at
            schedule = self.kept.get(vm)
            if schedule is None:
                continue
            since = [run for run in runs if run.number > self.seams.get(vm, 0)]
            # The first due time after a seam may be none of the schedule: that of a resumption, or of one before.
            while since and since[0].trigger is not Trigger.SCHEDULE:
                del since[0]
            # One that was killed may not have been written down as begun: then its due time is that of the next, too.
            for n, (before, run) in enumerate(pairwise(since)):
                bases = [before]
                while bases[-1].number in self.killed and n - len(bases) + 1 > 0:
                    bases.append(since[n - len(bases)])
                if bases[-1].number in self.killed:
                    continue
                if run.missed >= MOST_COUNTED - 1:
                    continue
                passed = {schedule.count_between(base.started_at, run.started_at) for base in bases}
                assert self._stands_for(run) & passed, (run, passed)

    @staticmethod
    def _stands_for(run: Run) -> set[int]:
        """How many due times it may have been, with those that it counts as missed."""
        match run.trigger:
            case Trigger.SCHEDULE:
                return {run.missed + 1}
            case Trigger.RETRY:
                return {0} if run.missed == 0 else set()
            case Trigger.REQUEST:
                return {run.missed + 1} if run.missed else {0, 1}

    @invariant()
    def who_asked_is_told_of_a_cycle_that_began_after(self) -> None:
        for future, vm, asked_s in self.asked:
            if future.done() and not future.cancelled():
                outcome = future.result().outcome
                assert outcome is not None
                assert outcome is Outcome.INTERRUPTED or self.began_s[vm] >= asked_s
        self.asked = [one for one in self.asked if not one[0].done()]

    @invariant()
    def nothing_met_a_defect(self) -> None:
        """What is asserted inside of cycles comes out here."""
        assert not [event.details for event in self.events if isinstance(event, Trouble) and event.vm is not None]

    @precondition(lambda self: not self.kept)
    @invariant()
    def nothing_runs_where_nothing_is_kept(self) -> None:
        assert not self.cycles.under_way

    def teardown(self) -> None:
        async def stop() -> None:
            await self._stop()
            assert all(run.outcome is not None for run in self.ledger.runs.values())

        if hasattr(self, "running"):
            self.do(stop())
        self.loop.close()

    # --- how --------------------------------------------------------------------------------------------------------

    def _seam(self, vm: str) -> None:
        self.seams[vm] = max(self.ledger.runs, default=0)

    def _forget(self) -> None:
        """Nothing is left of the pauses of machines that have been away for a month."""
        for vm, at in [*self.left.items()]:
            if self.time.now() - at > agendas.FORGOTTEN_AFTER:
                self.paused.discard(vm)
            if vm in self.kept or vm not in self.paused:
                del self.left[vm]

    async def _start(self) -> None:
        self._forget()
        self.cycles = Cycles(self)
        self.supervisor = Supervisor(self.cycles, self.ledger, self.time.clock, MOST_AT_ONCE, self.events.append)
        await self.supervisor.keep(self.kept, dict(self.ledger.agendas), MOST_AT_ONCE)
        self.running = asyncio.create_task(self.supervisor.run())
        await asyncio.sleep(0)

    async def _stop(self) -> None:
        began_s = passed_s()
        self.running.cancel()
        await asyncio.wait([self.running])
        assert passed_s() - began_s < 4
        assert self.running.cancelled()
        assert not self.cycles.under_way
        assert all(future.done() for future, _, _ in self.asked)
        self.asked.clear()


TestSupervisorRules = SupervisorRules.TestCase
TestSupervisorRules.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
