"""Noticing that the time of day was set, or that the host slept."""

from __future__ import annotations

from dataclasses import dataclass

from replicad.model.clock import Clock

_CLOCK_STEP_S = 2.0
"""Less is what clocks are set by all the time."""


@dataclass(frozen=True, slots=True)
class Passed:
    """What lies between two looks: `passed_s` by a steady clock, and by how much the time of day went on `step_s`
    farther than that."""

    passed_s: float
    step_s: float

    @property
    def was_set(self) -> bool:
        """Whether somebody has set the time of day."""
        return abs(self.step_s) >= _CLOCK_STEP_S


class ClockSteps:
    """Looks at the clocks again and again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at, self._at_s = clock.now(), clock.monotonic_s()

    def look(self) -> Passed:
        """What has passed since the last look."""
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        passed_s = now_s - self._at_s
        step_s = (now - self._at).total_seconds() - passed_s
        self._at, self._at_s = now, now_s
        return Passed(passed_s, step_s)
