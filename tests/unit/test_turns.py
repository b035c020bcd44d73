"""Turns at something that is shared: even, in order, and for nobody who has gone."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.storage.turns import Turns
from tests.support.virtual_time import run


@given(st.lists(st.lists(st.integers(1, 100), min_size=2, max_size=4), min_size=2, max_size=5))
def test_of_users_who_always_want_more_none_is_ever_ahead_by_more_than_the_largest_turns(
    wanted: list[list[int]],
) -> None:
    """Each user has as many tasks as amounts, and each of its tasks asks for its amount again and again."""
    had = [0] * len(wanted)
    turns = Turns()

    async def client(user: int, amount: int) -> None:
        for _ in range(60):
            async with turns.turn(str(user), amount):
                had[user] += amount
                await asyncio.sleep(amount)
            longest = 2 * max(max(amounts) for amounts in wanted)
            if all(busy):
                assert max(had) - min(had) <= longest
        busy[user] = False

    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            for user, amounts in enumerate(wanted):
                for amount in amounts:
                    group.create_task(client(user, amount))

    busy = [True] * len(wanted)
    run(story())
    assert not turns.is_taken


def test_who_asks_while_another_turn_has_not_been_used_yet_may_overtake_it() -> None:
    """One user asks for one small turn after the other, the other one for many large ones at once."""
    had = {"small": 0, "large": 0}
    turns = Turns()

    async def client(user: str, amount: int) -> None:
        while sum(had.values()) < 10_000:
            async with turns.turn(user, amount) as turn:
                is_mine = False
                while not is_mine:
                    await asyncio.sleep(amount)
                    is_mine = not await turn.is_overtaken()
                had[user] += amount

    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(client("small", 1))
            for _ in range(4):
                group.create_task(client("large", 10))

    run(story())
    assert had["small"] == pytest.approx(had["large"], abs=60)


def test_who_is_cancelled_while_it_is_overtaken_leaves_nobody_waiting() -> None:
    turns = Turns()

    async def hold(user: str, amount: int, seconds: float) -> None:
        async with turns.turn(user, amount):
            await asyncio.sleep(seconds)

    async def overtaken() -> None:
        async with turns.turn("large", 10) as turn:
            await asyncio.sleep(1)
            assert await turn.is_overtaken()

    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(hold("large", 10, 1))
            task = group.create_task(overtaken())
            await asyncio.sleep(1.5)
            group.create_task(hold("small", 1, 2))
            await asyncio.sleep(1)
            task.cancel()
            group.create_task(hold("another", 1, 1))
        assert task.cancelled()
        assert not turns.is_taken

    run(story())


def test_turns_of_one_user_come_in_the_order_in_which_they_were_asked_for() -> None:
    served: list[int] = []
    turns = Turns()

    async def client(number: int) -> None:
        async with turns.turn("하나", 100 - number):
            served.append(number)
            await asyncio.sleep(1)

    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(client(number))

    run(story())
    assert served == list(range(50))


def test_who_wanted_nothing_for_a_while_has_saved_nothing_up() -> None:
    had: list[str] = []
    turns = Turns()

    async def client(user: str, times: int) -> None:
        for _ in range(times):
            async with turns.turn(user, 1):
                had.append(user)
                await asyncio.sleep(1)

    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(client("early", 100))
            group.create_task(client("early", 100))
            await asyncio.sleep(50.5)
            group.create_task(client("late", 50))

    run(story())
    began = had.index("late")
    assert had[began : began + 60].count("late") == pytest.approx(30, abs=2)


@pytest.mark.parametrize("at_s", [0.5, 1.0])
def test_who_is_cancelled_has_had_nothing_and_holds_nobody_up(at_s: float) -> None:
    """Also at the very moment at which it becomes its turn."""
    had: list[str] = []
    turns = Turns()

    async def client(user: str, amount: int) -> None:
        async with turns.turn(user, amount):
            had.append(user)
            await asyncio.sleep(1)

    async def story() -> None:
        first = asyncio.ensure_future(client("first", 1))
        await asyncio.sleep(0)
        gone = [asyncio.ensure_future(client("gone", 1000)) for _ in range(3)]
        await asyncio.sleep(at_s)
        for task in gone:
            task.cancel()
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(client("first", 1 + number))
            group.create_task(client("gone", 1))
        await first
        for task in gone:
            with suppress(asyncio.CancelledError):
                await task

    run(story())
    assert had.index("gone") <= 2
    assert had.count("first") == 4
    assert not turns.is_taken
