"""What one virtual machine has ahead, and what its last cycle left: what a daemon must know after a restart. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .points import Consistency
from .runs import Failure


@dataclass(frozen=True, slots=True)
class LatestPoint:
    """What is known of the latest recovery point without asking the replica."""

    number: int
    time: datetime
    consistency: Consistency


@dataclass(frozen=True, slots=True)
class Agenda:
    """All times are in UTC.

    `due_at` is when the schedule wants a cycle next (None: it never does), `retry_at` when a failed one is tried again,
    `requested_at` when somebody asked for one that has not begun; with `resync_requested` it is to believe nothing.
    `failures` counts transient ones in a row, `failure` is what the last cycle ended with, None if it went well.
    `paused_at` is since when no cycle begins by itself.
    """

    vm: str
    due_at: datetime | None = None
    retry_at: datetime | None = None
    requested_at: datetime | None = None
    resync_requested: bool = False
    failures: int = 0
    failure: Failure | None = None
    paused_at: datetime | None = None
    latest: LatestPoint | None = None
