"""What the cycles of a virtual machine came to over a stretch of time. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from .runs import Outcome, Run

_NO_TIME = timedelta(0)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of one VM, after `since` and not after `until`.

    A cycle counts where it ended, and the due times that it missed where it began; sizes and times are of cycles that
    are done. `kept` is how long, out of the time `judged`, the latest point was no older than the objective; without
    an objective nothing is judged, nor is the time before the first cycle that is known.
    """

    since: datetime
    until: datetime
    done: int = 0
    failed: int = 0
    interrupted: int = 0
    missed: int = 0
    sent_bytes: int = 0
    largest_sent_bytes: int = 0
    duration: timedelta = _NO_TIME
    longest: timedelta = _NO_TIME
    judged: timedelta = _NO_TIME
    kept: timedelta = _NO_TIME

    def __add__(self, later: Statistics) -> Statistics:
        """Those of two stretches of which the second begins where the first ends."""
        return Statistics(
            self.since,
            later.until,
            self.done + later.done,
            self.failed + later.failed,
            self.interrupted + later.interrupted,
            self.missed + later.missed,
            self.sent_bytes + later.sent_bytes,
            max(self.largest_sent_bytes, later.largest_sent_bytes),
            self.duration + later.duration,
            max(self.longest, later.longest),
            self.judged + later.judged,
            self.kept + later.kept,
        )

    @property
    def wanted(self) -> int:
        """How many cycles there were or should have been."""
        return self.done + self.failed + self.interrupted + self.missed

    @property
    def average_sent_bytes(self) -> int | None:
        """Bytes sent by a cycle; None if none is done."""
        return round(self.sent_bytes / self.done) if self.done else None

    @property
    def average_duration_s(self) -> float | None:
        """Seconds that a cycle took; None if none is done."""
        return self.duration.total_seconds() / self.done if self.done else None

    @property
    def longest_duration_s(self) -> float | None:
        """Seconds that the longest cycle took; None if none is done."""
        return self.longest.total_seconds() if self.done else None

    @property
    def rpo_kept_percent(self) -> float | None:
        """In how much of the time judged the objective was kept, from 0 to 100; None if none was judged."""
        return 100 * (self.kept / self.judged) if self.judged else None


def summarise(runs: Iterable[Run], rpo_s: int | None, since: datetime, until: datetime) -> Statistics:
    """The statistics of these runs of one VM, in any order, after `since` and not after `until`.

    With them should come the last run before `since` that is done: it tells how old the latest point was then.
    A point's age is counted from the start of its cycle, which is no later than the moment that it shows, and it
    counts from when it was committed: what is told to be kept was kept.
    """
    known = list(runs)
    ended = [r for r in known if r.ended_at is not None and since < r.ended_at <= until]
    done = [r for r in ended if r.outcome is Outcome.DONE]
    took = [_duration(r) for r in done]
    judged, kept = _objective_kept(known, rpo_s, since, until)
    return Statistics(
        since,
        until,
        len(done),
        sum(r.outcome is Outcome.FAILED for r in ended),
        sum(r.outcome is Outcome.INTERRUPTED for r in ended),
        sum(r.missed for r in known if since < r.started_at <= until),
        sum(r.sent_bytes for r in done),
        max((r.sent_bytes for r in done), default=0),
        sum(took, _NO_TIME),
        max(took, default=_NO_TIME),
        judged,
        kept,
    )


def _duration(run: Run) -> timedelta:
    """Never negative, although the clock may have been set back on the way."""
    return max(_NO_TIME, run.ended_at - run.started_at) if run.ended_at is not None else _NO_TIME


def _objective_kept(
    runs: list[Run], rpo_s: int | None, since: datetime, until: datetime
) -> tuple[timedelta, timedelta]:
    """How long there was something to judge, and how long of that the latest point was young enough."""
    if rpo_s is None or not runs:
        return _NO_TIME, _NO_TIME
    begin = max(since, min(run.started_at for run in runs))
    if begin >= until:
        return _NO_TIME, _NO_TIME
    committed = sorted((r.ended_at, r.started_at) for r in runs if r.ended_at and r.outcome is Outcome.DONE)
    kept = _NO_TIME
    for (at, shows), (superseded_at, _) in pairwise([*committed, (until, until)]):
        # From its commit until the next one, as long as it is young enough, and inside the stretch.
        kept += max(_NO_TIME, min(superseded_at, shows + timedelta(seconds=rpo_s), until) - max(at, begin))
    return until - begin, kept
