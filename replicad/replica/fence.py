"""What stands between a writer that has lost its lock and the replica."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

RECENT_S = 0.25
"""How old an answer about the lock may be for the next batch to be written on its strength.

A batch takes the time that its bytes need on the way, so there is always a while between an answer and the last byte
that rests on it. Asking takes four requests, which on a fast link is as much work as sending a megabyte.
"""


class Fence:
    """Raises what `check`, the lock's own, raises if the lock was lost.

    `monotonic_s` is a steady clock: a writer that was stopped for a while asks before it goes on.
    """

    def __init__(self, check: Callable[[], Awaitable[None]], monotonic_s: Callable[[], float]) -> None:
        self._check = check
        self._monotonic_s = monotonic_s
        self._asked_s: float | None = None

    async def still_ours(self) -> None:
        """The lock was held when this was called."""
        asked_s = self._monotonic_s()
        await self._check()
        self._asked_s = asked_s

    async def recently_ours(self) -> None:
        """The lock was held a quarter of a second ago, or later."""
        if self._asked_s is None or self._monotonic_s() - self._asked_s >= RECENT_S:
            await self.still_ours()
