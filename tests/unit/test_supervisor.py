"""Whose turn it is, what is written down, and what comes of cycles that fail, hang or are stopped; in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random

import pytest

from replicad.model import agenda as agendas
from replicad.model.agenda import Agenda, LatestPoint
from replicad.model.errors import (
    BusyError,
    DivergedError,
    LockedError,
    NotFoundError,
    OutOfSpaceError,
    ReplicadError,
    UnreachableError,
)
from replicad.model.points import (
    Change,
    Consistency,
    CycleKind,
    DiskState,
    FileKind,
    ManifestReference,
    Mistake,
    Provenance,
    RecoveryPoint,
    Statistics,
    Trust,
)
from replicad.model.progress import PhaseStarted, Warned
from replicad.model.runs import Outcome, Run, Trigger, failure_of
from replicad.model.schedule import Every, OnRequest, Schedule
from replicad.model.tracking_words import TrackerMistake
from replicad.service import supervisor
from replicad.service.cron_schedule import CronSchedule
from replicad.service.events import CycleEnded, Event, Trouble
from replicad.service.supervisor import Supervisor
from replicad.service.watch import STALLED_AFTER_S, Watch
from replicad.settings.cron import parse_cron
from replicad.workflows.replicate import CycleReport
from tests.support.virtual_time import MONDAY, SettableClock, run

VM, OTHER = "웹 서버", "db 💾"
MINUTE = timedelta(minutes=1)
LOST = UnreachableError("write", "nas", "the connection was lost")

Work = Callable[[str, Watch], Awaitable[None]]


@dataclass
class Ledger:
    """A memory that can be read."""

    agendas: dict[str, Agenda] = field(default_factory=dict)
    runs: dict[int, Run] = field(default_factory=dict)
    broken: ReplicadError | None = None

    async def save_agenda(self, *changed: Agenda) -> None:
        await asyncio.sleep(0)
        self._write()
        self.agendas |= {agenda.vm: agenda for agenda in changed}

    async def forget(self, *vms: str) -> None:
        await asyncio.sleep(0)
        self._write()
        for vm in vms:
            self.agendas.pop(vm, None)

    async def begin_run(self, run: Run) -> Run:
        await asyncio.sleep(0)
        self._write()
        run = replace(run, number=len(self.runs) + 1)
        self.runs[run.number] = run
        return run

    async def finish(self, run: Run, agenda: Agenda) -> None:
        await asyncio.sleep(0)
        self._write()
        self.runs[run.number], self.agendas[agenda.vm] = run, agenda

    def _write(self) -> None:
        if self.broken is not None:
            raise self.broken

    def of(self, vm: str) -> list[Run]:
        return [run for run in self.runs.values() if run.vm == vm]


class Daemon:
    """A supervisor whose cycles are `work`, which takes 2 s if nothing else is said."""

    def __init__(self, time: SettableClock, work: Work | None = None, most_at_once: int = 4) -> None:
        self.time, self.work = time, work
        self.ledger = Ledger()
        self.events: list[Event] = []
        self.at_once = self.most_seen = self.given_up = 0
        self.resyncs: list[bool] = []
        self.points: Counter[str] = Counter()
        self.seen: LatestPoint | None = None
        self.most_at_once = most_at_once
        self.previous: int | None = None
        """What each point says that the one before it was."""
        self.disks: tuple[DiskState, ...] = ()
        self.mistakes: tuple[TrackerMistake, ...] | None = ()
        self.asked: list[int] = []

    async def run(self, vm: str, watch: Watch, *, resync: bool) -> CycleReport:
        """As `Cycles.run`."""
        self.at_once += 1
        self.most_seen = max(self.most_seen, self.at_once)
        self.resyncs.append(resync)
        try:
            await asyncio.sleep(2)
            if self.work is not None:
                await self.work(vm, watch)
        finally:
            self.at_once -= 1
        self.points[vm] += 1
        point = RecoveryPoint(
            1, "r", vm, self.points[vm], self.previous, self.time.now(), CycleKind.DELTA, Consistency.COLD, 1, "h",
            self.disks, (), (), Statistics(1, 1, 1, 1, 1),
        )  # fmt: skip
        return CycleReport(point, False, point.statistics)

    async def mistakes_after(self, vm: str, number: int) -> tuple[TrackerMistake, ...] | None:
        """As `Cycles.mistakes_after`."""
        self.asked.append(number)
        return self.mistakes

    async def latest_point(self, vm: str) -> LatestPoint | None:
        """As `Cycles.latest_point`."""
        await asyncio.sleep(1)
        return self.seen

    def give_up(self) -> None:
        """As `Cycles.give_up`."""
        self.given_up += 1

    async def keep(self, schedules: dict[str, Schedule], changed: frozenset[str] = frozenset()) -> None:
        await self.supervisor.keep(schedules, dict(self.ledger.agendas), self.most_at_once, changed)

    def starts(self, vm: str = VM) -> list[int]:
        """When the cycles began, in seconds since the start."""
        return [round((run.started_at - MONDAY).total_seconds()) for run in self.ledger.of(vm)]

    def run_for(
        self, schedules: dict[str, Schedule], span: timedelta, during: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Keep these machines for so long, then stop."""

        async def live() -> None:
            self.supervisor = Supervisor(self, self.ledger, self.time.clock, self.most_at_once, self.events.append)
            await self.keep(schedules)
            working = asyncio.create_task(self.supervisor.run())
            try:
                async with asyncio.timeout(span.total_seconds()):
                    if during is not None:
                        await during()
                    await asyncio.shield(working)
            except TimeoutError:
                working.cancel()
                await asyncio.wait([working])

        run(live())


