"""How a virtual machine's replication stands, from what its replica says. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from .points import Consistency


class State(StrEnum):
    """Where a VM's replication is (DESIGN §8; those that only the daemon can be in come with it)."""

    INITIAL = "initial"
    REPLICATING = "replicating"
    ERROR = "error"


class Health(StrEnum):
    """From the best to the worst."""

    NORMAL = "normal"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of a replica: its latest point's time and consistency if it has one, a cycle under way or
    interrupted, who holds its lock, or why it could not be looked at. `damaged`: sentences about records that had to be
    taken from their copies."""

    point_time: datetime | None = None
    consistency: Consistency | None = None
    pending: int | None = None
    locked_by: str | None = None
    error: str | None = None
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """The verdict; `reasons` say in words what keeps health from being normal. `lag_s` is the latest point's age."""

    state: State
    health: Health
    reasons: tuple[str, ...]
    lag_s: int | None


_CRITICAL_AT_RPO_TIMES = 4


def judge(seen: Observation, rpo_s: int | None, now: datetime) -> Standing:
    """State, health and the reasons for it. `rpo_s` is None where cycles are started by hand only."""
    lag_s = None if seen.point_time is None else max(0, round((now - seen.point_time).total_seconds()))
    if seen.error is not None:
        return Standing(State.ERROR, Health.CRITICAL, (seen.error,), lag_s)
    found: list[tuple[Health, str]] = []
    if lag_s is None:
        found.append((Health.WARNING, _initial_reason(seen)))
    elif rpo_s is not None and lag_s > _CRITICAL_AT_RPO_TIMES * rpo_s:
        found.append(
            (Health.CRITICAL, f"the latest point is {lag_s} s old, more than 4 times the objective of {rpo_s} s")
        )
    elif rpo_s is not None and lag_s > rpo_s:
        found.append((Health.WARNING, f"the latest point is {lag_s} s old, and the objective is {rpo_s} s"))
    if lag_s is not None and seen.pending is not None and seen.locked_by is None:
        found.append(
            (Health.WARNING, f"the cycle of point {seen.pending} was interrupted; the next one goes on with it")
        )
    if seen.consistency is Consistency.FUZZY:
        found.append((Health.WARNING, "the latest point is fuzzy: it was read while somebody may have written"))
    found += [(Health.WARNING, sentence) for sentence in seen.damaged]
    ranks = list(Health)
    health = max((h for h, _ in found), key=ranks.index, default=Health.NORMAL)
    state = State.INITIAL if lag_s is None else State.REPLICATING
    return Standing(state, health, tuple(reason for _, reason in found), lag_s)


def _initial_reason(seen: Observation) -> str:
    if seen.pending is None:
        return "there is no recovery point yet"
    if seen.locked_by is not None:
        return "the initial copy is under way"
    return "the initial copy was interrupted; the next cycle goes on with it"
