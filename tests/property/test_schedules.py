"""Due times against a definition that only counts: of the grid, of cron expressions, and of retries."""

from __future__ import annotations

import unicodedata
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replicad.model.schedule import (
    MOST_COUNTED,
    Every,
    OnRequest,
    Schedule,
    due_times_between,
    next_due,
    phase_s,
    retry_at,
    retry_pause_s,
)
from replicad.service.cron_schedule import CronSchedule
from replicad.settings.cron import parse_cron
from replicad.settings.problems import WrongError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SEOUL, BERLIN = ZoneInfo("Asia/Seoul"), ZoneInfo("Europe/Berlin")
NAMES = ("web01", "한글 서버", "🖥 메일", "Ä")
intervals = st.sampled_from([1, 30, 300, 3_600, 86_400, 7 * 86_400]) | st.integers(1, 3_660 * 86_400)
moments = st.datetimes(datetime(1960, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - of strategies


@given(st.sampled_from(NAMES) | st.text(st.characters(codec="utf-8"), max_size=30), intervals, moments)
def test_the_next_due_time_is_the_first_of_the_grid_after_the_moment(vm: str, every_s: int, moment: datetime) -> None:
    phase = phase_s(vm, every_s)
    assert 0 <= phase < every_s
    assert phase * 1000 == pytest.approx(round(phase * 1000), abs=1e-3)
    every = timedelta(seconds=every_s)
    due = next_due(every_s, phase, moment)
    assert timedelta(0) < due - moment <= every
    assert due.tzinfo is UTC
    assert (due - EPOCH - timedelta(seconds=phase)) % every == timedelta(0)
    assert next_due(every_s, phase, due) == due + every
    assert next_due(every_s, phase, due - timedelta(microseconds=1)) == due


@given(intervals, st.floats(0, 1, exclude_max=True), moments, st.integers(0, 200), st.timedeltas(timedelta(0)))
def test_due_times_are_counted_as_if_one_by_one(
    every_s: int, part: float, since: datetime, steps: int, rest: timedelta
) -> None:
    phase = part * every_s
    until, count = since, 0
    for _ in range(steps):
        until = next_due(every_s, phase, until)
        count += 1
        if until.year > 2400:
            break
    until += rest % (next_due(every_s, phase, until) - until)
    assert due_times_between(every_s, phase, since, until) == count
    assert due_times_between(every_s, phase, until, since) == 0
    assert Every(every_s, phase).count_between(since, until) == count


@given(intervals, moments, moments, moments)
def test_counting_in_two_stretches_adds_up(every_s: int, first: datetime, second: datetime, third: datetime) -> None:
    one, two, three = sorted([first, second, third])
    phase = phase_s("한글 서버", every_s)
    parts = due_times_between(every_s, phase, one, two) + due_times_between(every_s, phase, two, three)
    assert due_times_between(every_s, phase, one, three) == parts


def test_a_name_keeps_its_place_for_ever_however_it_is_typed() -> None:
    assert [phase_s(vm, 300) for vm in NAMES] == [241.873, 17.151, 3.719, 261.759]
    for vm in NAMES:
        for form in ("NFC", "NFD"):
            assert phase_s(unicodedata.normalize(form, vm).upper(), 300) == phase_s(vm, 300)


def test_places_are_even_over_names() -> None:
    counts = Counter(int(phase_s(f"가상 머신 {n:03}", 300) // 10) for n in range(3_000))
    assert len(counts) == 30
    assert all(60 <= count <= 140 for count in counts.values()), counts  # 100 each, give or take 4 deviations


def test_two_hundred_machines_start_one_after_another() -> None:
    starts = sorted(phase_s(f"vm{n}", 300) for n in range(200))
    busiest = max(sum(1 for other in starts if 0 <= other - one < 10) for one in starts)
    assert busiest <= 20, "about 7 are due in any 10 seconds"


def test_the_grid_does_not_know_of_daylight_saving() -> None:
    schedule = Every(3_600, 1_800)
    moment = datetime(2026, 10, 25, 0, 0, tzinfo=BERLIN)  # a day of 25 hours
    assert schedule.count_between(moment, moment + timedelta(days=1)) == 25
    assert schedule.next_after(datetime(2026, 3, 29, 3, 0, tzinfo=BERLIN)) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert schedule.next_after(moment.astimezone(SEOUL)) == schedule.next_after(moment)


def test_long_sleeps_are_counted_to_a_bound_at_once() -> None:
    since = datetime(2026, 1, 1, tzinfo=UTC)
    assert due_times_between(1, 0, since, since + timedelta(days=36_500)) == 36_500 * 86_400
    assert Every(1).count_between(since, since + timedelta(days=36_500)) == MOST_COUNTED


def test_without_a_schedule_nothing_is_ever_due() -> None:
    schedule: Schedule = OnRequest()
    assert schedule.next_after(EPOCH) is None
    assert schedule.count_between(EPOCH, datetime(2200, 1, 1, tzinfo=UTC)) == 0


def cron(text: str) -> CronSchedule:
    return CronSchedule(parse_cron(text))


DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@st.composite
def fields(draw: st.DrawFn, low: int, high: int, names: tuple[str, ...] = ()) -> tuple[str, frozenset[int]]:
    """A field of a cron expression, and what it stands for."""
    parts, members = [], set()
    for _ in range(draw(st.integers(1, 2))):
        first = draw(st.integers(low, high))
        last = draw(st.integers(first, high))
        step = draw(st.integers(1, 5))
        shape = draw(st.sampled_from(["*", "*/n", "a", "a-b", "a-b/n"]))
        one, other = (names[n - low] if names else str(n) for n in (first, last))
        parts.append(shape.replace("n", str(step)).replace("a", one, 1) if "b" not in shape else "")
        if "b" in shape:
            parts[-1] = f"{one}-{other}" + (f"/{step}" if shape.endswith("n") else "")
        elif shape == "a":
            parts[-1] = one
        start, end = (low, high) if "*" in shape else (first, first if shape == "a" else last)
        members |= set(range(start, end + 1, step if "n" in shape else 1))
    return ",".join(parts), frozenset(members)


@given(
    fields(0, 59), fields(0, 23), fields(1, 31), fields(1, 12, MONTHS), fields(0, 6, DAYS),
    st.datetimes(datetime(2023, 12, 1), datetime(2024, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001 - of strategies
)  # fmt: skip
def test_cron_finds_the_first_minute_that_matches_all_fields(
    minute: tuple[str, frozenset[int]],
    hour: tuple[str, frozenset[int]],
    day: tuple[str, frozenset[int]],
    month: tuple[str, frozenset[int]],
    weekday: tuple[str, frozenset[int]],
    moment: datetime,
) -> None:
    text = " ".join(one[0] for one in (minute, hour, day, month, weekday))
    try:
        schedule = cron(text)
    except WrongError:
        return  # a date that never comes
    found = schedule.next_after(moment)
    assert found is not None
    assert found > moment
    today = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    while True:
        if today.day in day[1] and today.month in month[1] and today.weekday() in weekday[1]:
            times = [today + timedelta(hours=h, minutes=m) for h in sorted(hour[1]) for m in sorted(minute[1])]
            if wanted := next((time for time in times if time > moment), None):
                break
        today += timedelta(days=1)
    assert found == wanted
    assert schedule.count_between(moment, found) == 1
    assert schedule.count_between(found, moment) == 0


@pytest.mark.parametrize(
    ("text", "after", "due"),
    [
        ("0 22 * * mon-fri", "2026-11-20T22:00", "2026-11-23T22:00"),
        ("0 22 * * mon-fri", "2026-11-20T21:59", "2026-11-20T22:00"),
        ("30 2 * * *", "2026-03-29T00:00", "2026-03-29T02:30"),  # an hour that Berlin does not have
        ("30 1 * * *", "2026-10-25T01:30", "2026-10-26T01:30"),  # one that it has twice
        ("0 0 29 feb *", "2026-01-01T00:00", "2028-02-29T00:00"),
        ("0 0 29 2 *", "2096-03-01T00:00", "2104-02-29T00:00"),  # 2100 has none
        ("0 0 29 2 mon", "2026-01-01T00:00", "2044-02-29T00:00"),
        ("0 0 * * mon-sun/3", "2026-11-23T00:00", "2026-11-26T00:00"),
        ("0 0 1-5/9 * *", "2026-01-01T00:00", "2026-02-01T00:00"),
        ("*/99 0 1 * *", "2026-01-01T00:00", "2026-02-01T00:00"),
        ("0 0 1 jan-dec/6 *", "2026-01-01T00:00", "2026-07-01T00:00"),
    ],
)
def test_cron_at_dates_that_are_easily_missed(text: str, after: str, due: str) -> None:
    moment = datetime.fromisoformat(after).replace(tzinfo=UTC)
    assert cron(text).next_after(moment) == datetime.fromisoformat(due).replace(tzinfo=UTC)
    assert cron(text).next_after(moment.astimezone(BERLIN)) == datetime.fromisoformat(due).replace(tzinfo=UTC)


def test_cron_counts_a_year_and_stops_at_a_bound() -> None:
    since = datetime(2028, 1, 1, tzinfo=UTC) - timedelta(seconds=1)
    until = datetime(2029, 1, 1, tzinfo=UTC) - timedelta(seconds=1)
    assert cron("0 12 * * *").count_between(since, until) == 366
    assert cron("* * * * *").count_between(since, since + timedelta(minutes=90)) == 90
    assert cron("* * * * *").count_between(since, until) == MOST_COUNTED


def test_cron_has_no_due_time_beyond_the_calendar() -> None:
    assert cron("0 0 31 12 *").next_after(datetime(9999, 12, 31, 12, tzinfo=UTC)) is None


def test_pauses_between_retries_double_up_to_half_an_hour() -> None:
    assert [retry_pause_s(n) // 60 for n in range(1, 9)] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert retry_pause_s(10**9) == 1_800
    with pytest.raises(ValueError, match="0 failures"):
        retry_pause_s(0)


@given(st.integers(1, 10**6), moments, st.none() | moments)
@example(1, EPOCH, EPOCH - timedelta(days=1))
def test_a_retry_never_comes_after_the_next_due_time(failures: int, now: datetime, due: datetime | None) -> None:
    when = retry_at(failures, now, due)
    assert due is None or when <= due
    assert when <= now + timedelta(seconds=retry_pause_s(failures))
    assert when in (due, now + timedelta(seconds=retry_pause_s(failures)))


def test_pauses_never_shrink() -> None:
    assert all(one <= other for one, other in pairwise(retry_pause_s(n) for n in range(1, 100)))
