"""Whatever is asked of a token bucket, and when: never more than the limit lets through, and everyone's turn comes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replicad.model.token_bucket import BURST_S, LEAST_PIECE_BYTES, TokenBucket

SLACK_S = 2e-6
START_S = 1_000_000.0

rates = st.integers(1024, 1 << 40)
pauses = st.floats(0, 5) | st.floats(0, 0.01) | st.just(0.0)


@dataclass(frozen=True, slots=True)
class Taken:
    at_s: float
    count_bytes: int


def _run(bucket: TokenBucket, steps: list[tuple[float, float]]) -> list[Taken]:
    """Pause and take in turns, waiting as one should; the second of each pair is a part of a whole piece."""
    now_s, done = START_S, []
    for pause_s, part in steps:
        now_s += pause_s
        wait_s = bucket.wait_s(now_s)
        now_s += wait_s
        assert bucket.wait_s(now_s) == 0, "one wait is enough"
        piece = bucket.piece_bytes
        assert piece is not None
        count = int(piece * part)
        bucket.take(count, now_s)
        done.append(Taken(now_s, count))
    return done


@given(rates, st.lists(st.tuples(pauses, st.floats(0, 1)), min_size=1, max_size=40))
@example(1024, [(0.0, 1.0)] * 5)
@example(1 << 40, [(0.0, 1.0), (5.0, 1.0), (0.0, 1.0), (0.0, 1.0)])
def test_no_stretch_of_time_has_more_than_its_rate_and_a_burst_and_a_piece(
    rate: int, steps: list[tuple[float, float]]
) -> None:
    taken = _run(TokenBucket(rate, START_S), steps)
    for first in range(len(taken)):
        total = 0
        for last in range(first, len(taken)):
            length_s = taken[last].at_s - taken[first].at_s + SLACK_S
            assert total <= rate * (length_s + BURST_S)
            total += taken[last].count_bytes
    total = 0
    for one in taken:
        assert total <= rate * (one.at_s - START_S + SLACK_S), "the bucket is empty when the limit begins"
        total += one.count_bytes


@given(rates, st.lists(st.tuples(pauses, st.floats(0, 1)), min_size=1, max_size=40))
def test_nobody_waits_longer_than_the_piece_before_needs(rate: int, steps: list[tuple[float, float]]) -> None:
    bucket = TokenBucket(rate, START_S)
    longest_s = max(BURST_S, LEAST_PIECE_BYTES / rate) + SLACK_S
    now_s = START_S
    for one in steps:
        taken = _run(bucket, [one])[0]
        now_s = max(now_s, taken.at_s)
        assert bucket.wait_s(now_s) <= longest_s


@given(rates, st.integers(1, 1 << 40))
def test_who_always_waits_gets_the_rate(rate: int, piece: int) -> None:
    bucket = TokenBucket(rate, START_S)
    now_s = START_S
    for _ in range(50):
        now_s += bucket.wait_s(now_s)
        bucket.take(piece, now_s)
    now_s += bucket.wait_s(now_s)
    # Each wait is a microsecond too long at most, and the clock itself has no finer steps than some tenths of one.
    assert now_s - START_S == pytest.approx(50 * piece / rate, abs=50 * SLACK_S, rel=1e-6)


@given(rates, rates, st.integers(0, 1 << 40), st.floats(0, 1))
def test_another_rate_holds_at_once_for_what_is_owed_and_never_lengthens_it(
    rate: int, other: int, count: int, part: float
) -> None:
    bucket = TokenBucket(rate, START_S)
    bucket.take(count, START_S)
    now_s = START_S + part * bucket.wait_s(START_S)
    before_s = bucket.wait_s(now_s)
    bucket.set_rate(other, now_s)
    after_s = bucket.wait_s(now_s)
    assert after_s <= before_s + SLACK_S
    if other >= rate:
        assert after_s == pytest.approx(before_s * rate / other, abs=SLACK_S, rel=1e-6)
    bucket.set_rate(None, now_s)
    assert bucket.wait_s(now_s) == 0


@given(st.lists(st.tuples(pauses, st.floats(0, 1), st.none() | rates), min_size=1, max_size=40))
def test_however_the_rate_changes_no_more_is_let_through_than_the_rates_and_a_piece_a_change(
    steps: list[tuple[float, float, int | None]],
) -> None:
    rate = 1 << 20
    bucket = TokenBucket(rate, START_S)
    now_s, allowed, taken = START_S, 0.0, 0
    for pause_s, part, other in steps:
        wait_s = bucket.wait_s(now_s + pause_s)
        allowed += rate * (pause_s + wait_s + SLACK_S)
        now_s += pause_s + wait_s
        assert taken <= allowed
        piece = bucket.piece_bytes
        assert piece is not None
        bucket.take(int(piece * part), now_s)
        taken += int(piece * part)
        if other is not None:
            allowed += piece  # what is owed may be let off, in part
            bucket.set_rate(other, now_s)
            rate = other


@given(rates, st.integers(0, 1 << 30), st.floats(0, 10))
def test_what_is_given_back_is_as_if_it_had_not_been_taken(rate: int, count: int, pause_s: float) -> None:
    one, other = TokenBucket(rate, START_S), TokenBucket(rate, START_S)
    for bucket in (one, other):
        bucket.take(LEAST_PIECE_BYTES, START_S)
    one.take(count, START_S)
    one.give_back(count)
    assert one.wait_s(START_S + pause_s) == pytest.approx(other.wait_s(START_S + pause_s), abs=SLACK_S)


@given(st.integers(0, 1 << 40))
def test_without_a_limit_there_is_nothing_to_wait_for_and_nothing_owed_later(count: int) -> None:
    bucket = TokenBucket(None, START_S)
    assert bucket.piece_bytes is None
    bucket.take(count, START_S)
    bucket.give_back(count)
    assert bucket.wait_s(START_S) == 0
    bucket.set_rate(1024, START_S + 1)
    assert bucket.wait_s(START_S + 1) == 0
    bucket.take(1024, START_S + 1)
    assert bucket.wait_s(START_S + 1) == pytest.approx(1, abs=SLACK_S)


def test_a_piece_is_a_quarter_of_a_second_and_never_tiny() -> None:
    assert TokenBucket(100 << 20, 0.0).piece_bytes == 25 << 20
    assert TokenBucket(1024, 0.0).piece_bytes == LEAST_PIECE_BYTES == 65_536
