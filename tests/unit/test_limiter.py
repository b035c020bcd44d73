"""Waiting until bytes may travel: how long, who first, and what a change does to those who wait already."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.model.timetable import Timetable
from replicad.model.token_bucket import BURST_S
from replicad.settings.timetable import parse_timetable
from replicad.storage.limiter import Limiter, Throttle
from tests.support.virtual_time import MONDAY, passed_s, run, wall_clock

K, M = 1 << 10, 1 << 20
EIGHT = MONDAY + timedelta(hours=8)


def _limiter(rate: str | None, start: datetime = MONDAY) -> Limiter:
    return Limiter(parse_timetable(rate) if rate else None, partial(wall_clock, start))


async def _times(limiter: Limiter | Throttle, counts: list[int]) -> list[float]:
    """When each of them was let through, one after the other."""
    result = []
    for count in counts:
        await limiter.take(count)
        result.append(passed_s())
    return result


async def _all(*work: Coroutine[Any, Any, object]) -> None:
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(one)


def test_each_piece_waits_for_what_went_before_it() -> None:
    times = run(_times(_limiter("1M"), [M // 4, M // 4, M, M // 2, M // 4]))
    assert times == pytest.approx([0, 0.25, 0.5, 1.5, 2.0], abs=1e-4)


def test_a_pause_earns_a_quarter_of_a_second_and_no_more() -> None:
    async def story() -> list[float]:
        limiter = _limiter("1M")
        await limiter.take(M)
        await asyncio.sleep(60)
        return await _times(limiter, [M // 4, M // 4, M // 4])

    assert run(story()) == pytest.approx([60, 60, 60.25], abs=1e-4)


def test_without_a_limit_nothing_waits_and_no_clock_is_looked_at() -> None:
    def no_clock() -> datetime:
        raise AssertionError("nobody needs the time")

    async def story() -> None:
        limiter = Limiter(None, no_clock)
        assert limiter.piece_bytes() is None
        for _ in range(1000):
            await limiter.take(1 << 40)
        assert passed_s() == 0

    run(story())


def test_the_clock_on_the_wall_is_looked_at_once_a_minute_at_most() -> None:
    looks = 0

    def clock() -> datetime:
        nonlocal looks
        looks += 1
        return wall_clock()

    async def story() -> None:
        limiter = Limiter(parse_timetable("1M"), clock)
        while passed_s() < 600:
            assert limiter.piece_bytes() == M // 4
            await limiter.take(M // 4)

    run(story())
    assert looks <= 11


def test_those_who_wait_are_served_in_the_order_in_which_they_came() -> None:
    served: list[tuple[str, int]] = []

    async def client(name: str, count: int) -> None:
        for number in range(20):
            await limiter.take(count)
            served.append((name, number))

    async def story() -> None:
        await limiter.take(M)  # so that all of them have to wait
        await _all(*(client(name, 64 * K) for name in ("가", "나", "다")))

    limiter = _limiter("1M")
    run(story())
    assert served == [(name, number) for number in range(20) for name in ("가", "나", "다")]


def test_users_share_evenly_however_much_each_of_them_asks_for_at_once() -> None:
    passed = {"가": 0, "나": 0}

    async def client(name: str, count: int) -> None:
        while passed_s() < 100:
            await limiter.take(count, name)
            passed[name] += count

    async def story() -> None:
        await _all(*(client("가", M // 4) for _ in range(8)), client("나", 64 * K))

    limiter = _limiter("1M")
    run(story())
    assert sum(passed.values()) == pytest.approx(100 * M, rel=0.05)
    assert passed["나"] == pytest.approx(passed["가"], rel=0.05)


def test_who_wants_little_is_not_kept_out_by_who_wants_much() -> None:
    async def greedy() -> None:
        while passed_s() < 200:
            await limiter.take(M)

    async def modest() -> None:
        for _ in range(50):
            await limiter.take(1)
        assert passed_s() == pytest.approx(50 * 2, abs=2), "each time it waits for one piece of both"

    limiter = _limiter("1M")
    run(_all(greedy(), greedy(), modest()))


@pytest.mark.parametrize("waiting", [1, 5])
def test_another_rate_holds_at_once_for_those_who_wait(waiting: int) -> None:
    async def client() -> float:
        await limiter.take(64 * K)
        return passed_s()

    async def story() -> list[float]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client()) for _ in range(1 + waiting)]
            await asyncio.sleep(3)
            limiter.set_timetable(parse_timetable("1M"))
        return [task.result() for task in tasks]

    limiter = _limiter("1K")
    # 61 KiB are still owed after 3 s; then they and what comes after cost what they cost at the new rate.
    expected = [0.0] + [3 + 61 / 1024 + n * 64 / 1024 for n in range(waiting)]
    assert run(story()) == pytest.approx(expected, abs=1e-4)


def test_a_lower_rate_holds_for_those_who_wait_and_does_not_lengthen_what_was_owed() -> None:
    async def story() -> list[float]:
        await limiter.take(10 * M)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_times(limiter, [64 * K, 64 * K]))
            await asyncio.sleep(0.5)
            limiter.set_timetable(parse_timetable("1K"))
        return task.result()

    limiter = _limiter("10M")
    assert run(story()) == pytest.approx([1.0, 65.0], abs=1e-4)


@pytest.mark.parametrize("timetable", [None, parse_timetable("off")])
def test_when_the_limit_is_lifted_all_who_wait_go(timetable: Timetable | None) -> None:
    async def client() -> None:
        await limiter.take(M)

    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(client())
            await asyncio.sleep(7)
            limiter.set_timetable(timetable)
        assert passed_s() == 7
        assert limiter.piece_bytes() is None

    limiter = _limiter("1K")
    run(story())


def test_a_limit_that_is_set_while_running_begins_empty() -> None:
    async def story() -> list[float]:
        await limiter.take(M)
        await asyncio.sleep(10)
        limiter.set_timetable(parse_timetable("1M"))
        return await _times(limiter, [M, M])

    limiter = _limiter(None)
    assert run(story()) == pytest.approx([10, 11], abs=1e-4)


def test_the_timetable_changes_the_rate_while_something_waits() -> None:
    """At 07:59 with 1 KiB/s, which from 08:00 on are 1 MiB/s, and from 08:01 on without a limit."""
    limiter = _limiter("00:00,1K 08:00,1M 08:01,off", EIGHT - timedelta(seconds=100))
    times = run(_times(limiter, [600 * K, M, *[M] * 100]))
    # 600 KiB - 100 s × 1 KiB/s are owed at 08:00.
    assert times[1] == pytest.approx(100 + 500 / 1024, abs=1e-4)
    assert times[2] == pytest.approx(times[1] + 1, abs=1e-4)
    assert times[-1] == pytest.approx(160, abs=1e-4)
    assert sum(1 for time in times if time < 159.999) == pytest.approx(61, abs=1)


def test_summer_time_is_noticed_while_something_waits() -> None:
    berlin, start = ZoneInfo("Europe/Berlin"), datetime(2026, 3, 29, 0, 58, 30, tzinfo=UTC)

    def clock() -> datetime:
        return wall_clock(start).astimezone(berlin)

    # 01:58:30 there; 90 s later it is 03:00.
    limiter = Limiter(parse_timetable("00:00,1K 02:30,off"), clock)
    assert run(_times(limiter, [M, M]))[1] == pytest.approx(90, abs=1e-4)


def test_a_clock_that_is_set_is_noticed_within_a_minute() -> None:
    moved = timedelta()

    def clock() -> datetime:
        return wall_clock() + moved

    async def story() -> float:
        nonlocal moved
        await limiter.take(M)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_times(limiter, [M]))
            await asyncio.sleep(10)
            moved = timedelta(hours=9)
        return task.result()[0]

    limiter = Limiter(parse_timetable("00:00,1K 08:00,off"), clock)
    assert 10 < run(story()) <= 60


def test_who_is_cancelled_takes_nothing_and_holds_nobody_up() -> None:
    async def story() -> float:
        await limiter.take(M)
        waiting = [asyncio.ensure_future(limiter.take(100 * M)) for _ in range(3)]
        last = asyncio.ensure_future(_times(limiter, [1]))
        await asyncio.sleep(0.5)
        for task in waiting:
            task.cancel()
        for task in waiting:
            with pytest.raises(asyncio.CancelledError):
                await task
        return (await last)[0]

    limiter = _limiter("1M")
    assert run(story()) == pytest.approx(1, abs=1e-4)


@given(st.lists(st.tuples(st.integers(1, M), st.floats(0, 3), st.none() | st.floats(0, 3)), min_size=1, max_size=20))
def test_whoever_comes_and_goes_no_more_is_let_through_than_the_limit(
    clients: list[tuple[int, float, float | None]],
) -> None:
    taken: list[tuple[float, int]] = []

    async def client(count: int, starts_s: float, cancelled_after_s: float | None) -> None:
        await asyncio.sleep(starts_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(cancelled_after_s):
                await limiter.take(count)
                taken.append((passed_s(), count))

    limiter = _limiter("1M")
    run(_all(*(client(*one) for one in clients)))
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            before = sum(count for _, count in taken[first:last])
            assert before <= M * (taken[last][0] - taken[first][0] + BURST_S) + 2
    assert len(taken) >= sum(1 for one in clients if one[2] is None)
    assert taken == sorted(taken, key=lambda one: one[0])


def test_of_two_limits_both_hold() -> None:
    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            narrow = group.create_task(_times(Throttle((_limiter("1M"), everything)), [256 * K] * 20))
            wide = group.create_task(_times(Throttle((_limiter("100M"), everything)), [256 * K] * 60))
            free = group.create_task(_times(Throttle((_limiter(None), everything)), [256 * K] * 60))
        assert narrow.result()[-1] == pytest.approx(19 / 4, rel=0.05)
        # 5 MiB and 2 × 15 MiB at 8 MiB/s; those without a narrow limit of their own share alike what is left.
        assert passed_s() == pytest.approx((35 - 0.25) / 8, rel=0.1)
        assert wide.result()[-1] == pytest.approx(free.result()[-1], rel=0.02)

    everything = _limiter("8M")
    run(story())


def test_pieces_are_those_of_the_narrowest_limit() -> None:
    async def story() -> None:
        assert Throttle((_limiter("1M"), _limiter("4M"))).piece_bytes() == M // 4
        assert Throttle((_limiter(None), _limiter("4M"))).piece_bytes() == M
        assert Throttle((_limiter("off"), _limiter(None))).piece_bytes() is None
        assert Throttle(()).piece_bytes() is None

    run(story())


def test_the_more_there_are_who_wait_the_smaller_are_the_pieces() -> None:
    async def story() -> None:
        await limiter.take(8 * M)
        for waiting in range(1, 40):
            group.append(asyncio.ensure_future(limiter.take(M)))
            await asyncio.sleep(0)
            assert limiter.piece_bytes() == max(2 * M // (1 + waiting), 64 * K)
        for task in group:
            task.cancel()
        await asyncio.wait(group)
        assert limiter.piece_bytes() == 2 * M

    group: list[asyncio.Task[None]] = []
    limiter = _limiter("8M")
    run(story())


def test_who_is_cancelled_at_the_second_limit_gives_back_what_the_first_one_let_through() -> None:
    async def story() -> None:
        await everything.take(100 * M)
        waiting = asyncio.ensure_future(Throttle((own, everything)).take(50 * M))
        await asyncio.sleep(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await _times(own, [1]) == [1]

    own, everything = _limiter("1M"), _limiter("1M")
    run(story())


def test_what_is_given_back_lets_those_who_wait_go_earlier() -> None:
    async def story() -> None:
        await limiter.take(10 * M)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_times(limiter, [1]))
            await asyncio.sleep(1)
            limiter.give_back(8 * M)
        assert task.result() == pytest.approx([2], abs=1e-4)

    limiter = _limiter("1M")
    run(story())
