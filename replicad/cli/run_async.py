"""Running a coroutine as a command: a signal cancels it, and it cleans up before the process ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. SIGINT and SIGTERM cancel it; when it has cleaned up KeyboardInterrupt or CancelledError
    is raised (both end in exit code 130). A second signal does not wait for the cleaning up.

    If garbage collection was disabled for the start, it begins here, with what was made before left out of it.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    _allow_many_open_files()
    with asyncio.Runner() as runner:
        return runner.run(_cancelled_by_sigterm(work))


def _allow_many_open_files() -> None:
    """As many as the system lets this process have: a machine may consist of many files, all open at a time."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # then it stays as it was
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _cancelled_by_sigterm(work: Coroutine[Any, Any, T]) -> T:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def cancel() -> None:
        loop.remove_signal_handler(signal.SIGTERM)  # the next one ends the process at once
        if task is not None:
            task.cancel()

    try:
        loop.add_signal_handler(signal.SIGTERM, cancel)
    except (NotImplementedError, RuntimeError, ValueError):
        return await work  # Windows has no such signals, and only the main thread can take them
    try:
        return await work
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
