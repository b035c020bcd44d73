"""The one thread on which all that blocks is done for the catalog."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from replicad.storage.blocking import run_blocking, settled

from .failures import from_os, from_row, from_sqlite
from .rows import SenselessRowError

T = TypeVar("T")

CALL_TIMEOUT_S = 60.0
"""For what takes milliseconds on a disk that works, and five seconds while another process writes."""


class CatalogThread:
    """Calls run one after the other, in the order in which they came, on a thread named `catalog_0`."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="catalog")
        self._closed = False

    async def run(self, op: str, call: Callable[[], T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """The result of `call`, made as by `run_blocking`; errors of SQLite and of the operating system translated."""
        if self._closed:
            raise ValueError("the catalog is closed")
        return await run_blocking(self._executor, op, self._subject, partial(self._translated, op, call), timeout_s)

    async def run_whatever_comes(self, op: str, call: Callable[[], None]) -> None:
        """As `run`, but begun and waited for even if the caller is cancelled (again), which it hears afterwards.
        Its error is not raised: it is for what only tidies up."""
        await settled(asyncio.wrap_future(self._executor.submit(self._translated, op, call)))

    async def close(self, op: str, call: Callable[[], None]) -> None:
        """Wait for what is under way, then make `call` the last one, and let the thread end. Errors of `call`."""
        if self._closed:
            return
        self._closed = True
        future = asyncio.wrap_future(self._executor.submit(self._translated, op, call))
        self._executor.shutdown(wait=False)
        await settled(future)
        if future.done():
            future.result()

    def _translated(self, op: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except sqlite3.Error as error:
            raise from_sqlite(error, op, self._subject) from error
        except SenselessRowError as error:
            raise from_row(error, op, self._subject) from error
        except OSError as error:
            raise from_os(error, op, self._subject) from error