def failing(*errors: ReplicadError | None) -> Work:
    """Cycles that end with these errors, one after the other, and then well."""
    left = list(errors)

    async def work(vm: str, watch: Watch) -> None:
        if left and (error := left.pop(0)) is not None:
            raise error

    return work


def test_a_new_machine_begins_at_once_and_goes_on_by_the_grid() -> None:
    daemon = Daemon(SettableClock())
    daemon.run_for({VM: Every(300, 40)}, 12 * MINUTE)
    assert daemon.starts() == [0, 40, 340, 640]
    assert [run.trigger for run in daemon.ledger.of(VM)] == [Trigger.SCHEDULE] * 4
    assert {run.missed for run in daemon.ledger.of(VM)} == {0}


def test_a_machine_without_a_schedule_waits_for_a_request() -> None:
    daemon = Daemon(SettableClock())

    async def ask() -> None:
        await asyncio.sleep(100)
        run = await (await daemon.supervisor.request(VM))
        assert (run.outcome, run.point, run.trigger) == (Outcome.DONE, 1, Trigger.REQUEST)

    daemon.run_for({VM: OnRequest()}, 5 * MINUTE, ask)
    assert daemon.starts() == [100]


def test_due_times_that_pass_during_a_long_cycle_are_one_cycle_and_counted_as_missed() -> None:
    async def slow(vm: str, watch: Watch) -> None:
        await asyncio.sleep(200 if len(daemon.ledger.runs) == 1 else 0)

    daemon = Daemon(SettableClock(), slow)
    daemon.run_for({VM: Every(60, 30)}, 5 * MINUTE)
    assert daemon.starts() == [0, 202, 210, 270]
    assert [run.missed for run in daemon.ledger.of(VM)] == [0, 2, 0, 0]


def test_no_machine_has_two_cycles_at_once_and_no_more_run_than_may() -> None:
    daemon = Daemon(SettableClock(), most_at_once=4)
    daemon.run_for({f"vm {n}": Every(60) for n in range(40)}, 10 * MINUTE)
    assert daemon.most_seen == 4
    for n in range(40):
        runs = daemon.ledger.of(f"vm {n}")
        assert len(runs) >= 9
        for one, following in pairwise(runs):
            assert one.ended_at is None or one.ended_at <= following.started_at


def test_who_has_waited_longest_comes_first() -> None:
    daemon = Daemon(SettableClock(), most_at_once=1)
    daemon.run_for({f"vm {n}": Every(3600, 1800 - n) for n in range(20)}, timedelta(minutes=45))
    later = [run.vm for run in daemon.ledger.runs.values()][20:]
    assert later == [f"vm {n}" for n in reversed(range(20))]


def test_transient_failures_are_tried_again_after_pauses_that_grow() -> None:
    daemon = Daemon(SettableClock(), failing(*[LOST] * 8))
    daemon.run_for({VM: OnRequest()}, timedelta(hours=4), lambda: _asked(daemon))
    starts = daemon.starts()
    pauses = [after - before - 2 for before, after in pairwise(starts)]
    assert [round(pause / 60) for pause in pauses] == [1, 2, 4, 8, 16, 30, 30, 30]
    agenda = daemon.ledger.agendas[VM]
    assert (agenda.failures, agenda.failure, agenda.retry_at) == (0, None, None)


