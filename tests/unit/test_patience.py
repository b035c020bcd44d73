"""How pauses grow, and when patience ends."""

from __future__ import annotations

import pytest

from replicad.model.patience import Failures, Patience


def _pauses(patience: Patience, each_try_takes_s: float) -> list[float]:
    """The pauses until it gives up, if every try fails after so long."""
    failures, now_s, pauses = Failures(patience), 1000.0, []
    while (pause_s := failures.another(now_s)) is not None:
        pauses.append(pause_s)
        now_s += pause_s + each_try_takes_s
    return pauses


def test_pauses_double_up_to_the_longest_and_the_last_one_ends_with_the_patience() -> None:
    assert _pauses(Patience(1, 30, failures=5, seconds=120), 0) == [1, 2, 4, 8, 16, 30, 30, 29]


def test_tries_that_take_long_are_counted_and_not_timed() -> None:
    assert _pauses(Patience(1, 30, failures=5, seconds=120), 3600) == [1, 2, 4, 8]


def test_what_got_on_gives_all_patience_back() -> None:
    failures = Failures(Patience(1, 30, failures=2, seconds=0))
    assert failures.another(0) == 1
    failures.forget()
    assert (failures.another(500), failures.count) == (1, 1)
    assert failures.another(501) is None


@pytest.mark.parametrize("count", [1, 40, 5000])
def test_no_number_of_failures_makes_a_pause_longer_than_the_longest(count: int) -> None:
    assert Patience(0.5, 15, failures=10_000, seconds=0).pause_s(count, 0) in (0.5, 15)
