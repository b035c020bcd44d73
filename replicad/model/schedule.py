"""When cycles are due, and when one that failed is tried again. Pure.

All moments are aware; those that are returned are in UTC, where no hour comes twice or not at all. Nothing is
remembered between two questions, so a clock that is set back only asks about an earlier moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Protocol

from .names import folded

MOST_COUNTED = 10_000
"""Where a schedule stops counting: it then tells this number, for as many or more."""

FIRST_RETRY_S = 60
LONGEST_RETRY_S = 1_800

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Schedule(Protocol):
    """The moments at which the cycles of one VM are due."""

    def next_after(self, moment: datetime) -> datetime | None:
        """The first due time after `moment`, never `moment` itself; None if there is none."""
        ...

    def count_between(self, since: datetime, until: datetime) -> int:
        """How many due times lie after `since` and not after `until`; 0 if `until` comes first. `MOST_COUNTED` at
        most."""
        ...


@dataclass(frozen=True, slots=True)
class Every:
    """The grid of due times that are `every_s` apart, `phase_s` (less than that) after the multiples since 1970."""

    every_s: int
    phase_s: float = 0

    def next_after(self, moment: datetime) -> datetime:
        """As Schedule says; there always is one."""
        return next_due(self.every_s, self.phase_s, moment)

    def count_between(self, since: datetime, until: datetime) -> int:
        """As Schedule says."""
        return min(MOST_COUNTED, due_times_between(self.every_s, self.phase_s, since, until))


@dataclass(frozen=True, slots=True)
class OnRequest:
    """No due times: cycles run when somebody asks for them."""

    def next_after(self, moment: datetime) -> None:
        """As Schedule says; there never is one."""

    def count_between(self, since: datetime, until: datetime) -> int:
        """As Schedule says."""
        return 0


def phase_s(vm: str, every_s: int) -> float:
    """Where in a grid of `every_s` the VM has its place: whole milliseconds in [0, every_s).

    The same for ever, on every host, and for names that a share takes for one; even over names, so that many VMs with
    one `every` do not start together.
    """
    digest = blake2b(folded(vm).encode(), digest_size=8, person=b"replicad phase").digest()
    return (int.from_bytes(digest, "big") * every_s * 1000 >> 64) / 1000


def next_due(every_s: int, phase_s: float, after: datetime) -> datetime:
    """The first time of the grid that is later than `after`, in UTC."""
    steps = _steps(every_s, phase_s, after) + 1
    return _EPOCH + timedelta(seconds=phase_s) + steps * timedelta(seconds=every_s)


def due_times_between(every_s: int, phase_s: float, since: datetime, until: datetime) -> int:
    """How many times of the grid lie after `since` and not after `until`; 0 if `until` comes first."""
    return max(0, _steps(every_s, phase_s, until) - _steps(every_s, phase_s, since))


def _steps(every_s: int, phase_s: float, moment: datetime) -> int:
    """The number of the latest time of the grid that is not later than `moment`. In whole microseconds: exact."""
    return (moment - _EPOCH - timedelta(seconds=phase_s)) // timedelta(seconds=every_s)


def retry_pause_s(failures: int) -> int:
    """How long to wait after so many transient failures in a row: 1, 2, 4, 8, 16, 30, 30 … minutes."""
    if failures < 1:
        raise ValueError(f"{failures} failures need no retry")
    return min(LONGEST_RETRY_S, FIRST_RETRY_S << min(failures - 1, 10))


def retry_at(failures: int, now: datetime, next_due: datetime | None) -> datetime:
    """When to try again after so many transient failures in a row, the last one `now`: never later than the schedule
    wants a cycle anyway."""
    retry = now.astimezone(UTC) + timedelta(seconds=retry_pause_s(failures))
    return retry if next_due is None else min(retry, next_due)
