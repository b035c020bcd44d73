"""When a machine that is moved is stopped: after how many rounds, and never for longer than it may."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.model.convergence import Judgement, RoundFigures, Verdict, judge

MIB = 1024 * 1024
_ROUND_TAKES_S = 0.05
"""Whatever there is to send."""


def _rounds(
    size_bytes: float,
    sent_per_s: float,
    written_per_s: Callable[[float], float],
    max_freeze_s: float,
    max_rounds: int,
    round_takes_s: float = _ROUND_TAKES_S,
) -> tuple[Judgement, int, float]:
    """What a guest and a link like these come to: the last judgement, the rounds, and the freeze there would be."""
    rounds: list[RoundFigures] = []
    now_s, left = 0.0, size_bytes
    while True:
        duration_s = round_takes_s + left / sent_per_s
        rounds.append(RoundFigures(round(left), duration_s))
        left = min(size_bytes, written_per_s(now_s) * duration_s)
        now_s += duration_s
        judgement = judge(rounds, max_freeze_s, max_rounds)
        if judgement.verdict is not Verdict.AGAIN:
            return judgement, len(rounds), left / sent_per_s


def test_a_machine_that_writes_little_is_stopped_after_a_few_short_rounds() -> None:
    judgement, rounds, freeze_s = _rounds(8_192 * MIB, 400 * MIB, lambda _: 5 * MIB, 5.0, 30)
    assert judgement.verdict is Verdict.GO
    assert rounds <= 4
    assert freeze_s < 0.05


def test_a_machine_that_writes_about_as_fast_as_is_sent_is_not_stopped() -> None:
    judgement, rounds, _ = _rounds(8_192 * MIB, 100 * MIB, lambda _: 90 * MIB, 5.0, 30)
    assert judgement.verdict is Verdict.STUCK
    assert rounds <= 3
    assert judgement.written_bytes_per_s == pytest.approx(90 * MIB, rel=0.05)


def test_a_machine_that_writes_nothing_is_stopped_after_its_second_round() -> None:
    judgement, rounds, freeze_s = _rounds(1_024 * MIB, 100 * MIB, lambda _: 0.0, 5.0, 30)
    assert (judgement.verdict, rounds, freeze_s) == (Verdict.GO, 2, 0.0)


def test_an_empty_disk_needs_no_more_than_two_rounds() -> None:
    judgement, rounds, _ = _rounds(0, 100 * MIB, lambda _: 0.0, 5.0, 30)
    assert (judgement.verdict, rounds) == (Verdict.GO, 2)


def test_a_burst_does_not_keep_a_machine_from_being_moved_later() -> None:
    judgement, _, freeze_s = _rounds(4_096 * MIB, 200 * MIB, lambda now: (150 if now < 40 else 2) * MIB, 1.0, 30)
    assert judgement.verdict is Verdict.GO
    assert freeze_s < 0.1


def test_what_shrinks_slowly_is_given_up_after_the_most_rounds_if_it_would_stand_still_too_long() -> None:
    judgement, rounds, _ = _rounds(100_000 * MIB, 100 * MIB, lambda _: 79 * MIB, 0.05, 5)
    assert (judgement.verdict, rounds) == (Verdict.STUCK, 6)


@pytest.mark.parametrize(("scan_s", "verdict"), [(4.0, Verdict.GO), (10.0, Verdict.STUCK)])
def test_disks_that_are_read_whole_in_each_round_are_read_whole_while_the_machine_stands_still(
    scan_s: float, verdict: Verdict
) -> None:
    judgement, rounds, _ = _rounds(8_192 * MIB, 400 * MIB, lambda _: 1 * MIB, 5.0, 30, scan_s)
    assert (judgement.verdict, rounds) == (verdict, 2)
    assert judgement.freeze_s == pytest.approx(scan_s, rel=0.1)


def test_how_fast_others_have_copied_says_nothing_of_how_fast_the_last_changes_are_sent() -> None:
    rounds = [RoundFigures(0, 2.0), RoundFigures(40 * MIB, 4.0)]
    judgement = judge(rounds, 5.0, 30)
    assert judgement.verdict is Verdict.STUCK
    assert judgement.freeze_s == pytest.approx(8.0, rel=0.1)


@given(
    st.floats(0, 1e12), st.floats(1e5, 2e9), st.floats(0, 2e9), st.floats(0.01, 600), st.integers(1, 50),
)  # fmt: skip
def test_it_always_ends_and_a_machine_is_never_stopped_for_what_is_predicted_to_take_too_long(
    size_bytes: float, sent_per_s: float, written_per_s: float, max_freeze_s: float, max_rounds: int
) -> None:
    judgement, rounds, _ = _rounds(size_bytes, sent_per_s, lambda _: written_per_s, max_freeze_s, max_rounds)
    assert rounds <= max_rounds + 1
    assert judgement.verdict is Verdict.STUCK or judgement.freeze_s <= max_freeze_s
