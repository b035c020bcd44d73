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
    work: Callable[[Item, bytearray], Awaitable[Result]],
    items: Iterable[Item],
    take: Callable[[Result], Awaitable[None]],
    buffers: list[bytearray],
) -> None:
    """Work on as many items at once as there are buffers, and hand the results to `take` in the items' order.

    One at a time: a buffer goes back to work when `take` of what was made in it has returned. When anything fails the
    rest is cancelled and awaited, and its error is raised, not a group.
    """
    free = list(buffers)
    under_way: deque[tuple[asyncio.Task[Result], bytearray]] = deque()

    async def one(item: Item, buffer: bytearray) -> Result:
        return await work(item, buffer)

    async def take_next() -> None:
        task, buffer = under_way.popleft()
        await take(await task)
        free.append(buffer)

    try:
        async with asyncio.TaskGroup() as group:
            for item in items:
                while not free:
                    await take_next()
                buffer = free.pop()
                under_way.append((group.create_task(one(item, buffer)), buffer))
            while under_way:
                await take_next()
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
