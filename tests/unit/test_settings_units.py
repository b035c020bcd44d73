"""Sizes, rates, durations, timetables and cron expressions, as people type them."""

from __future__ import annotations

import pytest

from replicad.model.timetable import RateChange, Timetable
from replicad.settings.cron import parse_cron
from replicad.settings.problems import WrongError
from replicad.settings.timetable import parse_timetable
from replicad.settings.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_percent,
    parse_rate,
    parse_short,
    parse_size,
)
from replicad.settings.values import room


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("64KiB", 65_536), ("64K", 65_536), ("1MiB", 1 << 20), ("1M", 1 << 20), ("100M", 100 << 20), ("3G", 3 << 30),
     ("64TiB", 64 << 40)],
)  # fmt: skip
def test_sizes_count_in_steps_of_1024(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "value",
    ["", "K", "10MB", "10 M", "1.5M", "-1M", "0M", "1m", "1Mib", "M1", "1MM", "1M ", "1M\n", "٣M", "1e3M", 5, True,
     None, 1.5],
)  # fmt: skip
def test_anything_else_is_no_size(value: object) -> None:
    with pytest.raises(WrongError):
        parse_size(value)


def test_off_is_a_rate_without_limit() -> None:
    assert parse_rate("off") is None
    assert parse_rate("100M") == 100 << 20


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("5m", 300), ("1h30m", 5_400), ("90m", 5_400), ("7d", 604_800), ("1d1h1m1s", 90_061),
     ("3660d", 316_224_000)],
)  # fmt: skip
def test_durations_add_up(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value",
    ["", "m", "5", 5, "5 m", "1m1h", "5M", "1.5h", "-5m", "0s", "0d0h", "3661d", "9" * 30 + "s", "٣m", True,
     None, [], "5m\n"],
)  # fmt: skip
def test_anything_else_is_no_duration(value: object) -> None:
    with pytest.raises(WrongError):
        parse_duration(value)


def test_zero_is_a_duration_where_it_makes_sense() -> None:
    assert parse_duration("0s", min_s=0) == 0


def test_what_was_probably_meant_is_said_in_the_right_form() -> None:
    for value, right in [("5 minutes", "5m"), ("2 Hrs", "2h"), ("1.5h", "1h30m"), ("0.5d", "12h"), ("10M", "10m")]:
        with pytest.raises(WrongError) as caught:
            parse_duration(value)
        assert caught.value.hint == f"write {right}"
        parse_duration(right)
    for value, right in [("10MB", "10MiB"), ("64 kb", "64KiB"), ("0.5M", "512KiB"), ("131072", "128KiB")]:
        with pytest.raises(WrongError) as caught:
            parse_size(value)
        assert caught.value.hint == f"write {right}"
        parse_size(right)


def test_sizes_and_durations_are_told_with_the_largest_unit() -> None:
    assert [format_size(n << 10) for n in (1, 1024, 1536, 1 << 30)] == ["1KiB", "1MiB", "1536KiB", "1TiB"]
    assert [format_duration(n) for n in (0, 59, 60, 5_400, 90_061)] == ["0s", "59s", "1m", "1h30m", "1d1h1m1s"]
    with pytest.raises(ValueError, match="no whole number"):
        format_size(1000)


def test_one_rate_is_a_timetable_of_one_change() -> None:
    assert parse_timetable("100M") == Timetable((RateChange(None, 0, 100 << 20),))
    assert parse_timetable("off") == Timetable((RateChange(None, 0, None),))


def test_timetable_keeps_days_times_and_rates() -> None:
    assert parse_timetable("08:00,100M 19:30,off Mon-23:59,1KiB sun-00:00,2G") == Timetable(
        (
            RateChange(None, 480, 100 << 20),
            RateChange(None, 1_170, None),
            RateChange(0, 1_439, 1 << 10),
            RateChange(6, 0, 2 << 30),
        )
    )


@pytest.mark.parametrize(
    "value",
    ["", " ", ",", "08:00", "08:00,", ",1M", "24:00,1M", "08:60,1M", "8:00,1M", "08:00,1M,2M", "Mon 08:00,1M",
     "MON-08:00,1M", "-08:00,1M", "08:00,1M 08:00,2M", "Mon-08:00,1M mon-08:00,2M", "08:00,0", 0, True, None, []],
)  # fmt: skip
def test_anything_else_is_no_timetable(value: object) -> None:
    with pytest.raises(WrongError):
        parse_timetable(value)


@pytest.mark.parametrize(
    "text",
    ["* * * * *", "0 22 * * mon-fri", "*/15 8-18/2 1,15 jan,jul-sep *", "0 0 29 2 *", "0 0 1-7 * mon", "0 0 31 1,2 *",
     "59 23 31 12 sun", "0 0 * * */2", "0 22 * * MON,Wed"],
)  # fmt: skip
def test_cron_keeps_its_fields(text: str) -> None:
    cron = parse_cron(text)
    assert str(cron) == text.lower()
    assert cron.weekday == text.lower().split()[4]


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "* * * * * *", "60 * * * *", "-1 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 0 *",
     "* * * 13 *", "* * * foo *", "* * * * 0", "* * * * 1-5", "* * * * fri-mon", "5-1 * * * *", "*/0 * * * *",
     "*/ * * * *", "5/2 * * * *", "1, * * * *", "1-2-3 * * * *", "- * * * *", "0 0 31 2 *", "0 0 30 2 *",
     "0 0 31 apr,jun,sep,nov *",
     "@daily", "@reboot", "* * ? * *", "* * L * *", "٣ * * * *"],
)  # fmt: skip
def test_cron_refuses(text: str) -> None:
    with pytest.raises(WrongError):
        parse_cron(text)


@pytest.mark.parametrize(("text", "milliseconds"), [("1ms", 1), ("200ms", 200), ("2s", 2_000), ("60s", 60_000)])
def test_short_durations_are_in_milliseconds(text: str, milliseconds: int) -> None:
    assert parse_short(text, max_ms=60_000) == milliseconds


@pytest.mark.parametrize(
    "value", ["0ms", "200", 200, "200 ms", "1m", "61s", "-1ms", "1.5s", "", "ms", True, None, "9ms\n"]
)
def test_anything_else_is_no_short_duration(value: object) -> None:
    with pytest.raises(WrongError):
        parse_short(value, max_ms=60_000)


@pytest.mark.parametrize(("text", "part"), [("0%", 0.0), ("0.1%", 0.001), ("5%", 0.05), ("100%", 1.0), ("100.0%", 1.0)])
def test_percentages_are_parts_of_one(text: str, part: float) -> None:
    assert parse_percent(text) == pytest.approx(part)


@pytest.mark.parametrize("value", ["100.1%", "101%", "5", 5, 0.1, "-1%", "5 %", "%", "", "1e1%", True, None, "5%\n"])
def test_anything_else_is_no_percentage(value: object) -> None:
    with pytest.raises(WrongError):
        parse_percent(value)


def test_room_is_a_size_or_a_part_of_the_file_system() -> None:
    assert room("20G").of(1 << 40) == 20 << 30
    assert room("5%").of(1000) == 50
    for value in ("5", 5, "5 G", None, "-5%"):
        with pytest.raises(WrongError):
            room(value)
