"""State, health and reasons as functions of what was seen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from replicad.model.health import Health, Observation, State, judge
from replicad.model.points import Consistency

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("lag_s", "health", "reason"),
    [
        (300, Health.NORMAL, None), (301, Health.WARNING, "5 min 1 s old, and the objective is 5 min"),
        (1200, Health.WARNING, "20 min old"), (1201, Health.CRITICAL, "more than 4 times the objective"),
    ],
)  # fmt: skip
def test_health_follows_the_lag_behind_the_objective(lag_s: int, health: Health, reason: str | None) -> None:
    standing = judge(Observation(ago(lag_s), Consistency.COLD), 300, NOW)
    assert (standing.state, standing.health, standing.lag_s) == (State.REPLICATING, health, lag_s)
    assert reason is None or reason in standing.reasons[0]
    assert (reason is None) == (standing.reasons == ())


def test_without_an_objective_no_lag_is_too_long() -> None:
    assert judge(Observation(ago(1e9), Consistency.COLD), None, NOW).health is Health.NORMAL


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (Observation(), "no recovery point yet"), (Observation(pending=1), "was interrupted"),
        (Observation(pending=1, locked_by="host a"), "under way"),
    ],
)  # fmt: skip
def test_before_the_first_point_health_is_a_warning(seen: Observation, reason: str) -> None:
    standing = judge(seen, 300, NOW)
    assert (standing.state, standing.health, standing.lag_s) == (State.INITIAL, Health.WARNING, None)
    assert reason in standing.reasons[0]


def test_an_interrupted_cycle_is_a_warning_and_a_running_one_is_not() -> None:
    assert judge(Observation(ago(5), Consistency.COLD, pending=8), 300, NOW).health is Health.WARNING
    assert judge(Observation(ago(5), Consistency.COLD, pending=8, locked_by="me"), 300, NOW).reasons == ()


def test_a_fuzzy_point_is_told() -> None:
    assert "fuzzy" in judge(Observation(ago(5), Consistency.FUZZY), 300, NOW).reasons[0]


def test_what_can_not_be_seen_is_critical_with_its_error() -> None:
    standing = judge(Observation(error="cannot reach nas1: it is gone"), 300, NOW)
    assert (standing.state, standing.health) == (State.ERROR, Health.CRITICAL)
    assert standing.reasons == ("cannot reach nas1: it is gone",)


def test_a_clock_that_runs_behind_gives_no_negative_lag() -> None:
    assert judge(Observation(ago(-60), Consistency.COLD), 300, NOW).lag_s == 0
