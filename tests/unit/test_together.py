"""Several calls at once, with one plain error, in order, and bounded."""

from __future__ import annotations

import asyncio

import pytest

from replicad.model.errors import UnreachableError
from replicad.storage.together import in_order, together


async def test_results_come_in_the_order_of_the_items_with_a_bound_on_what_is_under_way() -> None:
    running = most = 0

    async def call(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(10 - n):
            await asyncio.sleep(0)
        running -= 1
        return n * n

    assert await together(call, range(10), 3) == [n * n for n in range(10)]
    assert most == 3


async def test_the_first_error_comes_plainly_and_the_others_are_cancelled() -> None:
    cancelled: list[int] = []

    async def call(n: int) -> None:
        if n == 1:
            raise UnreachableError("reach", "nas", "it is gone")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(n)
            raise

    with pytest.raises(UnreachableError):
        await together(call, range(3), 3)
    assert sorted(cancelled) == [0, 2]


async def test_items_are_worked_on_at_once_and_taken_one_by_one_in_order() -> None:
    taken: list[int] = []
    running = most = 0

    async def work(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(n % 3):
            await asyncio.sleep(0)
        running -= 1
        return n

    async def take(n: int) -> None:
        await asyncio.sleep(0)
        taken.append(n)

    await in_order(work, range(20), take, 4)
    assert taken == list(range(20))
    assert 1 < most <= 4


@pytest.mark.parametrize("where", ["work", "take"])
async def test_an_error_ends_the_work_that_is_under_way(where: str) -> None:
    ended = 0

    async def work(n: int) -> int:
        nonlocal ended
        if n == 2 and where == "work":
            raise UnreachableError("read", "nas", "it is gone")
        try:
            if n > 2:
                await asyncio.Event().wait()
        finally:
            ended += 1
        return n

    async def take(n: int) -> None:
        if n == 2:
            raise UnreachableError("write", "nas", "it is gone")

    with pytest.raises(UnreachableError):
        await in_order(work, range(100), take, 4)
    assert ended >= 2


async def test_cancelling_the_caller_cancels_the_work() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def work(n: int) -> int:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return n

    async def take(n: int) -> None:
        raise AssertionError("nothing was done")

    async with asyncio.timeout(10):
        task = asyncio.create_task(in_order(work, range(3), take, 1))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended.is_set()
