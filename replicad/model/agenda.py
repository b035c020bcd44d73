"""What one virtual machine has ahead, and what its last cycle left: what a daemon must know after a restart. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from .points import Consistency
from .runs import Failure, Severity, Trigger
from .schedule import LONGEST_RETRY_S, Schedule, retry_at
from .tracking_words import TrackerMistake

FORGOTTEN_AFTER = timedelta(days=30)
"""How long what was known of a machine is kept after it has left the configuration."""


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
    `paused_at` is since when no cycle begins by itself, `left_at` since when the machine is not kept any more.
    `mistake` is the last one of a tracker that nobody has acknowledged; points up to `checked_point` were looked
    through for them. `tracking` says how the last cycle that was done knew what had changed, a line each.
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
    left_at: datetime | None = None
    mistake: TrackerMistake | None = None
    checked_point: int = 0
    tracking: tuple[str, ...] = ()


def next_wanted(agenda: Agenda) -> datetime | None:
    """When a cycle is going to be wanted if nothing else happens; in the past if one is wanted already, None: never."""
    if agenda.paused_at is not None or agenda.left_at is not None:
        return None
    if agenda.failure is not None and agenda.failure.severity is Severity.FINAL:
        return agenda.requested_at
    moments = (agenda.requested_at, agenda.retry_at, agenda.due_at)
    return min((moment for moment in moments if moment is not None), default=None)


def begun(agenda: Agenda, schedule: Schedule, now: datetime) -> tuple[Agenda, Trigger, int]:
    """The agenda once a cycle that is wanted begins at `now`, what made it begin, and how many due times it stands for
    beside its own."""
    is_due = agenda.due_at is not None and agenda.due_at <= now
    if agenda.requested_at is not None and agenda.requested_at <= now:
        trigger = Trigger.REQUEST
    else:
        trigger = Trigger.SCHEDULE if is_due else Trigger.RETRY
    missed = schedule.count_between(agenda.due_at, now) if is_due and agenda.due_at is not None else 0
    due_at = schedule.next_after(now) if is_due else agenda.due_at
    return replace(agenda, due_at=due_at, retry_at=None, requested_at=None), trigger, missed


def ended_well(agenda: Agenda, latest: LatestPoint) -> Agenda:
    """The agenda once a cycle has committed a point."""
    return replace(agenda, failures=0, failure=None, retry_at=None, resync_requested=False, latest=latest)


def tracked(
    agenda: Agenda, tracking: tuple[str, ...], mistakes: Sequence[TrackerMistake], checked_point: int
) -> Agenda:
    """The agenda once it is known how a cycle knew what had changed, and what the points up to `checked_point` tell of
    trackers that were wrong, but for those that were looked through before."""
    mistake = mistakes[-1] if mistakes else agenda.mistake
    return replace(agenda, tracking=tracking, mistake=mistake, checked_point=checked_point)


def acknowledged(agenda: Agenda) -> Agenda:
    """The agenda once somebody has seen that a tracker was wrong."""
    return replace(agenda, mistake=None)


def ended_badly(agenda: Agenda, failure: Failure) -> Agenda:
    """The agenda once a cycle has ended with an error, at the time that the failure names."""
    if failure.severity is not Severity.TRANSIENT:
        return replace(agenda, failures=0, failure=failure, retry_at=None)
    failures = agenda.failures + 1
    return replace(agenda, failures=failures, failure=failure, retry_at=retry_at(failures, failure.at, agenda.due_at))


def interrupted(agenda: Agenda, now: datetime) -> Agenda:
    """The agenda once a cycle was stopped in the middle by whoever runs it: the next one goes on with it at once."""
    return replace(agenda, retry_at=now)


def requested(agenda: Agenda, now: datetime, *, resync: bool) -> Agenda:
    """The agenda once somebody has asked for a cycle."""
    return replace(agenda, requested_at=agenda.requested_at or now, resync_requested=agenda.resync_requested or resync)


def paused(agenda: Agenda, now: datetime) -> Agenda:
    """The agenda once somebody has paused it; a pause goes on from when it began."""
    return replace(agenda, paused_at=agenda.paused_at or now)


def resumed(agenda: Agenda, now: datetime) -> Agenda:
    """The agenda once nobody holds it back: what was due meanwhile is due now, and was not missed. What only a person
    could mend is taken for mended."""
    if agenda.paused_at is None and agenda.failure is None:
        return agenda
    due_at = agenda.due_at
    is_held = agenda.paused_at is not None or (agenda.failure is not None and agenda.failure.severity is Severity.FINAL)
    if is_held and due_at is not None and due_at < now:
        due_at = now
    if agenda.failure is not None and agenda.failure.severity is not Severity.TRANSIENT:
        return replace(agenda, paused_at=None, due_at=due_at, failure=None, retry_at=now)
    return replace(agenda, paused_at=None, due_at=due_at)


def left(agenda: Agenda, now: datetime) -> Agenda:
    """The agenda of a machine that nobody wants kept any more: a pause, and what its last cycle left, hold on."""
    return replace(agenda, left_at=agenda.left_at or now)


def is_forgotten(agenda: Agenda, now: datetime) -> bool:
    """Whether the machine has been away for so long that it counts as a new one if it comes back."""
    return agenda.left_at is not None and now - agenda.left_at > FORGOTTEN_AFTER


def returned(agenda: Agenda, now: datetime) -> Agenda:
    """The agenda once the machine is kept again: what was due meanwhile is due now, and was not missed."""
    if agenda.left_at is None:
        return agenda
    due_at = max(agenda.due_at, now) if agenda.due_at is not None else None
    return replace(agenda, due_at=due_at, left_at=None)


def planned(agenda: Agenda | None, vm: str, schedule: Schedule, now: datetime) -> Agenda:
    """The agenda that goes with a schedule at `now`: for a daemon's start, a new configuration, and a clock that was
    set. A machine that was never heard of, or is forgotten, is due at once; due times that passed stay in the past, as
    missed ones, but for those that passed while the machine was not kept."""
    following = schedule.next_after(now)
    if agenda is None or is_forgotten(agenda, now):
        return Agenda(vm, due_at=now if following is not None else None)
    agenda = returned(agenda, now)
    due_at = following if agenda.due_at is None or following is None else min(agenda.due_at, following)
    retry = min(agenda.retry_at, now + timedelta(seconds=LONGEST_RETRY_S)) if agenda.retry_at is not None else None
    requested_at = min(agenda.requested_at, now) if agenda.requested_at is not None else None
    return replace(agenda, due_at=due_at, retry_at=retry, requested_at=requested_at)
