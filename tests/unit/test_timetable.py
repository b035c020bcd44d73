"""What rate a timetable gives at which time: the meaning that rclone gives them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from replicad.model.timetable import Timetable, rate_at
from replicad.settings.timetable import parse_timetable

M = 1 << 20
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


def _rate(text: str, day: int, clock: str) -> int | None:
    """In MiB per second, on a day of the week (0 is Monday)."""
    hour, minute = map(int, clock.split(":"))
    rate = rate_at(parse_timetable(text), MONDAY + timedelta(days=day, hours=hour, minutes=minute, seconds=59))
    return rate // M if rate is not None else None


@pytest.mark.parametrize("clock", ["00:00", "12:34", "23:59"])
@pytest.mark.parametrize("day", range(7))
def test_one_rate_holds_at_all_times(day: int, clock: str) -> None:
    assert _rate("5M", day, clock) == 5
    assert _rate("off", day, clock) is None
    assert _rate("Wed-12:00,7M", day, clock) == 7


@pytest.mark.parametrize("day", range(7))
@pytest.mark.parametrize(
    ("clock", "rate"), [("00:00", None), ("07:59", None), ("08:00", 100), ("18:59", 100), ("19:00", None)]
)
def test_each_change_holds_until_the_next_and_the_last_one_into_the_next_day(
    day: int, clock: str, rate: int | None
) -> None:
    assert _rate("08:00,100M 19:00,off", day, clock) == rate
    assert _rate("19:00,off 08:00,100M", day, clock) == rate


@pytest.mark.parametrize(
    ("day", "clock", "rate"),
    [(0, "07:59", 3), (0, "08:00", 1), (2, "23:59", 1), (4, "18:59", 1), (4, "19:00", 3), (6, "12:00", 3)],
)
def test_the_last_change_of_the_week_holds_into_the_next_one(day: int, clock: str, rate: int) -> None:
    assert _rate("Mon-08:00,1M Fri-19:00,3M", day, clock) == rate


@pytest.mark.parametrize(
    ("day", "clock", "rate"),
    [(4, "19:00", 2), (5, "07:59", 2), (5, "08:00", 9), (5, "18:59", 9), (5, "19:00", 2), (6, "08:00", 1)],
)
def test_a_change_of_one_day_replaces_that_of_every_day_until_the_next_one(day: int, clock: str, rate: int) -> None:
    assert _rate("08:00,1M 19:00,2M Sat-08:00,9M", day, clock) == rate


def test_of_two_changes_in_one_minute_the_later_one_in_the_list_holds() -> None:
    assert _rate("08:00,1M Sat-08:00,9M", 5, "08:00") == 9
    assert _rate("Sat-08:00,9M 08:00,1M", 5, "08:00") == 1


def test_an_empty_timetable_is_no_limit() -> None:
    assert rate_at(Timetable(()), MONDAY) is None


def test_the_clock_on_the_wall_decides_when_summer_time_begins_and_ends() -> None:
    timetable = parse_timetable("01:00,1M 02:30,2M 04:00,4M")
    zone = ZoneInfo("Europe/Berlin")

    def through_the_night(start: datetime) -> list[tuple[str, int]]:
        """When the rate changes, minute by minute, by UTC."""
        changes: list[tuple[str, int]] = []
        for minute in range(6 * 60):
            moment = start + timedelta(minutes=minute)
            rate = rate_at(timetable, moment.astimezone(zone))
            assert rate is not None
            if not changes or changes[-1][1] != rate // M:
                changes.append((f"{moment:%H:%M}", rate // M))
        return changes

    # 2026-03-29: 01:59 is followed by 03:00, at 01:00 UTC; 2026-10-25: 02:59 by 02:00, at 01:00 UTC.
    spring = through_the_night(datetime(2026, 3, 28, 23, tzinfo=UTC))
    assert spring == [("23:00", 4), ("00:00", 1), ("01:00", 2), ("02:00", 4)]
    autumn = through_the_night(datetime(2026, 10, 24, 22, tzinfo=UTC))
    assert autumn == [("22:00", 4), ("23:00", 1), ("00:30", 2), ("01:00", 1), ("01:30", 2), ("03:00", 4)]
