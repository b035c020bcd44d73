"""Which recovery points are kept, by which rule, and which go. Pure.

The rules are restic's: of the newest N hours (days, ISO weeks, months) that have a point, the newest point of each; and
the newest N points whatever their time. What is newer is told by the points' numbers, so that a clock that jumps back
neither makes a new point old nor has it removed. Hours, days, weeks and months are those of UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Keep:
    """How many recovery points to keep. All zeros: every point."""

    latest: int = 12
    hourly: int = 24
    daily: int = 7
    weekly: int = 4
    monthly: int = 0

    def keeps_all(self) -> bool:
        """Whether there is no rule at all."""
        return not any((self.latest, self.hourly, self.daily, self.weekly, self.monthly))


@dataclass(frozen=True, slots=True)
class PointFacts:
    """What retention asks of a point."""

    number: int
    time: datetime
    pinned: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one point: what keeps it, in words, or, if nothing does, in one sentence why it goes."""

    number: int
    kept_by: tuple[str, ...]
    why_removed: str | None

    @property
    def is_kept(self) -> bool:
        """Exactly one of the two is given."""
        return self.why_removed is None


@dataclass(frozen=True, slots=True)
class Run:
    """Points to remove that follow each other: between the kept points `older` (None: there is none) and `newer`."""

    older: int | None
    removed: tuple[int, ...]
    newer: int


@dataclass(frozen=True, slots=True)
class _Rule:
    """`period` names the hour (…) that a time lies in."""

    word: str
    unit: str
    count: int
    period: Callable[[datetime], str]


def _iso_week(time: datetime) -> str:
    year, week, _ = time.isocalendar()
    return f"{year:04}-W{week:02}"


def _rules(keep: Keep) -> list[_Rule]:
    rules = [
        _Rule("hourly", "hour", keep.hourly, lambda t: f"{t:%Y-%m-%d %H}:00"),
        _Rule("daily", "day", keep.daily, lambda t: f"{t:%Y-%m-%d}"),
        _Rule("weekly", "week", keep.weekly, _iso_week),
        _Rule("monthly", "month", keep.monthly, lambda t: f"{t:%Y-%m}"),
    ]
    return [rule for rule in rules if rule.count > 0]


def judge(points: Sequence[PointFacts], keep: Keep | None) -> tuple[Verdict, ...]:
    """A verdict on each point, in their order, which must be that of their numbers, ascending.

    The newest point and the pinned ones are always kept; without any rule (None too), all are. Judging what is left
    removes nothing more.
    """
    if keep is None or keep.keeps_all():
        return tuple(Verdict(p.number, (*(["pinned"] if p.pinned else []), "no rule"), None) for p in points)
    rules = _rules(keep)
    kept = [_newest_of_each(points, rule) for rule in rules]
    latest = {p.number for p in points[-keep.latest :]} if keep.latest else set()
    verdicts = []
    for point in points:
        words = ["latest"] if point.number in latest else []
        for rule, by_period in zip(rules, kept, strict=True):
            period = rule.period(point.time.astimezone(UTC))
            if by_period.get(period) == point.number:
                words.append(f"{rule.word} {period}")
        if point.pinned:
            words.append("pinned")
        if not words and point is points[-1]:
            words.append("last point")
        verdicts.append(Verdict(point.number, tuple(words), None if words else _why(point, keep, rules, kept)))
    return tuple(verdicts)


def _newest_of_each(points: Sequence[PointFacts], rule: _Rule) -> dict[str, int]:
    """For each of the periods that the rule keeps, the number of its newest point."""
    newest: dict[str, int] = {}
    for point in reversed(points):
        period = rule.period(point.time.astimezone(UTC))
        if period not in newest:
            if len(newest) == rule.count:
                break
            newest[period] = point.number
    return newest


def _why(point: PointFacts, keep: Keep, rules: list[_Rule], kept: list[dict[str, int]]) -> str:
    reasons = [f"it is not one of the latest {keep.latest}"] if keep.latest else []
    for rule, by_period in zip(rules, kept, strict=True):
        newest = by_period.get(rule.period(point.time.astimezone(UTC)))
        reasons.append(
            f"its {rule.unit} is not one of the newest {rule.count} with a point"
            if newest is None
            else f"point {newest} is the newest of its {rule.unit}"
        )
    return "; ".join(reasons)


def runs_to_remove(verdicts: Sequence[Verdict]) -> tuple[Run, ...]:
    """What goes, as runs of neighbours, ascending. The last verdict must be that the point is kept."""
    runs: list[Run] = []
    older: int | None = None
    going: list[int] = []
    for verdict in verdicts:
        if not verdict.is_kept:
            going.append(verdict.number)
            continue
        if going:
            runs.append(Run(older, tuple(going), verdict.number))
        older, going = verdict.number, []
    if going:
        raise ValueError("the newest point is never removed")
    return tuple(runs)
