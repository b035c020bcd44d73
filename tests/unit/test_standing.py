"""State, health and reasons of a VM that a daemon keeps, rule by rule and in all combinations."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from replicad.model.agenda import Agenda, LatestPoint, acknowledged
from replicad.model.errors import (
    AccessDeniedError,
    ConflictError,
    DivergedError,
    FormatVersionError,
    IntegrityError,
    LockedError,
    NeedsResyncError,
    OtherMachineError,
    OutOfSpaceError,
    ReplicadError,
    SignInError,
    StaleGenerationError,
    UnreachableError,
)
from replicad.model.health import CRITICAL_AT_FAILURES, Circumstances, Health, Observation, State, judge, standing
from replicad.model.points import Consistency
from replicad.model.runs import Run, Severity, Trigger, failure_of, severity_of
from replicad.model.statistics import Statistics
from replicad.model.tracking_words import TrackerMistake
from replicad.model.verification import VerificationOutcome, VerificationPlan, VerificationResult

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
VM = "한글 서버 🖥"
IDLE = Circumstances()
RUNNING = Circumstances(running=Run(VM, Trigger.SCHEDULE, NOW, NOW))
RESYNCHRONISING = replace(RUNNING, resynchronising=True)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def agenda(lag_s: float | None = 0, error: ReplicadError | None = None, failures: int | None = None) -> Agenda:
    latest = None if lag_s is None else LatestPoint(7, ago(lag_s), Consistency.COLD)
    if error is None:
        return Agenda(VM, due_at=ago(-240), latest=latest)
    is_transient = severity_of(error) is Severity.TRANSIENT
    return Agenda(
        VM, due_at=ago(-240), retry_at=ago(-60) if is_transient else None, latest=latest,
        failures=(failures or 1) if is_transient else 0, failure=failure_of(error, ago(1)),
    )  # fmt: skip


def unreachable() -> ReplicadError:
    return UnreachableError("connect to", "nas1", "it is gone")


ERRORS: list[tuple[type[ReplicadError], State, Health, str]] = [
    (UnreachableError, State.REPLICATING, Health.WARNING, "the last cycle failed, and the next one is due in 1 min: "),
    (LockedError, State.REPLICATING, Health.WARNING, "another writer holds the replica, and the next one is "),
    (AccessDeniedError, State.ERROR, Health.CRITICAL, "the last cycle failed, and the next one is due in 4 min: "),
    (OutOfSpaceError, State.ERROR, Health.CRITICAL, "the last cycle failed, and the next one is due in 4 min: "),
    (SignInError, State.ERROR, Health.CRITICAL, "nothing is sent until somebody has seen to this: "),
    (IntegrityError, State.ERROR, Health.CRITICAL, "nothing is sent until somebody has seen to this: "),
    (FormatVersionError, State.ERROR, Health.CRITICAL, "nothing is sent until somebody has seen to this: "),
    (StaleGenerationError, State.ERROR, Health.CRITICAL, "nothing is sent until somebody has seen to this: "),
    (ConflictError, State.ERROR, Health.CRITICAL, "nothing is sent until somebody has seen to this: "),
    (DivergedError, State.RESYNC_REQUIRED, Health.CRITICAL, "a resynchronisation is required; nothing is sent "),
    (OtherMachineError, State.ERROR, Health.CRITICAL, "nothing is sent until somebody has seen to this: "),
    (NeedsResyncError, State.RESYNC_REQUIRED, Health.CRITICAL, "a resynchronisation is required; nothing is sent "),
]  # fmt: skip


@pytest.mark.parametrize(("error", "state", "health", "begin"), ERRORS)
def test_each_error_has_its_state_its_health_and_its_own_sentence(
    error: type[ReplicadError], state: State, health: Health, begin: str
) -> None:
    wrong = error("write", "web.vhdx", "the answer was no", "Do this.")
    found = standing(agenda(error=wrong), IDLE, 300, NOW)
    assert (found.state, found.health) == (state, health)
    [reason] = found.reasons
    assert reason.startswith(begin)
    then = {
        "nothing": f" When that is done: 'replicad resume {VM}'.",
        "a resynchronisation": f" 'replicad sync {VM} --resync' asks for it.",
    }
    end = next((text for start, text in then.items() if begin.startswith(start)), "")
    assert reason.endswith(f": cannot write web.vhdx: the answer was no. Do this.{end}")


def test_a_vm_that_is_up_to_date_is_normal_and_says_nothing() -> None:
    for around in (IDLE, RUNNING, replace(IDLE, statistics=Statistics(ago(60), NOW, done=3))):
        found = standing(agenda(300), around, 300, NOW)
        assert (found.state, found.health, found.reasons, found.lag_s) == (State.REPLICATING, Health.NORMAL, (), 300)


@pytest.mark.parametrize(
    ("failures", "lag_s", "rpo_s", "health"),
    [
        (1, 300, 300, Health.WARNING), (3, 1_200, 300, Health.WARNING), (3, 1_201, 300, Health.CRITICAL),
        (CRITICAL_AT_FAILURES, 1_200, 300, Health.WARNING), (CRITICAL_AT_FAILURES - 1, None, 300, Health.WARNING),
        (CRITICAL_AT_FAILURES, None, 300, Health.CRITICAL), (CRITICAL_AT_FAILURES, 10**6, None, Health.CRITICAL),
        (CRITICAL_AT_FAILURES - 1, 10**6, None, Health.WARNING),
    ],
)  # fmt: skip
def test_failures_that_pass_are_critical_once_the_replica_is_far_behind(
    failures: int, lag_s: int | None, rpo_s: int | None, health: Health
) -> None:
    found = standing(agenda(lag_s, unreachable(), failures), IDLE, rpo_s, NOW)
    assert found.health is health
    assert any(("the last cycle" if failures == 1 else f"the last {failures} cycles") in r for r in found.reasons)


FAILED = agenda(0, unreachable())


@pytest.mark.parametrize(
    ("failed", "around", "text"),
    [
        (FAILED, RUNNING, "another one is under way"),
        (replace(FAILED, requested_at=NOW, paused_at=NOW), IDLE, "the next one is due now"),
        (replace(FAILED, paused_at=NOW), IDLE, "the next one waits for the end of the pause"),
        (replace(FAILED, retry_at=NOW), IDLE, "the next one is due now"),
        (replace(FAILED, retry_at=None), IDLE, "the next one is due in 4 min"),
        (replace(FAILED, retry_at=ago(-3_700)), IDLE, "the next one is due in 4 min"),
        (replace(FAILED, retry_at=None, due_at=None), IDLE, "the next one begins when it is asked for"),
    ],
)
def test_a_failure_says_when_the_next_cycle_comes(failed: Agenda, around: Circumstances, text: str) -> None:
    assert any(f"failed, and {text}: " in reason for reason in standing(failed, around, 300, NOW).reasons)


@pytest.mark.parametrize(("missed", "is_told"), [(0, False), (2, False), (3, True), (8, True)])
def test_more_than_a_fifth_of_cycles_missed_is_a_warning(missed: int, is_told: bool) -> None:
    statistics = Statistics(ago(86_400), NOW, done=8, missed=missed, duration=timedelta(minutes=56))
    found = standing(agenda(), replace(IDLE, statistics=statistics), 300, NOW)
    text = f"{missed} of {8 + missed} cycles in the last 1 day were missed; one takes 7 min"
    assert (found.health, found.reasons) == ((Health.WARNING, (text,)) if is_told else (Health.NORMAL, ()))


def test_a_pause_is_a_warning_and_tells_since_when() -> None:
    found = standing(replace(agenda(), paused_at=ago(3 * 86_400 + 7_200)), IDLE, 300, NOW)
    assert (found.state, found.health) == (State.PAUSED, Health.WARNING)
    assert found.reasons == ("replication has been paused for 3 days 2 h; 'replicad resume' ends that",)


def test_a_tracker_that_was_wrong_is_a_warning_until_it_is_acknowledged() -> None:
    wrong = replace(agenda(), mistake=TrackerMistake(7, ago(7_200), "웹.vhdx: extents was wrong"))
    found = standing(wrong, IDLE, 300, NOW)
    assert (found.state, found.health) == (State.REPLICATING, Health.WARNING)
    assert found.reasons == (
        "a tracker of changes was found wrong 2 h ago: 웹.vhdx: extents was wrong; point 7 is right, and those before "
        f"it may lack changes; 'replicad acknowledge {wrong.vm}' says that you know",
    )
    assert standing(acknowledged(wrong), IDLE, 300, NOW).health is Health.NORMAL
    seen = judge(Observation(ago(10), Consistency.CRASH, mistakes=("웹.vhdx: extents was wrong",)), 300, NOW)
    assert seen.reasons == ("a tracker of changes was found wrong: 웹.vhdx: extents was wrong",)


def test_the_initial_copy_is_unfinished_until_there_is_a_point() -> None:
    for around, text in (
        (IDLE, "no recovery point yet"), (RUNNING, "under way"), (replace(IDLE, interrupted=True), "interrupted"),
    ):  # fmt: skip
        found = standing(agenda(None), around, 300, NOW)
        assert (found.state, found.health, found.lag_s) == (State.INITIAL, Health.WARNING, None)
        assert text in found.reasons[0]


def test_a_disabled_vm_is_nobodys_worry() -> None:
    found = standing(agenda(10**6, unreachable()), replace(IDLE, enabled=False), 300, NOW)
    assert (found.state, found.health, found.reasons, found.lag_s) == (State.DISABLED, Health.NORMAL, (), 10**6)


def test_an_attempt_does_not_end_an_error_and_a_resynchronisation_under_way_shows() -> None:
    for error in (AccessDeniedError, SignInError):
        found = standing(agenda(0, error("open", "a", "no")), RUNNING, 300, NOW)
        assert (found.state, found.health) == (State.ERROR, Health.CRITICAL)
        assert "another one is under way" in found.reasons[0]
    found = standing(agenda(0, NeedsResyncError("open", "a", "no")), RESYNCHRONISING, 300, NOW)
    assert (found.state, found.health) == (State.RESYNCHRONISING, Health.CRITICAL)
    assert found.reasons == ("a resynchronisation is required: cannot open a: no",)


def test_the_worst_reason_comes_first_and_each_is_told() -> None:
    wrong = replace(agenda(1_500, unreachable(), 3), paused_at=ago(60))
    found = standing(wrong, replace(IDLE, interrupted=True, pending=8, damaged=("a copy was used",)), 300, NOW)
    assert found.health is Health.CRITICAL
    assert found.reasons == (
        "the latest point is 25 min old, more than 4 times the objective of 5 min",
        "the last 3 cycles failed, and the next one waits for the end of the pause: cannot connect to nas1: it is gone",
        "replication has been paused for 1 min; 'replicad resume' ends that",
        "the cycle of point 8 was interrupted; the next one goes on with it",
        "a copy was used",
    )


def test_what_the_replica_shows_is_told_alike_with_and_without_a_daemon() -> None:
    for lag_s, consistency, rpo_s, pending, is_running, damaged in product(
        (None, 0, 301, 1_201), Consistency, (None, 300), (None, 8), (False, True), ((), ("a copy was used",))
    ):
        seen = Observation(
            None if lag_s is None else ago(lag_s), None if lag_s is None else consistency, pending,
            "here" if is_running else None, damaged=damaged,
        )  # fmt: skip
        around = Circumstances(
            running=RUNNING.running if is_running else None, interrupted=pending is not None, pending=pending,
            damaged=damaged,
        )  # fmt: skip
        latest = None if lag_s is None else LatestPoint(7, ago(lag_s), consistency)
        if lag_s is None and is_running and pending is None:
            continue  # the lock is held before the cycle's directory is there: only the daemon knows what it is for
        assert standing(Agenda(VM, latest=latest), around, rpo_s, NOW) == judge(seen, rpo_s, NOW)


def test_every_combination_has_a_state_that_fits_and_reasons_unless_it_is_normal() -> None:
    errors = [None, *(e("open", "a", "no") for e, *_ in ERRORS)]
    arounds = [IDLE, RUNNING, RESYNCHRONISING, replace(IDLE, enabled=False), replace(IDLE, interrupted=True)]
    seen = set()
    for lag_s, error, around, is_paused, rpo_s in product((None, 0, 301, 1_201), errors, arounds, (0, 1), (None, 300)):
        asked = replace(agenda(lag_s, error), paused_at=ago(5) if is_paused else None)
        found = standing(asked, around, rpo_s, NOW)
        seen.add(found.state)
        assert (found.health is Health.NORMAL) == (found.reasons == ())
        assert (found.state is State.DISABLED) == (not around.enabled)
        assert (found.state is State.RESYNCHRONISING) == around.resynchronising
        if found.state in (State.ERROR, State.RESYNC_REQUIRED):
            assert found.health is Health.CRITICAL
        elif found.state in (State.INITIAL, State.PAUSED):
            assert found.health is not Health.NORMAL
        assert error is None or not around.enabled or any(str(error) in reason for reason in found.reasons)
    assert seen == set(State) - {State.FAILOVER_PREPARED, State.FAILED_OVER, State.COMMITTED}


def test_damage_that_a_verification_found_is_critical_and_names_what_to_run() -> None:
    damage = VerificationResult(NOW, VerificationOutcome.DAMAGED, "web/disks/a.vhdx: chunk 3 differs", 1)
    failed = VerificationResult(NOW, VerificationOutcome.FAILED, "cannot read nas: it is gone")
    plan = VerificationPlan(VM, last=failed, damage=damage)
    found = standing(agenda(), Circumstances(verification=plan), None, NOW)
    assert (found.health, found.reasons) == (
        Health.CRITICAL,
        (
            "the replica is damaged: web/disks/a.vhdx: chunk 3 differs; "
            f"'replicad verify {VM} --repair' mends what can be mended",
            "the last verification of the replica failed: cannot read nas: it is gone",
        ),
    )
    sound = VerificationPlan(VM, last=VerificationResult(NOW, VerificationOutcome.CLEAN))
    assert standing(agenda(), Circumstances(verification=sound), None, NOW).health is Health.NORMAL


def test_verification_that_does_not_come_to_its_end_within_its_interval_is_a_warning() -> None:
    plan = VerificationPlan(VM, due_at=NOW - timedelta(days=8))
    late = standing(agenda(), Circumstances(verification=plan, verify_every_s=7 * 86400), None, NOW)
    assert (late.health, late.reasons) == (
        Health.WARNING,
        ("a verification of the replica, wanted every 7 days, has been due for 8 days and has not come to its end",),
    )
    in_time = standing(agenda(), Circumstances(verification=plan, verify_every_s=9 * 86400), None, NOW)
    assert in_time.reasons == ()
