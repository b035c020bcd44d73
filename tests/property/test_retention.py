"""Which recovery points are kept: what must hold for any points and any rule, and what the rules mean."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from replicad.model.retention import Keep, PointFacts, Run, judge, runs_to_remove

START = datetime(2026, 1, 1, tzinfo=UTC)


def _points(gaps: list[tuple[int, bool]]) -> list[PointFacts]:
    """Points by the minutes since the one before, which are below 0 where the clock was put back."""
    points, time = [], START
    for number, (minutes, pinned) in enumerate(gaps, start=1):
        time += timedelta(minutes=minutes)
        points.append(PointFacts(number * 2, time, pinned))
    return points


gaps = st.lists(
    st.tuples(st.one_of(st.integers(1, 90), st.integers(-3000, 60_000)), st.sampled_from([False] * 5 + [True])),
    min_size=1, max_size=40,
)  # fmt: skip
points = gaps.map(_points)
counts = st.integers(0, 6)
keeps = st.builds(Keep, counts, counts, counts, counts, counts)


def _kept(points: list[PointFacts], keep: Keep | None) -> list[PointFacts]:
    return [p for p, verdict in zip(points, judge(points, keep), strict=True) if verdict.is_kept]


@given(points, keeps)
def test_judging_what_is_left_removes_nothing_more_and_says_the_same(points: list[PointFacts], keep: Keep) -> None:
    left = _kept(points, keep)
    assert _kept(left, keep) == left
    words = {v.number: v.kept_by for v in judge(points, keep) if v.is_kept}
    assert {v.number: v.kept_by for v in judge(left, keep)} == words


@given(points, keeps, st.sampled_from([f.name for f in fields(Keep)]))
def test_a_larger_number_keeps_no_point_less(points: list[PointFacts], keep: Keep, rule: str) -> None:
    before = keep if not keep.keeps_all() else Keep(1, 0, 0, 0, 0)
    more = replace(before, **{rule: getattr(before, rule) + 1})
    assert set(_kept(points, before)) <= set(_kept(points, more))


@given(points, keeps)
def test_the_newest_and_the_pinned_points_stay_whatever_the_clock_did(points: list[PointFacts], keep: Keep) -> None:
    kept = set(_kept(points, keep))
    assert points[-1] in kept
    assert {p for p in points if p.pinned} <= kept


@given(points, keeps)
def test_every_verdict_tells_either_what_keeps_a_point_or_why_it_goes(points: list[PointFacts], keep: Keep) -> None:
    for verdict in judge(points, keep):
        assert bool(verdict.kept_by) != bool(verdict.why_removed)


@given(points, keeps)
def test_no_more_points_stay_than_the_rules_and_the_pins_ask_for(points: list[PointFacts], keep: Keep) -> None:
    if not keep.keeps_all():
        most = sum((keep.latest, keep.hourly, keep.daily, keep.weekly, keep.monthly)) + sum(p.pinned for p in points)
        assert len(_kept(points, keep)) <= most + 1


@given(points)
def test_without_a_rule_every_point_stays(points: list[PointFacts]) -> None:
    assert _kept(points, None) == _kept(points, Keep(0, 0, 0, 0, 0)) == points


@given(points, keeps)
def test_runs_are_all_that_goes_between_neighbours_that_stay(points: list[PointFacts], keep: Keep) -> None:
    verdicts = judge(points, keep)
    stay = [v.number for v in verdicts if v.is_kept]
    runs = runs_to_remove(verdicts)
    assert sorted(n for run in runs for n in run.removed) == [v.number for v in verdicts if not v.is_kept]
    for run in runs:
        neighbours = [None, *stay]
        assert neighbours[neighbours.index(run.newer) - 1] == run.older
        assert (run.older or 0) < run.removed[0]
        assert run.removed[-1] < run.newer


def _every(minutes: int, count: int) -> list[PointFacts]:
    return [PointFacts(n + 1, START + timedelta(minutes=minutes * n), False) for n in range(count)]


def _words(points: list[PointFacts], keep: Keep) -> dict[int, tuple[str, ...]]:
    return {v.number: v.kept_by for v in judge(points, keep) if v.is_kept}


def test_the_newest_point_of_each_hour_stays() -> None:
    found = _words(_every(20, 12), Keep(1, 3, 0, 0, 0))
    assert found == {
        6: ("hourly 2026-01-01 01:00",), 9: ("hourly 2026-01-01 02:00",), 12: ("latest", "hourly 2026-01-01 03:00"),
    }  # fmt: skip


def test_hours_without_a_point_don_t_count() -> None:
    assert list(_words(_every(24 * 60, 9), Keep(1, 3, 0, 0, 0))) == [7, 8, 9]


def test_weeks_are_those_of_iso_and_begin_on_monday() -> None:
    # 2026-01-01 is a Thursday of the first week, the 12th a Monday.
    found = _words(_every(24 * 60, 12), Keep(1, 0, 0, 2, 2))
    assert found == {11: ("weekly 2026-W02",), 12: ("latest", "weekly 2026-W03", "monthly 2026-01")}


def test_times_of_other_zones_count_by_their_hour_in_utc() -> None:
    seoul = timezone(timedelta(hours=9))
    points = [
        PointFacts(1, datetime(2026, 3, 1, 8, 59, tzinfo=seoul), False),
        PointFacts(2, datetime(2026, 3, 1, 9, 0, tzinfo=seoul), False),
    ]
    assert _words(points, Keep(1, 0, 2, 0, 2)) == {
        1: ("daily 2026-02-28", "monthly 2026-02"), 2: ("latest", "daily 2026-03-01", "monthly 2026-03"),
    }  # fmt: skip


def test_a_clock_that_was_put_back_makes_no_new_point_an_old_one() -> None:
    points = [*_every(60, 5), PointFacts(6, START - timedelta(days=400), False)]
    assert 6 in _words(points, Keep(0, 2, 0, 0, 0))
    assert _words(points, Keep(0, 2, 0, 0, 0))[6] == ("hourly 2024-11-27 00:00",)


def test_the_reason_names_the_point_that_stands_for_one_that_goes() -> None:
    verdicts = judge(_every(20, 4), Keep(1, 2, 0, 0, 0))
    assert [v.why_removed for v in verdicts[:2]] == [
        "it is not one of the latest 1; point 3 is the newest of its hour"
    ] * 2
    assert judge(_every(60, 4), Keep(1, 2, 0, 0, 0))[0].why_removed == (
        "it is not one of the latest 1; its hour is not one of the newest 2 with a point"
    )


def test_runs_tell_the_neighbours_that_stay() -> None:
    verdicts = judge(_every(20, 9), Keep(1, 2, 0, 0, 0))
    assert runs_to_remove(verdicts) == (Run(None, (1, 2, 3, 4, 5), 6), Run(6, (7, 8), 9))