async def _asked(daemon: Daemon) -> None:
    await daemon.supervisor.request(VM)


def test_a_retry_never_waits_longer_than_the_schedule() -> None:
    daemon = Daemon(SettableClock(), failing(*[LOST] * 20))
    daemon.run_for({VM: Every(120)}, 20 * MINUTE)
    assert len(daemon.starts()) >= 10


def test_an_error_that_no_retry_mends_waits_for_the_next_due_time() -> None:
    daemon = Daemon(SettableClock(), failing(None, OutOfSpaceError("write", "nas", "no space is left")))
    daemon.run_for({VM: Every(600)}, 35 * MINUTE)
    assert daemon.starts() == [0, 600, 1200, 1800]
    assert [run.outcome for run in daemon.ledger.of(VM)] == [Outcome.DONE, Outcome.FAILED, Outcome.DONE, Outcome.DONE]


@pytest.mark.parametrize("way", ["request", "resume", "changed"])
def test_an_error_that_only_a_person_can_mend_waits_for_one(way: str) -> None:
    daemon = Daemon(SettableClock(), failing(DivergedError("use", "the replica", "it belongs to another machine")))

    async def mend() -> None:
        await asyncio.sleep(1801)
        assert daemon.starts() == [0]
        if way == "request":
            await daemon.supervisor.request(VM)
        elif way == "resume":
            await daemon.supervisor.resume(VM)
        else:
            await daemon.keep({VM: Every(600)}, frozenset({VM}))

    daemon.run_for({VM: Every(600)}, timedelta(minutes=45), mend)
    assert daemon.starts() == [0, 1801, 2400]


def test_a_machine_that_another_host_keeps_is_asked_for_again_and_shows_that_host_s_points() -> None:
    daemon = Daemon(SettableClock(), failing(*[LockedError("lock", "웹", "host b has held it since noon")] * 3))
    daemon.seen = LatestPoint(7, MONDAY, Consistency.COLD)
    daemon.run_for({VM: Every(3600, 1800)}, timedelta(minutes=5))
    assert daemon.starts() == [0, 63, 186]
    assert daemon.ledger.agendas[VM].latest == daemon.seen


def test_being_stopped_while_another_host_s_points_are_looked_at_leaves_no_run_open() -> None:
    daemon = Daemon(SettableClock(), failing(LockedError("lock", "웹", "host b has held it since noon")))
    daemon.run_for({VM: Every(3600, 1800)}, timedelta(seconds=2.5))
    assert [run.outcome for run in daemon.ledger.of(VM)] == [Outcome.INTERRUPTED]


def test_a_defect_in_one_cycle_leaves_the_others_alone_and_is_told_with_its_place() -> None:
    async def defective(vm: str, watch: Watch) -> None:
        if vm == VM:
            raise KeyError("비밀")

    daemon = Daemon(SettableClock(), defective)
    daemon.run_for({VM: Every(600), OTHER: Every(60)}, 10 * MINUTE)
    assert len(daemon.starts(OTHER)) >= 10
    assert {run.outcome for run in daemon.ledger.of(VM)} == {Outcome.FAILED}
    told = [event for event in daemon.events if isinstance(event, Trouble)]
    assert told
    assert "KeyError" in told[0].text
    assert "in defective" in told[0].details
    failure = daemon.ledger.agendas[VM].failure
    assert failure is not None
    assert "비밀" not in failure.text


def test_a_pause_stops_the_cycle_under_way_and_the_next_one_begins_at_the_end_of_the_pause() -> None:
    async def slow(vm: str, watch: Watch) -> None:
        await asyncio.sleep(100)

    daemon = Daemon(SettableClock(), slow)

    async def pause() -> None:
        await asyncio.sleep(30)
        waiting = await daemon.supervisor.request(VM)
        await daemon.supervisor.pause(VM)
        assert waiting.cancelled()
        with pytest.raises(BusyError, match=r"paused since 2026-01-05 00:00:30 UTC\. Run 'replicad resume 웹 서버'"):
            await daemon.supervisor.request(VM)
        await asyncio.sleep(1000)
        await daemon.supervisor.resume(VM)

    daemon.run_for({VM: Every(300)}, 20 * MINUTE, pause)
    assert daemon.starts() == [0, 1030]
    first, second = daemon.ledger.of(VM)
    assert (first.outcome, first.ended_at) == (Outcome.INTERRUPTED, MONDAY + timedelta(seconds=30))
    assert (second.outcome, second.missed) == (Outcome.DONE, 0)


