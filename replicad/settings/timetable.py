"""Reading the bandwidth timetable, as rclone writes it: `08:00,100M 19:00,off` or `Mon-08:00,1M`. Pure."""

from __future__ import annotations

import re

from replicad.model.timetable import RateChange, Timetable

from .problems import WrongError, shown
from .units import parse_rate

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_RATE = r"([1-9][0-9]{0,11}[KMGT](iB)?|off)"
_DAY = "|".join(f"{day}|{day.capitalize()}" for day in WEEKDAYS)
_SLOT = rf"(({_DAY})-)?([01][0-9]|2[0-3]):[0-5][0-9],{_RATE}"
TIMETABLE_PATTERN = rf"^({_RATE}|{_SLOT}(\s+{_SLOT})*)$"


def parse_timetable(value: object) -> Timetable:
    """Read one rate for all times, or a list of `[day-]HH:MM,rate` with spaces between. Raises WrongError."""
    if not isinstance(value, str):
        return Timetable((RateChange(None, 0, parse_rate(value)),))
    if "," not in value and ":" not in value:
        return Timetable((RateChange(None, 0, parse_rate(value)),))
    changes: list[RateChange] = []
    for slot in value.split():
        change = _slot(slot)
        if any((c.weekday, c.minute_of_day) == (change.weekday, change.minute_of_day) for c in changes):
            raise WrongError(f"{shown(slot.partition(',')[0])} comes twice", "give each time one rate")
        changes.append(change)
    if not changes:
        raise WrongError(f"{shown(value)} is no timetable", "write a rate such as 100M, or '08:00,100M 19:00,off'")
    return Timetable(tuple(changes))


def _slot(slot: str) -> RateChange:
    when, comma, rate = slot.partition(",")
    day, dash, clock = when.rpartition("-")
    if not comma or not rate:
        raise WrongError(
            f"{shown(slot)} is no time with a rate",
            "write pairs such as 08:00,100M, with a space between pairs and none inside",
        )
    weekday: int | None = None
    if dash:
        if day not in WEEKDAYS and day not in [d.capitalize() for d in WEEKDAYS]:
            raise WrongError(
                f"{shown(day)} is no day", "days are Mon, Tue, Wed, Thu, Fri, Sat and Sun, as in Mon-08:00,1M"
            )
        weekday = WEEKDAYS.index(day.lower())
    if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", clock):
        raise WrongError(f"{shown(clock)} is no time of day", "write two digits each, 00:00 to 23:59")
    if ":" in rate:
        raise WrongError(f"{shown(rate)} gives two rates", "there is one rate for both directions: write 100M")
    return RateChange(weekday, int(clock[:2]) * 60 + int(clock[3:]), parse_rate(rate))
