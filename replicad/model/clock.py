"""Where time comes from. Pure: whoever composes the parts says it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of day (aware, in UTC), a steady clock in seconds (that of a host which slept has gone on), and waiting
    for some seconds."""

    now: Callable[[], datetime]
    monotonic_s: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
