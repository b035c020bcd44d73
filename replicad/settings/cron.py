"""Cron expressions of five fields, checked by hand so that a mistake is told in words. Pure.

Days of the week are names: as numbers they mean different days in different programs. Where both a day of the
month and a day of the week are given, both must match. Times are UTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .problems import WrongError, shown
from .timetable import WEEKDAYS

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_MACROS = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * sun",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip
_LAST_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class Cron:
    """The five fields as typed (in lower case), each known to be good."""

    minute: str
    hour: str
    day: str
    month: str
    weekday: str

    def __str__(self) -> str:
        return f"{self.minute} {self.hour} {self.day} {self.month} {self.weekday}"


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()
    digits: bool = True

    @property
    def range_text(self) -> str:
        if self.words:
            names = f"{self.words[0]} to {self.words[-1]}"
            return f"{self.low} to {self.high} or {names}" if self.digits else names
        return f"{self.low} to {self.high}"


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, MONTHS),
    _Field("day of the week", 0, 6, WEEKDAYS, digits=False),
)


def parse_cron(value: object) -> Cron:
    """Read `minute hour day-of-month month day-of-week`. Raises WrongError, also for a date that never comes."""
    if not isinstance(value, str):
        raise WrongError(
            f"{shown(value)} is no cron expression", 'write five fields in quotes, such as "0 22 * * mon-fri"'
        )
    if macro := _MACROS.get(value.strip().lower()):
        raise WrongError(f"{shown(value)} is not understood", f'write "{macro}"')
    texts = value.lower().split()
    if len(texts) != 5:
        raise WrongError(
            f"{shown(value)} has {len(texts)} field{'' if len(texts) == 1 else 's'}",
            'cron has five: minute hour day-of-month month day-of-week, such as "0 22 * * mon-fri"',
        )
    sets = [_members(text, field) for text, field in zip(texts, _FIELDS, strict=True)]
    if not any(day <= _LAST_DAYS[month - 1] for day in sets[2] for month in sets[3]):
        raise WrongError(f"{shown(value)} names a date that never comes", "choose days that the months have")
    return Cron(*texts)


def spelled_out(cron: Cron) -> Cron:
    """The same times without ranges and steps: each field is `*` or a list, of names where they are days of the week
    and of numbers elsewhere."""
    texts = (cron.minute, cron.hour, cron.day, cron.month, cron.weekday)
    return Cron(*(_listed(_members(text, field), field) for text, field in zip(texts, _FIELDS, strict=True)))


def _listed(members: set[int], field: _Field) -> str:
    if len(members) == field.high - field.low + 1:
        return "*"
    return ",".join(str(n) if field.digits else field.words[n] for n in sorted(members))


def _members(text: str, field: _Field) -> set[int]:
    result: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        if slash and not (re.fullmatch(r"[0-9]{1,2}", step) and int(step) > 0):
            raise WrongError(f"the {field.name} has the step {shown(step)}", "a step is a number from 1 up, as in */15")
        first, dash, last = span.partition("-")
        if span == "*":
            low, high = field.low, field.high
        else:
            low = _number(first, field)
            high = _number(last, field) if dash else low
            if slash and not dash:
                raise WrongError(
                    f"the {field.name} {shown(part)} has a step without a range",
                    "write */15, or a range as in 10-50/10",
                )
        if low > high:
            raise WrongError(
                f"the {field.name} range {shown(span)} runs backwards", f"write {_forwards(low, high, field)}"
            )
        result.update(range(low, high + 1, int(step) if slash else 1))
    return result


def _number(text: str, field: _Field) -> int:
    if text in field.words:
        return field.words.index(text) + field.low
    if not field.digits and re.fullmatch(r"[0-9]+", text):
        raise WrongError(
            f"the {field.name} is the number {shown(text)}",
            "write names (mon, tue, wed, thu, fri, sat, sun): programs disagree on which day a number means",
        )
    if field.digits and re.fullmatch(r"[0-9]{1,2}", text) and field.low <= int(text) <= field.high:
        return int(text)
    raise WrongError(f"the {field.name} is {shown(text)}", f"write * or {field.range_text}")


def _forwards(low: int, high: int, field: _Field) -> str:
    def name(n: int) -> str:
        return field.words[n - field.low] if field.words else str(n)

    def span(a: int, b: int) -> str:
        return name(a) if a == b else f"{name(a)}-{name(b)}"

    return f"{span(low, field.high)},{span(field.low, high)}"