def test_a_request_during_a_cycle_is_another_cycle() -> None:
    daemon = Daemon(SettableClock())

    async def ask() -> None:
        await asyncio.sleep(1)
        both = [await daemon.supervisor.request(VM) for _ in range(2)]
        ended = await asyncio.gather(*both)
        assert ended[0] == ended[1]
        assert ended[0].started_at > MONDAY + timedelta(seconds=1)

    daemon.run_for({VM: Every(3600)}, MINUTE, ask)
    assert daemon.starts() == [0, 2]


def test_a_resynchronisation_that_was_asked_for_is_not_forgotten_by_a_failure() -> None:
    daemon = Daemon(SettableClock(), failing(LOST))

    async def ask() -> None:
        await daemon.supervisor.request(VM, resync=True)

    daemon.run_for({VM: OnRequest()}, 5 * MINUTE, ask)
    assert daemon.resyncs == [True, True]
    assert not daemon.ledger.agendas[VM].resync_requested


def test_a_machine_that_is_gone_is_stopped_and_others_go_on() -> None:
    async def slow(vm: str, watch: Watch) -> None:
        await asyncio.sleep(50)

    daemon = Daemon(SettableClock(), slow)

    async def remove() -> None:
        await asyncio.sleep(10)
        await daemon.keep({OTHER: Every(600)})
        assert daemon.at_once == 1
        with pytest.raises(NotFoundError, match=r"the daemon keeps: db 💾\."):
            daemon.supervisor.look(VM)

    daemon.run_for({VM: Every(600), OTHER: Every(600)}, 5 * MINUTE, remove)
    assert [run.outcome for run in daemon.ledger.of(VM)] == [Outcome.INTERRUPTED]
    assert [run.outcome for run in daemon.ledger.of(OTHER)] == [Outcome.DONE]


def test_pause_outlives_a_while_out_of_the_configuration_and_due_times_of_that_while_are_not_missed() -> None:
    daemon = Daemon(SettableClock())

    async def leave_and_return() -> None:
        await asyncio.sleep(100)
        await daemon.supervisor.pause(VM)
        await daemon.keep({})
        away = daemon.ledger.agendas
        assert {agenda.left_at for agenda in away.values()} == {MONDAY + timedelta(seconds=100)}
        await asyncio.sleep(86400)
        await daemon.keep({OTHER: Every(600)})
        await asyncio.sleep(86400)
        await daemon.keep({VM: Every(600), OTHER: Every(600)})
        assert daemon.supervisor.look(VM).agenda.paused_at == MONDAY + timedelta(seconds=100)
        assert {agenda.left_at for agenda in daemon.ledger.agendas.values()} == {None}
        await asyncio.sleep(1000)
        await daemon.supervisor.resume(VM)

    daemon.run_for({VM: Every(600), OTHER: Every(600)}, timedelta(days=3), leave_and_return)
    assert daemon.starts(VM)[:3] == [0, 173900, 174000]
    assert daemon.starts(OTHER)[:3] == [0, 86500, 87000]
    assert {run.missed for run in daemon.ledger.runs.values()} == {0}


def test_machine_that_leaves_in_the_middle_of_its_cycle_goes_on_with_it_when_it_returns() -> None:
    async def slow(vm: str, watch: Watch) -> None:
        await asyncio.sleep(50)

    daemon = Daemon(SettableClock(), slow)

    async def leave_and_return() -> None:
        await asyncio.sleep(10)
        await daemon.keep({})
        await asyncio.sleep(90)
        await daemon.keep({VM: Every(86400)})

    daemon.run_for({VM: Every(86400)}, 5 * MINUTE, leave_and_return)
    assert daemon.starts() == [0, 100]
    assert [(run.trigger, run.outcome) for run in daemon.ledger.of(VM)] == [
        (Trigger.SCHEDULE, Outcome.INTERRUPTED), (Trigger.RETRY, Outcome.DONE),
    ]  # fmt: skip


def test_machine_that_was_away_for_more_than_a_month_is_a_new_one() -> None:
    daemon = Daemon(SettableClock())

    async def leave_for_good() -> None:
        await daemon.supervisor.pause(VM)
        await daemon.keep({OTHER: OnRequest()})
        daemon.time.sleep(timedelta(days=30))
        await daemon.keep({OTHER: OnRequest()})
        assert VM in daemon.ledger.agendas
        daemon.time.sleep(timedelta(seconds=1))
        await daemon.keep({OTHER: OnRequest()})
        assert VM not in daemon.ledger.agendas
        await daemon.keep({VM: Every(86400, 1)})
        await asyncio.sleep(1)

    daemon.run_for({VM: Every(86400, 1)}, MINUTE, leave_for_good)
    assert daemon.starts() == [30 * 86400 + 1]


