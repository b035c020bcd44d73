"""How a virtual machine's replication stands, and why. Pure.

`judge` tells it from what the replica shows, for whoever has nothing else; `standing` from what a daemon knows. What
both can see they tell by the same rules, in the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from .agenda import Agenda
from .durations import duration_in_words
from .errors import DivergedError, NeedsResyncError
from .points import Consistency
from .runs import Failure, Run, Severity
from .statistics import Statistics
from .verification import VerificationOutcome, VerificationPlan


class State(StrEnum):
    """Where a VM's replication is (DESIGN §8)."""

    DISABLED = "disabled"
    INITIAL = "initial"
    REPLICATING = "replicating"
    PAUSED = "paused"
    RESYNC_REQUIRED = "resync-required"
    RESYNCHRONISING = "resynchronising"
    FAILOVER_PREPARED = "failover-prepared"
    FAILED_OVER = "failed-over"
    COMMITTED = "committed"
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
    taken from their copies. `mistakes`: what the latest point tells of trackers that were found wrong."""

    point_time: datetime | None = None
    consistency: Consistency | None = None
    pending: int | None = None
    locked_by: str | None = None
    error: str | None = None
    damaged: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a daemon knows of a VM beside its agenda.

    `running` is the cycle under way, which believes nothing if it is `resynchronising`; `interrupted` says that the
    last one was, `pending` which point it was to make, where that is known. `statistics` are those of the latest
    while. `damaged` as in Observation. `verification` is what is known of those of the replica, which are to come every
    `verify_every_s`, if that is given.
    """

    enabled: bool = True
    running: Run | None = None
    resynchronising: bool = False
    interrupted: bool = False
    pending: int | None = None
    damaged: tuple[str, ...] = ()
    statistics: Statistics | None = None
    verification: VerificationPlan | None = None
    verify_every_s: int | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """The verdict; `reasons` say in words what keeps health from being normal, the worst first. `lag_s` is the latest
    point's age."""

    state: State
    health: Health
    reasons: tuple[str, ...]
    lag_s: int | None


CRITICAL_AT_RPO_TIMES = 4
MOST_MISSED_PERCENT = 20
CRITICAL_AT_FAILURES = 10
"""So many transient failures in a row are critical where no lag can tell: some 2½ hours."""

_LATE_S = 3_600
"""A verification takes its time."""

_Finding = tuple[Health, str]


def judge(seen: Observation, rpo_s: int | None, now: datetime) -> Standing:
    """State, health and the reasons for it. `rpo_s` is None where there is no objective."""
    lag_s = _lag_s(seen.point_time, now)
    if seen.error is not None:
        return _verdict(State.ERROR, [(Health.CRITICAL, seen.error)], lag_s)
    under_way = seen.locked_by is not None
    found = [
        *_about_lag(lag_s, rpo_s),
        *_about_cycle(
            is_first=lag_s is None, under_way=under_way and seen.pending is not None,
            interrupted=seen.pending is not None and not under_way, number=seen.pending,
        ),
        *_about_content(seen.consistency, seen.damaged),
        *((Health.WARNING, f"a tracker of changes was found wrong: {text}") for text in seen.mistakes),
    ]  # fmt: skip
    return _verdict(State.INITIAL if lag_s is None else State.REPLICATING, found, lag_s)


def standing(agenda: Agenda, around: Circumstances, rpo_s: int | None, now: datetime) -> Standing:
    """State, health and the reasons for it, of a VM that a daemon keeps. `rpo_s` is None where there is no objective.

    What is wrong stays so until a cycle is done: a mere attempt changes neither the state `error` nor health.
    """
    latest = agenda.latest
    lag_s = _lag_s(latest.time if latest else None, now)
    if not around.enabled:
        return _verdict(State.DISABLED, [], lag_s)
    found = [
        *_about_failure(agenda, around, rpo_s, now),
        *_about_lag(lag_s, rpo_s),
        *_about_pause(agenda.paused_at, now),
        *_about_cycle(
            is_first=latest is None, under_way=around.running is not None,
            interrupted=around.interrupted and around.running is None, number=around.pending,
        ),
        *_about_missed(around.statistics),
        *_about_content(latest.consistency if latest else None, around.damaged),
        *_about_verification(agenda.vm, around, now),
        *_about_mistake(agenda, now),
    ]  # fmt: skip
    return _verdict(_state(agenda, around), found, lag_s)


def _state(agenda: Agenda, around: Circumstances) -> State:
    """What is going on that changes things, else what keeps cycles from beginning, else how far it is."""
    failure = agenda.failure
    if around.running is not None and around.resynchronising:
        return State.RESYNCHRONISING
    if agenda.paused_at is not None:
        return State.PAUSED
    if failure is not None and _wants_resync(failure):
        return State.RESYNC_REQUIRED
    if failure is not None and failure.severity is not Severity.TRANSIENT:
        return State.ERROR
    return State.INITIAL if agenda.latest is None else State.REPLICATING


def _wants_resync(failure: Failure) -> bool:
    return failure.error in (DivergedError.__name__, NeedsResyncError.__name__)


def _verdict(state: State, found: list[_Finding], lag_s: int | None) -> Standing:
    ranks = list(Health)
    found = sorted(found, key=lambda one: -ranks.index(one[0]))
    return Standing(state, found[0][0] if found else Health.NORMAL, tuple(reason for _, reason in found), lag_s)


def _lag_s(point_time: datetime | None, now: datetime) -> int | None:
    return None if point_time is None else max(0, round((now - point_time).total_seconds()))


