"""How much may travel at what time of the week, with the meaning that rclone gives its timetables. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

_DAY_MINUTES = 24 * 60
_WEEK_MINUTES = 7 * _DAY_MINUTES


@dataclass(frozen=True, slots=True)
class RateChange:
    """From this minute on the rate holds. `weekday` is 0 for Monday, None for every day; a rate of None is no limit."""

    weekday: int | None
    minute_of_day: int
    rate_bytes_per_s: int | None


@dataclass(frozen=True, slots=True)
class Timetable:
    """What the rate is through the week: each change holds until the next one, the last one into the next week.

    Where a change of every day and one of a single day begin in the same minute, the later one in the list holds.
    """

    changes: tuple[RateChange, ...]


def rate_at(timetable: Timetable, local: datetime) -> int | None:
    """The rate when the clock on the wall shows `local`; None for no limit. It can differ only between minutes.

    What the clock shows is all that counts: when it is put forward, the changes that it skips begin at once, and when
    it is put back, what held at that reading holds again. An empty timetable is no limit.
    """
    minute = local.weekday() * _DAY_MINUTES + local.hour * 60 + local.minute
    latest, latest_age = None, _WEEK_MINUTES
    for change in timetable.changes:
        age = _minutes_since(change, minute)
        if age <= latest_age:
            latest, latest_age = change, age
    return latest.rate_bytes_per_s if latest is not None else None


def _minutes_since(change: RateChange, minute_of_week: int) -> int:
    """How long ago it began the last time."""
    if change.weekday is None:
        return (minute_of_week - change.minute_of_day) % _DAY_MINUTES
    return (minute_of_week - change.weekday * _DAY_MINUTES - change.minute_of_day) % _WEEK_MINUTES
