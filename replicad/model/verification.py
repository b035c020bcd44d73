"""What is known of the verifications of one virtual machine's replica, and when the next one is wanted. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from .schedule import LONGEST_RETRY_S, Schedule, retry_at


class VerificationOutcome(StrEnum):
    """How one ended; `failed`: it could not be done."""

    CLEAN = "clean"
    DAMAGED = "damaged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class VerificationResult:
    """What one came to, at its end. `text` says in words what was found or what failed; None if there is nothing to
    say. `damaged_chunks` are of disks and undo logs."""

    at: datetime
    outcome: VerificationOutcome
    text: str | None = None
    damaged_chunks: int = 0
    read_bytes: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class VerificationPlan:
    """All times are in UTC.

    `due_at` is when the schedule wants one (None: it never does), `retry_at` when one that failed is tried again, after
    so many `failures` in a row, `requested_at` since when somebody waits for one, which is to mend what it finds if
    `repair_requested`. `last` is what the last one came to, `damage` the last one that was not a failure, if
    it left damage behind: as long as it is there the replica is not what it should be. `sound_at` is when the last
    sound one ended.
    """

    vm: str
    due_at: datetime | None = None
    retry_at: datetime | None = None
    requested_at: datetime | None = None
    repair_requested: bool = False
    failures: int = 0
    last: VerificationResult | None = None
    damage: VerificationResult | None = None
    sound_at: datetime | None = None

    @property
    def wanted_at(self) -> datetime | None:
        """When one is going to be wanted; in the past if one is wanted already, None: never."""
        if self.requested_at is not None:
            return self.requested_at if self.retry_at is None else max(self.requested_at, self.retry_at)
        return self.retry_at if self.retry_at is not None else self.due_at


def planned(before: VerificationPlan | None, vm: str, schedule: Schedule, now: datetime) -> VerificationPlan:
    """The plan that goes with a schedule at `now`. A machine that was never heard of waits for its place in the grid;
    a due time that passed stays in the past."""
    following = schedule.next_after(now)
    if before is None:
        return VerificationPlan(vm, due_at=following)
    due_at = following if before.due_at is None or following is None else min(before.due_at, following)
    retry = min(before.retry_at, now + timedelta(seconds=LONGEST_RETRY_S)) if before.retry_at is not None else None
    requested_at = min(before.requested_at, now) if before.requested_at is not None else None
    is_wanted = due_at is not None or requested_at is not None
    return replace(before, due_at=due_at, retry_at=retry if is_wanted else None, requested_at=requested_at)


def requested(plan: VerificationPlan, now: datetime, *, repair: bool) -> VerificationPlan:
    """The plan once somebody has asked for a verification, which waits for no other try."""
    repair = plan.repair_requested or repair
    return replace(plan, requested_at=plan.requested_at or now, repair_requested=repair, retry_at=None)


def taken_back(plan: VerificationPlan) -> VerificationPlan:
    """The plan once nobody asks for a verification any more."""
    return replace(plan, requested_at=None, repair_requested=False)


def postponed(plan: VerificationPlan, now: datetime, *, is_answered: bool) -> VerificationPlan:
    """The plan once a verification could not begin because another writer holds the replica: nothing is wrong then. An
    order stands, unless who gave it was told (`is_answered`)."""
    failures = plan.failures + 1
    plan = taken_back(plan) if is_answered else plan
    is_wanted = plan.due_at is not None or plan.requested_at is not None
    return replace(plan, failures=failures, retry_at=retry_at(failures, now, None) if is_wanted else None)


def ended(plan: VerificationPlan, result: VerificationResult, schedule: Schedule) -> VerificationPlan:
    """The plan once a verification has ended. One that failed is tried again, if there is a schedule; damage that was
    found stays known until one ends that does not find it."""
    plan = taken_back(plan)
    if result.outcome is VerificationOutcome.FAILED:
        failures = plan.failures + 1
        retry = retry_at(failures, result.at, None) if plan.due_at is not None else None
        return replace(plan, retry_at=retry, failures=failures, last=result)
    is_sound = result.outcome is VerificationOutcome.CLEAN
    return replace(
        plan, due_at=schedule.next_after(result.at), retry_at=None, failures=0, last=result,
        damage=None if is_sound else result, sound_at=result.at if is_sound else plan.sound_at,
    )  # fmt: skip
