"""Statistics of runs: sums that add up however the time is cut, and the objective against a second-by-second count."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.catalog import runs as table
from replicad.catalog.figures import statistics
from replicad.catalog.schema import migrate, transaction
from replicad.model.runs import Outcome, Run, Trigger
from replicad.model.statistics import Statistics, summarise

START = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
VM = "한글 서버 🖥"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def run(
    begin_s: int, end_s: int | None, outcome: Outcome | None = Outcome.DONE, *, missed: int = 0, sent: int = 0
) -> Run:
    ended = None if end_s is None else at(end_s)
    return Run(
        VM, Trigger.SCHEDULE, at(begin_s), at(begin_s), missed, ended, outcome if ended else None, sent_bytes=sent
    )  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> list[Run]:
    """Cycles one after another, in any order of the list; the clock may have been set back in the middle of one."""
    runs, now_s = [], draw(st.integers(-500, 100))
    for _ in range(draw(st.integers(0, 8))):
        begin_s = now_s + draw(st.integers(0, 200))
        now_s = begin_s + draw(st.integers(0, 200) | st.integers(-50, 0))
        outcome = draw(st.sampled_from(Outcome))
        missed, sent = draw(st.integers(0, 3)), draw(st.integers(0, 10**12))
        runs.append(run(begin_s, now_s, outcome, missed=missed, sent=sent))
    if draw(st.booleans()):
        runs.append(run(now_s, None))
    return draw(st.permutations(runs))


objectives = st.none() | st.integers(1, 400)
cuts = st.lists(st.integers(-600, 2_000), min_size=3, max_size=3).map(sorted)


@given(histories(), objectives, cuts)
def test_two_stretches_add_up_to_the_whole(runs: list[Run], rpo_s: int | None, cut: list[int]) -> None:
    first, second, third = (at(s) for s in cut)
    parts = summarise(runs, rpo_s, first, second) + summarise(runs, rpo_s, second, third)
    assert parts == summarise(runs, rpo_s, first, third)


@given(histories(), objectives, cuts)
def test_shares_and_averages_stay_in_their_bounds(runs: list[Run], rpo_s: int | None, cut: list[int]) -> None:
    found = summarise(runs, rpo_s, at(cut[0]), at(cut[2]))
    assert found.wanted == found.done + found.failed + found.interrupted + found.missed
    percent = found.rpo_kept_percent
    assert percent is None or (rpo_s is not None and 0 <= percent <= 100)
    averages = (found.average_sent_bytes, found.average_duration_s, found.longest_duration_s)
    if not found.done:
        assert averages == (None, None, None)
        return
    size, duration_s, longest_s = averages
    assert size is not None
    assert 0 <= size <= found.largest_sent_bytes
    assert duration_s is not None
    assert longest_s is not None
    assert 0 <= duration_s <= longest_s + 1e-6


@given(histories(), st.integers(1, 400), cuts)
def test_the_objective_is_kept_in_the_seconds_in_which_the_latest_point_is_young_enough(
    runs: list[Run], rpo_s: int, cut: list[int]
) -> None:
    found = summarise(runs, rpo_s, at(cut[0]), at(cut[2]))
    first = min((r.started_at for r in runs), default=None)
    judged = kept = 0
    for second in range(cut[0], cut[2]):
        now = at(second)
        if first is None or now < first:
            continue
        judged += 1
        committed = [
            (r.ended_at, r.started_at) for r in runs if r.outcome is Outcome.DONE and r.ended_at and r.ended_at <= now
        ]
        kept += bool(committed) and now < max(committed)[1] + timedelta(seconds=rpo_s)
    assert (found.judged, found.kept) == (timedelta(seconds=judged), timedelta(seconds=kept))


@given(histories(), histories(), objectives, cuts)
def test_the_catalog_counts_as_the_model_does(
    mine: list[Run], others: list[Run], rpo_s: int | None, cut: list[int]
) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    since, until = at(cut[0]), at(cut[2])
    with transaction(connection):
        for one in (*mine, *(replace(one, vm="다른 기계") for one in others)):
            table.begin(connection, one)
    known = [one for one in mine if one.started_at >= since - (until - since)]
    assert statistics(connection, VM, rpo_s, since, until) == summarise(known, rpo_s, since, until)
    connection.close()


def test_a_day_with_a_gap_is_told_as_it_was() -> None:
    """A cycle of 10 s every minute, but for the ten minutes in which none was possible."""
    minutes = [m for m in range(60) if not 20 <= m < 30]
    runs = [run(60 * m, 60 * m + 10, missed=10 if m == 30 else 0, sent=100 * (m + 1)) for m in minutes]
    runs += [run(20 * 60, 20 * 60 + 5, Outcome.FAILED), run(25 * 60, 26 * 60, Outcome.INTERRUPTED)]
    found = summarise(runs, 120, START, at(3_600))
    assert (found.done, found.failed, found.interrupted, found.missed) == (50, 1, 1, 10)
    assert (found.average_duration_s, found.longest_duration_s, found.largest_sent_bytes) == (10, 10, 6_000)
    assert found.average_sent_bytes == sum(100 * (m + 1) for m in minutes) / 50
    # No point in the first 10 s; that of 00:19 is too old from 00:21:00 on, and the next came at 00:30:10.
    assert found.kept == timedelta(seconds=3_600 - 10 - 550)
    assert found.rpo_kept_percent == pytest.approx(100 * 3_040 / 3_600)


def test_without_an_objective_or_a_cycle_nothing_is_judged() -> None:
    assert summarise([run(0, 10)], None, START, at(60)).rpo_kept_percent is None
    assert summarise([], 60, START, at(60)) == Statistics(START, at(60))
    assert summarise([run(100, 110)], 60, START, at(60)).rpo_kept_percent is None


def test_the_point_from_before_tells_how_old_the_latest_one_was() -> None:
    assert summarise([run(-30, -20)], 60, START, at(60)).rpo_kept_percent == 50
    assert summarise([run(-30, -20)], 60, START, at(60)).done == 0


def test_what_ends_or_begins_at_a_seam_belongs_to_the_stretch_before_it() -> None:
    runs = [run(-10, 0, missed=1), run(0, 60, missed=2), run(60, 70, missed=4)]
    found = summarise(runs, None, START, at(60))
    assert (found.done, found.missed) == (1, 4)
