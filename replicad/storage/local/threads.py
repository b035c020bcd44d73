"""Blocking calls on threads of their own, each wait with an end."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Generic, TypeVar

from replicad.storage.blocking import run_blocking

from .errnos import translate

T = TypeVar("T")

CALL_TIMEOUT_S = 120.0
"""For one read, write or change of names: a disk that takes longer is taken for dead."""
FLUSH_TIMEOUT_S = 900.0
"""For what may have gigabytes to bring to the disk."""
_numbers = itertools.count(1)


class Threads:
    """The threads of one share, named `local-<n>`."""

    def __init__(self, count: int = 8) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=f"local-{next(_numbers)}")
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def executor(self) -> ThreadPoolExecutor:
        """For libraries that want one."""
        return self._executor

    async def run(self, op: str, subject: str, call: Callable[[], T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """The result of `call`, made as by `run_blocking`; its OSError translated."""
        if self._closed:
            raise ValueError("the share is closed")
        return await run_blocking(self._executor, op, subject, partial(_translated, op, subject, call), timeout_s)

    async def acquire(self, op: str, subject: str, call: Callable[[], T], discard: Callable[[T], None]) -> T:
        """As `run`, for a result that must not be lost: `discard` gets it if the caller is no longer there to."""
        handover = _Handover(discard)
        try:
            await self.run(op, subject, lambda: handover.offer(call()))
            return handover.take()
        except BaseException:
            handover.abandon()
            raise

    def close(self) -> None:
        """Let the threads end when they are done."""
        self._closed = True
        self._executor.shutdown(wait=False)


class _Handover(Generic[T]):
    """A result on its way from a thread to the loop, which may have gone on without it."""

    def __init__(self, discard: Callable[[T], None]) -> None:
        self._discard = discard
        self._guard = Lock()
        self._abandoned = False
        self._offered: list[T] = []

    def offer(self, result: T) -> None:
        with self._guard:
            if not self._abandoned:
                self._offered.append(result)
                return
        self._discard(result)

    def take(self) -> T:
        with self._guard:
            return self._offered.pop()

    def abandon(self) -> None:
        with self._guard:
            self._abandoned = True
            left = list(self._offered)
            self._offered.clear()
        for result in left:
            self._discard(result)


def _translated(op: str, subject: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except OSError as error:
        raise translate(error, op, subject) from error
