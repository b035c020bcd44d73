"""Durations for columns and for sentences."""

from __future__ import annotations

import pytest

from replicad.model.durations import duration_in_words, human_duration


@pytest.mark.parametrize(
    ("seconds", "words", "column"),
    [
        (0, "0 s", "0 ms"), (0.34, "0 s", "340 ms"), (1, "1 s", "1.0 s"), (59.4, "59 s", "59.4 s"),
        (0.9999, "1 s", "1.0 s"), (2.4, "2 s", "2.4 s"), (320, "5 min 20 s", "5m 20s"), (7_259, "2 h", "2h"),
        (59.97, "1 min", "1m"), (60, "1 min", "1m"), (301, "5 min 1 s", "5m 1s"), (1_020, "17 min", "17m"),
        (3_599.6, "1 h", "1h"), (3_601, "1 h", "1h"), (5_400, "1 h 30 min", "1h 30m"),
        (86_399, "23 h 59 min", "23h 59m"),
        (86_400, "1 day", "1d"), (90_000, "1 day 1 h", "1d 1h"), (3 * 86_400 + 4 * 3_600 + 59, "3 days 4 h", "3d 4h"),
        (86_400 + 59 * 60, "1 day", "1d"), (3_660 * 86_400, "3660 days", "3660d"),
    ],
)  # fmt: skip
def test_a_duration_is_told_in_its_two_largest_units(seconds: float, words: str, column: str) -> None:
    assert (duration_in_words(seconds), human_duration(seconds)) == (words, column)
