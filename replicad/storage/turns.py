"""Turns at something that several users share: each of them gets as much of it as any other that wants it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count


class Turns:
    """One at a time has its turn. Start-time fair queueing (Goyal, Vin, Cheng 1996): each turn takes some of a user's
    time, and it is always the turn of who waits and has had least.

    Who wanted nothing for a while has saved nothing up. Turns of one user come in the order in which they were asked
    for, and so do those of equal users. For one event loop.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._ends: dict[str | None, float] = {}
        self._numbers = count()
        self._waiting: list[_Waiting] = []
        self._is_taken = False

    @property
    def is_taken(self) -> bool:
        """Whether it is somebody's turn."""
        return self._is_taken

    @asynccontextmanager
    async def turn(self, user: str | None, amount: float) -> AsyncIterator[Turn]:
        """Wait for a turn that takes so much; it lasts until this is left. If that is by an error nothing was had."""
        begins = max(self._now, self._ends.get(user, 0.0))
        self._ends[user] = begins + amount
        turn = Turn(self, begins)
        try:
            await turn.come()
            yield turn
            self._now = max(self._now, begins)
        except BaseException:
            if user in self._ends:
                self._ends[user] -= amount
            raise
        finally:
            turn.pass_on()

    def is_before(self, begins: float) -> bool:
        """Whether anybody waits whose turn comes before one that begins then."""
        while self._waiting and self._waiting[0].told.done():
            heapq.heappop(self._waiting)  # it was cancelled
        return bool(self._waiting) and self._waiting[0].begins < begins

    def ask(self, begins: float) -> asyncio.Future[None]:
        """What is done when the turn that begins then has come."""
        told = asyncio.get_running_loop().create_future()
        if not self._is_taken:
            self._is_taken = True
            told.set_result(None)
        else:
            heapq.heappush(self._waiting, _Waiting(begins, next(self._numbers), told))
        return told

    def pass_on(self) -> None:
        """Whose turn it is has had it."""
        while self._waiting:
            told = heapq.heappop(self._waiting).told
            if not told.done():
                told.set_result(None)
                return
        self._is_taken = False
        # Nobody waits: all begin anew.
        self._now = 0.0
        self._ends.clear()


class Turn:
    """Somebody's turn, while `Turns.turn` is entered."""

    def __init__(self, turns: Turns, begins: float) -> None:
        self._turns = turns
        self._begins = begins
        self._told: asyncio.Future[None] | None = None

    async def is_overtaken(self) -> bool:
        """Whether somebody asked meanwhile who has had less: then that turn came first, and this one begins now."""
        if not self._turns.is_before(self._begins):
            return False
        told = self._turns.ask(self._begins)
        self.pass_on()
        self._told = told
        await told
        return True

    async def come(self) -> None:
        """Wait for it."""
        self._told = self._turns.ask(self._begins)
        await self._told

    def pass_on(self) -> None:
        """It is over, if it has come."""
        told, self._told = self._told, None
        if told is not None and told.done() and not told.cancelled():
            self._turns.pass_on()


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    begins: float
    number: int
    told: asyncio.Future[None] = field(compare=False)
