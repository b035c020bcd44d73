"""The monitor of one virtual machine, as its freezer, its tracker and its view share it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from replicad.storage.undisturbed import undisturbed

from .qmp import Qmp, connect


class Monitor:
    """Connects to the monitor's socket when somebody needs it, and lets go when nobody does: others may want it.

    All who need it at a time share one connection, since QEMU serves one client at a time. For one event loop.
    """

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._opening = asyncio.Lock()
        self._open: Qmp | None = None
        self._users: dict[Qmp, int] = {}
        self.executor = ThreadPoolExecutor(2, thread_name_prefix="qemu")
        """For what blocks: looking names up, and /proc."""

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Qmp]:
        """A connection; raises what `connect` does. One that was lost is not handed out again."""
        async with self._opening:
            if self._open is None or self._open.lost:
                self._open = await connect(self.executor, self.path, self._timeout_s)
            qmp = self._open
            self._users[qmp] = self._users.get(qmp, 0) + 1
        try:
            yield qmp
        finally:
            await undisturbed(self._leave(qmp))

    async def _leave(self, qmp: Qmp) -> None:
        # Whoever comes meanwhile waits until the socket is free again.
        async with self._opening:
            self._users[qmp] -= 1
            if self._users[qmp]:
                return
            del self._users[qmp]
            if self._open is qmp:
                self._open = None
            await qmp.close()