def _about_lag(lag_s: int | None, rpo_s: int | None) -> list[_Finding]:
    if lag_s is None or rpo_s is None or lag_s <= rpo_s:
        return []
    age, objective = duration_in_words(lag_s), duration_in_words(rpo_s)
    if lag_s > CRITICAL_AT_RPO_TIMES * rpo_s:
        text = f"the latest point is {age} old, more than {CRITICAL_AT_RPO_TIMES} times the objective of {objective}"
        return [(Health.CRITICAL, text)]
    return [(Health.WARNING, f"the latest point is {age} old, and the objective is {objective}")]


def _about_cycle(*, is_first: bool, under_way: bool, interrupted: bool, number: int | None) -> list[_Finding]:
    if not is_first:
        which = "the last cycle" if number is None else f"the cycle of point {number}"
        return [(Health.WARNING, f"{which} was interrupted; the next one goes on with it")] if interrupted else []
    if under_way:
        return [(Health.WARNING, "the initial copy is under way")]
    if interrupted:
        return [(Health.WARNING, "the initial copy was interrupted; the next cycle goes on with it")]
    return [(Health.WARNING, "there is no recovery point yet")]


def _about_content(consistency: Consistency | None, damaged: tuple[str, ...]) -> list[_Finding]:
    found = [(Health.WARNING, sentence) for sentence in damaged]
    if consistency is Consistency.FUZZY:
        found.insert(0, (Health.WARNING, "the latest point is fuzzy: it was read while somebody may have written"))
    return found


def _about_pause(paused_at: datetime | None, now: datetime) -> list[_Finding]:
    if paused_at is None:
        return []
    since = duration_in_words(max(0, (now - paused_at).total_seconds()))
    return [(Health.WARNING, f"replication has been paused for {since}; 'replicad resume' ends that")]


def _about_missed(statistics: Statistics | None) -> list[_Finding]:
    if statistics is None or 100 * statistics.missed <= MOST_MISSED_PERCENT * statistics.wanted:
        return []
    window = duration_in_words((statistics.until - statistics.since).total_seconds())
    which = f"{statistics.missed} of {statistics.wanted} cycles in the last {window} were missed"
    average_s = statistics.average_duration_s
    return [(Health.WARNING, which if average_s is None else f"{which}; one takes {duration_in_words(average_s)}")]


def _about_verification(vm: str, around: Circumstances, now: datetime) -> list[_Finding]:
    plan, found = around.verification, []
    if plan is None:
        return []
    if plan.damage is not None:
        mend = f"'replicad verify {vm} --repair' mends what can be mended"
        found.append((Health.CRITICAL, f"the replica is damaged: {plan.damage.text}; {mend}"))
    if plan.last is not None and plan.last.outcome is VerificationOutcome.FAILED:
        found.append((Health.WARNING, f"the last verification of the replica failed: {plan.last.text}"))
    every_s, due_at = around.verify_every_s, plan.due_at
    if every_s is not None and due_at is not None and (now - due_at).total_seconds() > max(every_s, _LATE_S):
        late, every = duration_in_words((now - due_at).total_seconds()), duration_in_words(every_s)
        text = (
            f"a verification of the replica, wanted every {every}, has been due for {late} and has not come to its end"
        )
        found.append((Health.WARNING, text))
    return found


def _about_mistake(agenda: Agenda, now: datetime) -> list[_Finding]:
    mistake = agenda.mistake
    if mistake is None:
        return []
    ago = duration_in_words(max(0, (now - mistake.at).total_seconds()))
    text = (
        f"a tracker of changes was found wrong {ago} ago: {mistake.text}; point {mistake.point} is right, and those "
        f"before it may lack changes; 'replicad acknowledge {agenda.vm}' says that you know"
    )
    return [(Health.WARNING, text)]


def _about_failure(agenda: Agenda, around: Circumstances, rpo_s: int | None, now: datetime) -> list[_Finding]:
    failure = agenda.failure
    if failure is None:
        return []
    if _wants_resync(failure):
        until = "" if around.running else "; nothing is sent until it is asked for"
        then = "" if around.running else f" 'replicad sync {agenda.vm} --resync' asks for it."
        return [(Health.CRITICAL, f"a resynchronisation is required{until}: {failure.text}{then}")]
    if failure.severity is Severity.FINAL and around.running is None:
        then = f"When that is done: 'replicad resume {agenda.vm}'."
        return [(Health.CRITICAL, f"nothing is sent until somebody has seen to this: {failure.text} {then}")]
    health = Health.CRITICAL
    if failure.severity is Severity.TRANSIENT:
        lag_tells = agenda.latest is not None and rpo_s is not None
        health = Health.CRITICAL if not lag_tells and agenda.failures >= CRITICAL_AT_FAILURES else Health.WARNING
    return [(health, f"{_what_failed(agenda, failure)}, and {_next_text(agenda, around, now)}: {failure.text}")]


def _what_failed(agenda: Agenda, failure: Failure) -> str:
    if failure.is_lock:
        return "another writer holds the replica"
    return f"the last {agenda.failures} cycles failed" if agenda.failures > 1 else "the last cycle failed"


def _next_text(agenda: Agenda, around: Circumstances, now: datetime) -> str:
    if around.running is not None:
        return "another one is under way"
    if agenda.requested_at is not None:
        return "the next one is due now"
    if agenda.paused_at is not None:
        return "the next one waits for the end of the pause"
    # There is no retry time after what no retry mends.
    times = [time for time in (agenda.retry_at, agenda.due_at) if time is not None]
    if not times:
        return "the next one begins when it is asked for"
    left_s = (min(times) - now).total_seconds()
    return f"the next one is due in {duration_in_words(left_s)}" if left_s >= 1 else "the next one is due now"
