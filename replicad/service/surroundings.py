"""What workflows need of this process and host: clocks, randomness, threads, the cache."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom

from replicad import __version__
from replicad.model.clock import Clock
from replicad.model.progress import Observer, Warned
from replicad.storage.port import Share
from replicad.workflows.context import Context

from .this_host import this_process_holder

_MOST_HASHING_THREADS = 4
_BOOT_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)
"""Linux has it. Elsewhere the monotonic clock goes on while the host sleeps."""


def system_clock() -> Clock:
    """The machine's clocks. The steady one counts the time that the host sleeps, too, where the system has such a one:
    an answer about the lock that was given before is not one of a moment ago."""
    return Clock(lambda: datetime.now(UTC), _steady_s, asyncio.sleep)


def _steady_s() -> float:
    return time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)


@asynccontextmanager
async def surroundings(state_dir: Path | None, observe: Observer) -> AsyncIterator[Context]:
    """The context for workflows in this process; `state_dir` None: nothing is kept on this host.

    A state directory that can't be made or written is a warning: most of what is kept in it only saves work, and what
    must not be lost is not begun without it.
    """
    threads = min(_MOST_HASHING_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, "hashing") as hashing:
        cache = state = None
        if state_dir is not None:
            cache = await asyncio.get_running_loop().run_in_executor(hashing, _prepare_cache, state_dir, observe)
            state = _local_share(state_dir) if cache is not None else None
        try:
            yield Context(
                clock=system_clock(),
                random=SystemRandom(),
                new_id=lambda: secrets.token_hex(16),
                holder=lambda: this_process_holder(datetime.now(UTC)),
                hashing=hashing,
                cache=cache,
                observe=observe,
                version=__version__,
                state=state,
            )
        finally:
            for share in (cache, state):
                if share is not None:
                    await share.close()


def _prepare_cache(state_dir: Path, observe: Observer) -> Share | None:
    path = state_dir / "cache"
    try:
        # Not by `parents`, which takes no mode for them.
        for directory in (*reversed(state_dir.parents), state_dir, path):
            directory.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        observe(
            Warned(f"state_dir {state_dir} can't be used ({reason}): manifests are read from the replica each time")
        )
        return None
    return _local_share(path)


def _local_share(path: Path) -> Share:
    from replicad.storage.local import LocalShare

    return LocalShare(str(path))