def test_a_cycle_in_which_nothing_moves_is_begun_again_and_one_that_moves_is_left_alone() -> None:
    async def hang(vm: str, watch: Watch) -> None:
        watch.hear(PhaseStarted("delta"))
        if vm == OTHER:
            for _ in range(100):
                await asyncio.sleep(60)
                watch.meter.calls["write"] += 1
        elif len(daemon.ledger.of(VM)) == 1:
            watch.hear(Warned("디스크가 느리다"))
            await asyncio.Event().wait()

    daemon = Daemon(SettableClock(), hang)
    daemon.run_for({VM: OnRequest(), OTHER: Every(86400)}, timedelta(hours=2), lambda: _asked(daemon))
    assert [run.outcome for run in daemon.ledger.of(OTHER)] == [Outcome.DONE]
    first, second = daemon.ledger.of(VM)
    assert first.failure is not None
    assert first.failure.error == "StuckError"
    assert "nothing has moved for 20 min, in the phase 'delta'" in first.failure.text
    assert STALLED_AFTER_S <= (second.started_at - MONDAY).total_seconds() - 60 <= STALLED_AFTER_S + 20
    assert second.outcome is Outcome.DONE
    told = [event for event in daemon.events if isinstance(event, Trouble)]
    assert ["in hang" in event.details for event in told] == [True]


def test_what_a_daemon_that_died_left_is_gone_on_with_at_once() -> None:
    daemon = Daemon(SettableClock())
    daemon.ledger.agendas[VM] = Agenda(VM, due_at=MONDAY - timedelta(hours=1))
    daemon.run_for({VM: Every(600)}, 5 * MINUTE)
    assert daemon.starts() == [0]
    assert [run.missed for run in daemon.ledger.of(VM)] == [6]


def test_being_stopped_is_written_down_and_the_cycle_is_the_first_thing_after() -> None:
    async def slow(vm: str, watch: Watch) -> None:
        await asyncio.sleep(1000)

    daemon = Daemon(SettableClock(), slow)
    daemon.run_for({VM: Every(86400)}, MINUTE)
    assert [run.outcome for run in daemon.ledger.of(VM)] == [Outcome.INTERRUPTED]
    assert daemon.ledger.agendas[VM].retry_at == MONDAY + MINUTE


def test_being_stopped_takes_seconds_even_if_nothing_can_be_given_back_in_order() -> None:
    async def silent(vm: str, watch: Watch) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            for _ in range(4):  # servers that do not answer when something is closed
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(30)

    daemon = Daemon(SettableClock(), silent)
    daemon.run_for({VM: Every(86400), OTHER: Every(86400)}, MINUTE)
    assert [run.outcome for run in daemon.ledger.runs.values()] == [Outcome.INTERRUPTED] * 2
    ends = [stopped.ended_at for stopped in daemon.ledger.runs.values() if stopped.ended_at is not None]
    assert max(ends) - MONDAY - MINUTE < timedelta(seconds=4)
    assert daemon.given_up


@pytest.mark.parametrize("hours", [-50, -1, 1, 50])
def test_a_clock_that_is_set_makes_nobody_wait_for_a_time_that_has_been(hours: int) -> None:
    time = SettableClock()
    daemon = Daemon(time)

    async def step() -> None:
        await asyncio.sleep(1000)
        time.set_forward(timedelta(hours=hours))

    daemon.run_for({VM: Every(300)}, timedelta(seconds=2000), step)
    begun = [event.run for event in daemon.events if isinstance(event, CycleEnded)]
    assert 7 <= len(begun) <= 8
    assert any("the time of day jumped by" in e.text for e in daemon.events if isinstance(e, Trouble))


def test_a_host_that_sleeps_in_a_cycle_leaves_it_alone_and_is_on_time_after() -> None:
    async def slow(vm: str, watch: Watch) -> None:
        await asyncio.sleep(100 if len(daemon.ledger.runs) == 1 else 0)

    time = SettableClock()
    daemon = Daemon(time, slow)

    async def sleep() -> None:
        await asyncio.sleep(50)
        time.sleep(timedelta(hours=8))

    daemon.run_for({VM: Every(3600, 1800)}, timedelta(hours=2), sleep)
    assert [run.outcome for run in daemon.ledger.of(VM)] == [Outcome.DONE] * 4
    assert [run.missed for run in daemon.ledger.of(VM)] == [0, 7, 0, 0]
    assert not [event for event in daemon.events if isinstance(event, Trouble)]


