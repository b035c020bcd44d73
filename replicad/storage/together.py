"""Running several calls at once, with one plain error when one of them fails."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in a group that is not itself a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def together(call: Callable[[Item], Awaitable[Result]], items: Iterable[Item], at_once: int) -> list[Result]:
    """The results of `call` for all items, in their order, with at most `at_once` under way.

    When one fails the others are cancelled and awaited, and its error is raised, not a group.
    """
    slots = asyncio.Semaphore(at_once)

    async def one(item: Item) -> Result:
        async with slots:
            return await call(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return [task.result() for task in tasks]


async def in_order(
    work: Callable[[Item], Awaitable[Result]],
    items: Iterable[Item],
    take: Callable[[Result], Awaitable[None]],
    at_once: int,
) -> None:
    """Work on up to `at_once` items at a time, and hand the results to `take` in the items' order, one at a time.

    Work begins in the items' order, too. When anything fails the rest is cancelled and awaited, and its error is
    raised, not a group.
    """
    under_way: deque[asyncio.Task[Result]] = deque()

    async def one(item: Item) -> Result:
        return await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for item in items:
                while len(under_way) >= at_once:
                    await take(await under_way.popleft())
                under_way.append(group.create_task(one(item)))
            while under_way:
                await take(await under_way.popleft())
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
