"""Work that must come to its end once it has begun, although its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T]) -> tuple[T, asyncio.CancelledError | None]:
    """The result of `work`, and what the caller was cancelled with meanwhile, however often: he is to raise it, once
    what the result asks for is done. Where the work raises an error, that, or else the cancelling, is raised. The work
    itself has to end in time."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and (task.cancelled() or task.exception() is not None):
        raise cancelled
    return task.result(), cancelled


async def undisturbed(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, or its error. Being cancelled meanwhile, however often, is raised when it has ended, and
    then its result is lost, as is its error. The work itself has to end in time."""
    result, cancelled = await to_its_end(work)
    if cancelled is not None:
        raise cancelled
    return result
