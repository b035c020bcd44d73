"""Work that is cancelled at one of its awaits, each in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any


@coroutine
def _stepped(work: Coroutine[Any, Any, object], number: int) -> Generator[Any, None, bool]:
    """Whether it ended before it had waited so often; else it is cancelled while it waits that time."""
    waits, thrown = 0, None
    while True:
        try:
            waited = work.send(None) if thrown is None else work.throw(thrown)
        except StopIteration:
            return waits < number
        waits, thrown = waits + 1, None
        task = asyncio.current_task()
        if waits == number and task is not None:
            task.cancel()
        try:
            yield waited
        except BaseException as error:  # noqa: BLE001 - it is the work's to see it
            thrown = error


async def cancelled_at(number: int, work: Callable[[], Coroutine[Any, Any, object]]) -> bool:
    """Cancel the work when it waits for the `number`th time, counted from 1; False if it has ended before that."""

    async def run() -> bool:
        return await _stepped(work(), number)

    task = asyncio.create_task(run())
    try:
        return not await task
    except asyncio.CancelledError:
        return True
