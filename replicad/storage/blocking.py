"""Blocking calls on an executor, each wait with an end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from replicad.model.errors import StuckError

T = TypeVar("T")

_SETTLE_TIMEOUT_S = 30.0


async def run_blocking(executor: Executor, op: str, subject: str, call: Callable[[], T], timeout_s: float) -> T:
    """The result of `call`, made on a thread.

    A call that is cancelled is not begun, or waited for until it has ended, so that what it was given is the caller's
    again; only one that takes longer than half a minute goes on alone.
    StuckError after `timeout_s`: the call may go on, and a buffer given to it must not be used any more.
    """
    job = executor.submit(call)
    future = asyncio.wrap_future(job)
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(future)
    except TimeoutError:
        job.cancel()
        answer = f"the file system gave no answer within {timeout_s:g} s"
        raise StuckError(op, subject, answer, "Check the disk and the kernel's log.") from None
    except asyncio.CancelledError:
        if not job.cancel():
            await settled(future)
        raise


async def settled(future: asyncio.Future[T]) -> None:
    """Wait until it is done, for half a minute at most; being cancelled meanwhile is raised in the end. Its error is
    not raised."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _SETTLE_TIMEOUT_S
    cancelled: asyncio.CancelledError | None = None
    while not future.done() and (left := deadline - loop.time()) > 0:
        try:
            await asyncio.wait([future], timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    if future.done() and not future.cancelled():
        future.exception()
    if cancelled is not None:
        raise cancelled
