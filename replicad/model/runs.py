"""What a cycle that the daemon ran came to. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from .errors import ConflictError, IntegrityError, LockedError, ReplicadError, SignInError, TransientError
from .points import Consistency


class Trigger(StrEnum):
    """Why a cycle ran."""

    SCHEDULE = "schedule"
    RETRY = "retry"
    REQUEST = "request"


class Outcome(StrEnum):
    """How it ended; `interrupted` if the daemon stopped, or died, in the middle."""

    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class Severity(StrEnum):
    """What an error means for the cycles to come."""

    TRANSIENT = "transient"
    """Tried again by itself, after pauses that grow."""
    LASTING = "lasting"
    """Not tried again before the schedule or somebody wants a cycle: what is missing may be there by then."""
    FINAL = "final"
    """No cycle by itself until somebody says so: to try again would do harm, or can't help."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is kept: its sentence, the name of its class, what it means, and when it came."""

    text: str
    error: str
    severity: Severity
    at: datetime

    @property
    def is_lock(self) -> bool:
        """Whether another writer held the replica."""
        return self.error == LockedError.__name__


def severity_of(error: ReplicadError) -> Severity:
    """Whether, and when, a cycle that ended with this is worth another try."""
    if isinstance(error, TransientError | LockedError):
        return Severity.TRANSIENT
    if isinstance(error, SignInError | ConflictError | IntegrityError):
        return Severity.FINAL
    return Severity.LASTING


def failure_of(error: ReplicadError, at: datetime) -> Failure:
    """`error` as it is kept."""
    return Failure(str(error), type(error).__name__, severity_of(error), at)


@dataclass(frozen=True, slots=True)
class Run:
    """One cycle of a VM. `due_at` is when it was wanted; `missed` counts the due times that it stands for beside its
    own. While it is under way `ended_at` and `outcome` are None; what comes after these, but for `failure`, is known
    of one that is done. `provenance` is how it was known what may have changed; one that was `resumed` went on with
    an earlier one, and `attempts` is how often it was begun itself (None: an older version ran it). `tracking` is
    `provenance` in words, with what came of checking it, a line each."""

    vm: str
    trigger: Trigger
    due_at: datetime
    started_at: datetime
    missed: int = 0
    ended_at: datetime | None = None
    outcome: Outcome | None = None
    kind: str | None = None
    point: int | None = None
    scanned_bytes: int = 0
    changed_bytes: int = 0
    sent_bytes: int = 0
    failure: Failure | None = None
    number: int = 0
    """Given by the catalog; 0: none yet."""
    undo_bytes: int = 0
    consistency: Consistency | None = None
    point_time: datetime | None = None
    provenance: str | None = None
    resumed: bool = False
    attempts: int | None = None
    tracking: tuple[str, ...] = ()
