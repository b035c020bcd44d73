"""An event loop whose time passes only where everything waits, and then at once: hours in milliseconds, and exactly."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from replicad.model.clock import Clock

Result = TypeVar("Result")

START_S = 1_000_000.0
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now_s = START_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            raise RuntimeError("everything waits, and nothing will ever happen")
        self.now_s += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """For work without threads, processes and sockets."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        # As real loops have a nanosecond, which after a hundred days is less than a step of the floating point.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._virtual.now_s


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run it to its end on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)


def passed_s() -> float:
    """How long it has been running."""
    return asyncio.get_running_loop().time() - START_S


def wall_clock(start: datetime = MONDAY) -> datetime:
    """What the clock on the wall shows, if it showed `start` in the beginning."""
    return start + timedelta(seconds=passed_s())


class SettableClock:
    """The clocks of a host on such a loop, of which the time of day can be set."""

    def __init__(self, start: datetime = MONDAY) -> None:
        self._start = start
        self._slept_s = 0.0
        self.clock = Clock(self.now, self.steady_s, asyncio.sleep)

    def now(self) -> datetime:
        """The time of day."""
        return wall_clock(self._start)

    def steady_s(self) -> float:
        """What goes on while the host sleeps, as the event loop's own does not."""
        return passed_s() + self._slept_s

    def sleep(self, span: timedelta) -> None:
        """Let the host have slept for so long, just now."""
        self._start += span
        self._slept_s += span.total_seconds()

    def set_forward(self, by: timedelta) -> None:
        """Back, if `by` is negative."""
        self._start += by
