"""Holding a daemon's history of cycles against its schedule and against the replica: nothing lost, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from replicad.model.agenda import Agenda
from replicad.model.runs import Outcome, Run, Trigger
from replicad.model.schedule import Every
from replicad.replica.layout import point_number


@dataclass(frozen=True, slots=True)
class Point:
    """What the replica says of one of its points."""

    number: int
    time: datetime
    kind: str
    changed_bytes: int


def points_in(replica: Path) -> list[Point]:
    """All that a replica has, in order; asserts that no number is left out."""
    found = []
    for directory in (replica / "points").iterdir():
        if (number := point_number(directory.name)) is not None:
            record = json.loads((directory / "point.json").read_text())
            assert record["number"] == number
            time = datetime.fromisoformat(record["time"])
            found.append(Point(number, time, record["kind"], int(record["statistics"]["changed_bytes"])))
    found.sort(key=lambda point: point.number)
    assert [point.number for point in found] == list(range(1, len(found) + 1))
    assert all(one.time < following.time for one, following in pairwise(found))
    return found


def check_points(runs: Sequence[Run], points: Sequence[Point]) -> int:
    """Each point is one run that is done, and says so, or the only one of a run that was stopped or failed before it
    could; how many are of the latter kind."""
    left = {point.number: point for point in points}
    for run in runs:
        assert (run.outcome is Outcome.DONE) is (run.point is not None), run
        if run.point is not None:
            point = left.pop(run.point, None)
            assert point is not None, f"{run} claims a point that is not there, or another's"
            assert (point.kind, point.changed_bytes) == (run.kind, run.changed_bytes)
            assert _lies_in(point, run), (point, run)
    stopped = [run for run in runs if run.outcome is not Outcome.DONE]
    for point in left.values():
        owners = [run for run in stopped if _lies_in(point, run)]
        assert len(owners) == 1, f"{point} was made by {owners}"
        stopped.remove(owners[0])
    return len(left)


def _lies_in(point: Point, run: Run) -> bool:
    return run.ended_at is not None and run.started_at <= point.time <= run.ended_at


@dataclass(slots=True)
class Keeping:
    """From when on a machine was kept, each time that a daemon started or was told to; and which of its runs had not
    been written down as ended when their daemon was killed."""

    since: list[datetime] = field(default_factory=list)
    killed: set[int] = field(default_factory=set)


def check_schedule(runs: Sequence[Run], agenda: Agenda, every: Every, keeping: Keeping, slack_s: float) -> int:
    """Each due time is that of one cycle, or counted as missed by the next one; the due times of a cycle whose daemon
    was killed are those of the next one, too. None waits longer than `slack_s` once nothing holds it back. How many
    due times there were, and are accounted for.
    """
    cursor, due_times = runs[0].due_at, 0
    for before, run in zip([None, *runs], runs, strict=False):
        assert run.outcome is not None, f"{run} was left open"
        assert run.ended_at is not None
        is_due = cursor <= run.started_at
        assert (run.trigger is Trigger.SCHEDULE) is is_due, (before, run, cursor)
        assert run.missed == (every.count_between(cursor, run.started_at) if is_due else 0), (run, cursor)
        wanted = [cursor if is_due else run.due_at, *(since for since in keeping.since if since <= run.started_at)]
        if before is not None:
            assert before.ended_at is not None
            assert before.ended_at <= run.started_at, (before, run)
            wanted.append(before.ended_at)
        assert (run.started_at - max(wanted)).total_seconds() < slack_s, (run, wanted)
        if is_due and run.number not in keeping.killed:
            due_times += 1 + run.missed
            cursor = every.next_after(run.started_at)
    assert agenda.due_at == cursor
    return due_times


def of(vm: str, runs: Collection[Run]) -> list[Run]:
    """Those of one machine."""
    return [run for run in runs if run.vm == vm]