def test_a_memory_that_can_t_be_written_stops_no_cycle_and_is_told() -> None:
    daemon = Daemon(SettableClock())
    daemon.ledger.broken = OutOfSpaceError("write", "the catalog", "no space is left")
    daemon.run_for({VM: Every(60)}, 5 * MINUTE)
    assert len([event for event in daemon.events if isinstance(event, CycleEnded)]) >= 5
    assert any("is forgotten at a restart" in event.text for event in daemon.events if isinstance(event, Trouble))


@pytest.mark.parametrize("pause_s", [0.0, 0.5, 1.999, 2.0, 2.001])
def test_whenever_it_is_stopped_every_run_that_began_has_ended(pause_s: float) -> None:
    daemon = Daemon(SettableClock())
    daemon.run_for({f"vm {n}": Every(1) for n in range(9)}, timedelta(seconds=20 + pause_s))
    assert daemon.ledger.runs
    assert all(run.outcome is not None for run in daemon.ledger.runs.values())


def test_days_of_many_machines_lose_and_double_no_cycle() -> None:
    daemon = Daemon(SettableClock(), most_at_once=64)
    names = [f"기계 {n}" for n in range(40)]
    daemon.run_for({vm: Every(3600, n * 60.0) for n, vm in enumerate(names)}, timedelta(days=2))
    for vm in names:
        runs = daemon.ledger.of(vm)
        dues = [run.due_at for run in runs[1:]]
        assert dues == sorted(set(dues))
        assert 47 <= len(dues) <= 48
        assert all(run.started_at - run.due_at < timedelta(seconds=1) for run in runs)


def _moments(daemon: Daemon) -> list[str]:
    """When the cycles began, but for the first one of a new machine, to the minute."""
    return [f"{one.started_at:%m-%d %H:%M}" for one in daemon.ledger.of(VM)[1:]]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone with summer time for this host, and back."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    ("start", "moments"),
    [
        ("2026-03-29", ["03-29 02:30", "03-30 02:30"]),  # an hour that Berlin does not have
        ("2026-10-25", ["10-25 02:30", "10-26 02:30"]),  # one that it has twice
        ("2028-02-28", ["02-28 02:30", "02-29 02:30"]),
        ("2027-12-31", ["12-31 02:30", "01-01 02:30"]),
    ],
    ids=["spring", "autumn", "leap day", "new year"],
)
def test_cron_runs_once_a_day_whatever_the_day_and_the_zone_of_the_host(start: str, moments: list[str]) -> None:
    daemon = Daemon(SettableClock(datetime.fromisoformat(start).replace(tzinfo=UTC)))
    daemon.run_for({VM: CronSchedule(parse_cron("30 2 * * *"))}, timedelta(hours=27))
    assert _moments(daemon) == moments
    assert {one.missed for one in daemon.ledger.of(VM)} == {0}


def test_host_that_slept_for_days_runs_one_cycle_that_counts_what_was_missed_and_goes_on_by_the_plan() -> None:
    host = SettableClock()
    daemon = Daemon(host)

    async def sleep() -> None:
        await asyncio.sleep(3600)
        host.set_forward(timedelta(days=5))  # the steady clock stands still while a host sleeps

    schedules: dict[str, Schedule] = {VM: CronSchedule(parse_cron("0 22 * * mon-fri")), OTHER: Every(300, 40)}
    daemon.run_for(schedules, timedelta(hours=2), sleep)
    woken, *_ = [one for one in daemon.ledger.of(VM) if one.missed]
    assert (woken.due_at, woken.missed) == (MONDAY + timedelta(hours=22), 4)
    assert woken.started_at - (MONDAY + timedelta(days=5, hours=1)) <= timedelta(seconds=5)
    assert len(daemon.ledger.of(VM)) == 2
    (late,) = [one for one in daemon.ledger.of(OTHER) if one.missed]
    assert late.missed == 5 * 288 - 1
    assert late.started_at - (MONDAY + timedelta(days=5, hours=1)) <= timedelta(seconds=5)
    dues = [one.due_at for one in daemon.ledger.of(OTHER)]
    assert dues == sorted(set(dues))
    lost = (dues[-1] - dues[1]) / timedelta(seconds=300) + 1 - (len(dues) - 1) - late.missed
    assert lost == 0


