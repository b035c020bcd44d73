"""The history of a machine's cycles as lines of a chart. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from replicad.model.runs import Outcome, Run

T = TypeVar("T")

MOST_TEETH = 150
"""More can't be told from each other on a screen."""


@dataclass(frozen=True, slots=True)
class Series:
    """Lines of a chart, as pairs of seconds since 1970 and a value; times ascend.

    `lag` is how old the latest point was, in seconds; it goes on to grow from its last value at one second a second.
    `rate` is what cycles sent, in bytes a second, at their ends. `failures` are the times at which cycles failed.
    """

    lag: tuple[tuple[float, float], ...]
    rate: tuple[tuple[float, float], ...]
    failures: tuple[float, ...]

    @property
    def largest_lag_s(self) -> float | None:
        """None if there is no point."""
        return max((lag for _, lag in self.lag), default=None)


def series_of(runs: Sequence[Run], latest: datetime | None, since: datetime, until: datetime) -> Series:
    """Those of one machine's `runs`, in any order; those before `since` tell how old its point was then.
    `latest` is the time of its latest point, if it has one: there may be no run of it left.

    A point is as old as the start of its cycle, and counts from that one's end. Of more than 150 cycles neighbours are
    drawn as one: that with the largest lag before it, or the highest rate. No peak is left out.
    """
    done = sorted((r for r in runs if r.outcome is Outcome.DONE and r.ended_at), key=lambda run: run.ended_at or since)
    shown = [run for run in done if (run.ended_at or until) >= since]
    failures = sorted(
        run.ended_at.timestamp()
        for run in runs
        if run.outcome is Outcome.FAILED and run.ended_at is not None and run.ended_at >= since
    )
    return Series(
        tuple(_lag(done, latest, since, until)),
        tuple(max(group, key=lambda pair: pair[1]) for group in _groups([_rate(run) for run in shown])),
        tuple(max(group) for group in _groups(failures)),
    )


def _lag(done: list[Run], latest: datetime | None, since: datetime, until: datetime) -> list[tuple[float, float]]:
    begin, end = since.timestamp(), until.timestamp()
    before: float | None = None
    """When the cycle of the latest point started."""
    teeth: list[tuple[float, float | None, float]] = []
    line: list[tuple[float, float]] = []
    for run in done:
        at, started = run.ended_at.timestamp() if run.ended_at else end, run.started_at.timestamp()
        if at < begin:
            before = started
            continue
        if not teeth and before is not None:
            line.append((begin, max(0.0, begin - before)))
        teeth.append((at, None if before is None else max(0.0, at - before), max(0.0, at - started)))
        before = started
    if not teeth and before is None and latest is not None:
        before = latest.timestamp()
    if not teeth and before is not None:
        line.append((begin, max(0.0, begin - before)))
    for group in _groups(teeth):
        at, peak, low = max(group, key=lambda tooth: tooth[1] or 0.0)
        line += [(at, peak), (at, low)] if peak is not None else [(at, low)]
    if before is not None:
        line.append((end, max(0.0, end - before)))
    return line


def _rate(run: Run) -> tuple[float, float]:
    ended = run.ended_at or run.started_at
    seconds = (ended - run.started_at).total_seconds()
    return ended.timestamp(), run.sent_bytes / seconds if seconds > 0 else 0.0


def _groups(items: Sequence[T]) -> list[Sequence[T]]:
    size = max(1, -(-len(items) // MOST_TEETH))
    return [items[start : start + size] for start in range(0, len(items), size)]
