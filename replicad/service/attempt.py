"""One cycle of one machine, and what comes of it, whatever that is."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol, TypeVar

from replicad.model import agenda as agendas
from replicad.model.agenda import Agenda, LatestPoint
from replicad.model.clock import Clock
from replicad.model.errors import LockedError, ReplicadError, StuckError
from replicad.model.runs import Failure, Outcome, Run, Severity, failure_of
from replicad.model.tracking_words import TrackerMistake, mistakes_of
from replicad.workflows.replicate import CycleReport

from .events import Event, Trouble
from .watch import STALLED_AFTER_S, Watch

T = TypeVar("T")


class Cycles(Protocol):
    """How a cycle of a machine is run."""

    async def run(self, vm: str, watch: Watch, *, resync: bool) -> CycleReport:
        """One cycle, told to `watch`. Cancelling it leaves what the next one goes on with."""

    async def mistakes_after(self, vm: str, number: int) -> tuple[TrackerMistake, ...] | None:
        """What the points after this one tell of trackers that were found wrong, read without the replica's lock; None
        if it can't be looked at."""

    async def latest_point(self, vm: str) -> LatestPoint | None:
        """What the replica shows, without its lock; None if it shows nothing or can't be looked at."""

    def give_up(self) -> None:
        """Have those that are being cancelled wait for no server any more."""


@dataclass(slots=True)
class Attempt:
    """A cycle under way. `run` has no number before it is written down."""

    run: Run
    watch: Watch
    resync: bool
    checked_point: int = 0
    """Up to which point it is known what trackers were found wrong about."""
    mistakes: tuple[TrackerMistake, ...] | None = None
    """What was found since; None: nobody else made points, or they can't be looked at."""
    task: asyncio.Task[None] | None = None
    has_begun: bool = False
    """Whether the task has taken its first step."""
    stalled: bool = False
    seen: LatestPoint | None = None
    """The latest point of a replica that another host keeps."""
    waiting: list[asyncio.Future[Run]] = field(default_factory=list)
    """Who wants to know how it ends."""

    async def work(self, cycles: Cycles, clock: Clock, tell: Callable[[Event], None]) -> CycleReport | Failure | None:
        """What came of it; None if it was cancelled. Never raises."""
        vm = self.run.vm
        try:
            return await self._report(cycles, clock)
        except asyncio.CancelledError:
            if not self.stalled:
                return None
            answer = f"nothing has moved for {STALLED_AFTER_S / 60:.0f} min, in the phase {self.watch.phase!r}"
            hint = "The log names the call that it waited for."
            return failure_of(StuckError("go on with", f"the cycle of {vm}", answer, hint), clock.now())
        except Exception as error:  # noqa: BLE001  a defect that one machine meets must not end the service for all
            name = type(error).__name__
            tell(Trouble(vm, f"the cycle of {vm} met a defect of this program ({name})", traceback.format_exc()))
            text = f"cannot go on with the cycle of {vm}: this program has a defect ({name}). The log has the details."
            return Failure(text, name, Severity.TRANSIENT, clock.now())

    async def _report(self, cycles: Cycles, clock: Clock) -> CycleReport | Failure:
        try:
            report = await cycles.run(self.run.vm, self.watch, resync=self.resync)
            if (report.point.previous or 0) > self.checked_point:
                # Somebody else made points meanwhile, say 'replicad sync --standalone'.
                self.mistakes = await cycles.mistakes_after(self.run.vm, self.checked_point)
            return report
        except LockedError as error:
            # Another host does the work, and as long as it does the objective is kept.
            self.seen = await cycles.latest_point(self.run.vm)
            return failure_of(error, clock.now())
        except ReplicadError as error:
            return failure_of(error, clock.now())

    def stop_if_stalled(self, now_s: float) -> Trouble | None:
        """Cancel it if nothing has moved for too long; what to tell of that."""
        if self.task is None or self.stalled or self.watch.stands_still_s(now_s) <= STALLED_AFTER_S:
            return None
        self.stalled = True
        where = "".join(traceback.format_list(_waits_in(self.task)))
        self.task.cancel()
        text = (
            f"nothing has moved for {STALLED_AFTER_S / 60:.0f} min in the phase {self.watch.phase!r}: it is begun again"
        )
        return Trouble(self.run.vm, text, where)


def _waits_in(task: asyncio.Task[None]) -> traceback.StackSummary:
    """The calls that a task is in, down to the one that it waits for; those of tasks of its own are not seen."""
    frames = []
    waiting: object = task.get_coro()
    while (frame := getattr(waiting, "cr_frame", None)) is not None:
        frames.append((frame, frame.f_lineno))
        waiting = getattr(waiting, "cr_await", None)
    return traceback.StackSummary.extract(iter(frames))


def ended(
    run: Run, agenda: Agenda, came: CycleReport | Failure | None, now: datetime,
    mistakes: tuple[TrackerMistake, ...] | None = None,
) -> tuple[Run, Agenda]:  # fmt: skip
    """The run and the agenda after what came of a cycle; `mistakes` as in `Attempt`. Pure."""
    match came:
        case None:
            return replace(run, ended_at=now, outcome=Outcome.INTERRUPTED), agendas.interrupted(agenda, now)
        case Failure():
            run = replace(run, ended_at=now, outcome=Outcome.FAILED, failure=came)
            return run, agendas.ended_badly(agenda, came)
        case CycleReport(point=point, statistics=counted):
            run = replace(
                run, ended_at=now, outcome=Outcome.DONE, kind=point.kind.value, point=point.number,
                scanned_bytes=counted.scanned_bytes, changed_bytes=counted.changed_bytes, sent_bytes=counted.sent_bytes,
                undo_bytes=counted.undo_bytes, consistency=point.consistency, point_time=point.time,
                provenance=came.provenance, resumed=came.resumed, attempts=came.attempts,
                tracking=came.tracking,
            )  # fmt: skip
            agenda = agendas.ended_well(agenda, LatestPoint(point.number, point.time, point.consistency))
            is_checked = mistakes is not None or (point.previous or 0) <= agenda.checked_point
            checked_point = point.number if is_checked else agenda.checked_point
            found = mistakes_of([point]) if mistakes is None else mistakes
            return run, agendas.tracked(agenda, came.tracking, found, checked_point)


async def to_the_end(work: Awaitable[T]) -> T:
    """The result of `work`, which being cancelled does not stop: then it is cancelled after."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled and (current := asyncio.current_task()) is not None:
        current.cancel()
    return task.result()