@pytest.mark.parametrize("step_s", [-1.0, 1.0, -0.5, 0.5])
def test_leap_seconds_and_slewed_clocks_neither_double_nor_lose_a_cycle(step_s: float) -> None:
    host = SettableClock()
    daemon = Daemon(host)

    async def step() -> None:
        for _ in range(50):
            await asyncio.sleep(10.3)
            host.set_forward(timedelta(seconds=step_s))

    daemon.run_for({VM: Every(10)}, timedelta(seconds=600), step)
    runs = daemon.ledger.of(VM)[1:]
    dues = [one.due_at for one in runs]
    assert dues == sorted(set(dues))
    assert (
        len(dues) + sum(one.missed for one in runs)
        == (dues[-1] - dues[0]) / timedelta(seconds=10) + 1 + runs[-1].missed
    )
    assert not [event for event in daemon.events if isinstance(event, Trouble)]


def test_machine_that_nobody_held_back_still_counts_what_it_missed_when_it_is_resumed() -> None:
    waiting = Agenda(VM, due_at=MONDAY, failures=1, failure=failure_of(LOST, MONDAY), retry_at=MONDAY)
    assert agendas.resumed(waiting, MONDAY + MINUTE) == waiting
    held = replace(waiting, paused_at=MONDAY)
    assert agendas.resumed(held, MONDAY + MINUTE) == replace(waiting, due_at=MONDAY + MINUTE)


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("leaves", [False, True], ids=["paused", "taken away"])
def test_a_cycle_that_is_stopped_at_any_turn_of_the_loop_leaves_its_machine_and_its_place_free(
    turns: int, leaves: bool
) -> None:
    """Also before it has taken its first step."""
    daemon = Daemon(SettableClock(), most_at_once=1)
    both: dict[str, Schedule] = {VM: Every(3600, 100), OTHER: OnRequest()}

    async def stop_it() -> None:
        await asyncio.sleep(100)
        for _ in range(turns):
            await asyncio.sleep(0)
        if leaves:
            await daemon.keep({OTHER: OnRequest()})
            await daemon.keep(both)
        else:
            await daemon.supervisor.pause(VM)
            assert daemon.supervisor.look(VM).run is None
            await daemon.supervisor.resume(VM)
        for vm in (OTHER, VM):
            run = await (await daemon.supervisor.request(vm))
            assert run.outcome is Outcome.DONE

    daemon.run_for(both, 3 * MINUTE, stop_it)
    assert [daemon.ledger.of(vm)[-1].outcome for vm in (VM, OTHER)] == [Outcome.DONE] * 2
    assert all(run.outcome is not None for run in daemon.ledger.runs.values())


