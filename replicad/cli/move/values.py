"""Values that options of a move take, as people type them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, time, timedelta
from typing import Any

import click

from replicad.settings.problems import WrongError
from replicad.settings.timetable import parse_timetable
from replicad.settings.units import parse_duration, parse_short

_LONGEST_FREEZE_S = 600


class Parsed(click.ParamType[Any]):
    """What a function makes of the text, or the sentence that it refuses it with."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """UsageError for what can't be read."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except WrongError as error:
            self.fail(str(error), param, ctx)


def _disk(text: str) -> tuple[str, str]:
    pattern, separator, address = text.partition("=")
    if not separator or not pattern or not address:
        raise WrongError(f"'{text}' is no pattern with a directory", r"write one such as web.vhdx=\\nas3\fast")
    return pattern, address


def _bandwidth(text: str) -> str:
    parse_timetable(text)
    return text


def _freeze(text: str) -> float:
    if re.fullmatch("[0-9]+ms", text):
        return parse_short(text, max_ms=_LONGEST_FREEZE_S * 1_000) / 1_000
    return parse_duration(text, max_s=_LONGEST_FREEZE_S)


def _moment(text: str) -> datetime:
    """In the time zone of this host: the next time that it is so late, or that very moment."""
    now = datetime.now().astimezone()
    try:
        if re.fullmatch("[0-9]{2}:[0-9]{2}", text):
            at = datetime.combine(now.date(), time.fromisoformat(text)).astimezone()
            return at if at > now else datetime.combine(now.date() + timedelta(days=1), at.time()).astimezone()
        at = datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise WrongError(f"'{text}' is no time", "write one such as 22:00 or 2026-11-30T01:00") from None
    if at < now:
        raise WrongError(f"'{text}' has passed", "write a time to come, or none to begin now")
    return at


MOMENT = Parsed("time", _moment)
"""An aware time."""
FREEZE = Parsed("time", _freeze)
"""Seconds."""
DURATION = Parsed("time", parse_duration)
"""Whole seconds."""
DISK = Parsed("disk", _disk)
"""A pattern and a directory."""
BANDWIDTH = Parsed("rate", _bandwidth)
"""A timetable, as it was typed."""