@pytest.mark.usefixtures("zone")
def test_four_hundred_days_lose_and_double_no_due_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over two ends of a year, a leap day and both changes of the clocks, while cycles fail, take long, and wait."""
    monkeypatch.setattr(supervisor, "_TICK_S", 3600.0)
    start = datetime(2027, 12, 1, tzinfo=UTC)
    luck = Random(5)
    schedules: dict[str, Schedule] = {
        "여섯 시간": Every(21600, 1234.5),
        "매시": Every(3600, 17),
        "밤": CronSchedule(parse_cron("30 2 * * *")),
        "평일": CronSchedule(parse_cron("0 22 * * mon-fri")),
        "그믐": CronSchedule(parse_cron("59 23 31 12 *")),
        "윤일": CronSchedule(parse_cron("0 12 29 2 *")),
    }
    errors = (LOST, OutOfSpaceError("write", "nas", "no space is left"))

    async def work(vm: str, watch: Watch) -> None:
        await asyncio.sleep(luck.choice([1, 10, 600, 1100]))
        if luck.random() < 0.1:
            raise luck.choice(errors)

    daemon = Daemon(SettableClock(start), work, most_at_once=2)
    daemon.run_for(schedules, timedelta(days=400))
    counts = {}
    for vm, schedule in schedules.items():
        first, *runs = daemon.ledger.of(vm)
        assert first.due_at == start
        counts[vm] = sum(one.missed + (one.trigger is Trigger.SCHEDULE) for one in runs)
        assert counts[vm] == schedule.count_between(first.started_at, runs[-1].started_at)
        due = [one for one in runs if one.trigger is Trigger.SCHEDULE]
        for before, after in pairwise([first, *due]):
            following = schedule.next_after(before.started_at)
            assert following is not None
            # A retry may be wanted at the due time itself, or a little before, when there is no room.
            assert after.due_at == following or (after.due_at < following <= after.started_at)
        for before, after in pairwise([first, *runs]):
            assert before.ended_at is not None
            assert before.ended_at <= after.started_at
    assert counts["밤"] == 400
    assert (counts["그믐"], counts["윤일"]) == (2, 1)
    assert daemon.most_seen == 2
    assert not [event for event in daemon.events if isinstance(event, Trouble)]


@pytest.mark.parametrize("schedule", [OnRequest(), Every(3600, 100)], ids=["manual", "hourly"])
def test_request_that_waits_does_not_wait_for_a_clock_that_was_set_back(schedule: Schedule) -> None:
    asked = Agenda(VM, due_at=MONDAY + timedelta(days=1), requested_at=MONDAY + timedelta(days=1))
    assert agendas.next_wanted(agendas.planned(asked, VM, schedule, MONDAY)) == MONDAY


WRONG = TrackerMistake(1, MONDAY, "a.vhdx: extents was wrong")


def _mistaken(daemon: Daemon) -> Agenda:
    return daemon.ledger.agendas[VM]


def test_points_that_others_made_are_looked_through_once_for_mistakes_of_trackers() -> None:
    daemon = Daemon(SettableClock())
    daemon.points[VM] = 6
    daemon.previous, daemon.mistakes = 6, (WRONG,)
    daemon.run_for({VM: Every(300, 40)}, MINUTE)
    assert (daemon.asked, _mistaken(daemon).mistake, _mistaken(daemon).checked_point) == ([0], WRONG, 8)

    async def acknowledge() -> None:
        await asyncio.sleep(1)
        for _ in range(2):
            await daemon.supervisor.acknowledge(VM)
        assert daemon.supervisor.look(VM).agenda.mistake is None
        assert _mistaken(daemon).mistake is None
        with pytest.raises(NotFoundError):
            await daemon.supervisor.acknowledge("none")

    daemon.previous = 8
    daemon.run_for({VM: Every(300, 40)}, 10 * MINUTE, acknowledge)
    assert (daemon.asked, _mistaken(daemon).mistake) == ([0], None)


def test_a_replica_that_can_not_be_looked_through_is_looked_through_at_the_next_cycle() -> None:
    daemon = Daemon(SettableClock())
    daemon.points[VM] = 6
    daemon.previous, daemon.mistakes = 6, None
    daemon.run_for({VM: OnRequest()}, MINUTE, lambda: _ask(daemon))
    assert (daemon.asked, _mistaken(daemon).mistake, _mistaken(daemon).checked_point) == ([0], None, 0)
    daemon.mistakes = (WRONG,)
    daemon.run_for({VM: OnRequest()}, MINUTE, lambda: _ask(daemon))
    assert (daemon.asked, _mistaken(daemon).mistake, _mistaken(daemon).checked_point) == ([0, 0], WRONG, 8)


def test_a_mistake_that_a_cycle_of_its_own_found_outlives_the_cycles_after_it_and_the_daemon() -> None:
    daemon = Daemon(SettableClock())
    trust = Trust(16, 99, Mistake(Provenance.EXTENTS, 7, 1, MONDAY))
    state = DiskState(
        "22" * 16, "a.vhdx", FileKind.DISK, 1 << 20, 1 << 16, Change.DELTA, Provenance.FULL_SCAN,
        ManifestReference(3, "33" * 32), None, Statistics(), trust,
    )  # fmt: skip
    daemon.disks = (state,)
    daemon.run_for({VM: OnRequest()}, MINUTE, lambda: _ask(daemon))
    daemon.disks = (replace(state, provenance=Provenance.EXTENTS, trust=Trust(16, 99)),)
    daemon.previous = 1
    daemon.run_for({VM: OnRequest()}, MINUTE, lambda: _ask(daemon))
    found = _mistaken(daemon)
    assert found.mistake is not None
    assert (found.mistake.point, found.checked_point, daemon.asked) == (1, 2, [])
    assert found.tracking == ("extents; 16 of 99 unchanged chunks checked, all as they were",)
    assert daemon.ledger.of(VM)[-1].tracking == found.tracking


async def _ask(daemon: Daemon) -> None:
    assert (await (await daemon.supervisor.request(VM))).outcome is Outcome.DONE
