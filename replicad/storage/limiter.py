"""Waiting until bytes may travel."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from replicad.model.timetable import Timetable, rate_at
from replicad.model.token_bucket import LEAST_PIECE_BYTES, TokenBucket

from .turns import Turn, Turns

_MINUTE_S = 60.0


class Limiter:
    """One limit for one direction, by a timetable that can be changed at any time; None is no limit.

    Of several users that wait each is let through as much as any other, and one's bytes in the order in which it asked.
    `local_now` is what the clock on the wall shows. It is looked at once a
    minute at most, on the minute, and only while there is something to let through: rates change between minutes only,
    and a clock that is set, to summer time or by hand, is noticed like that as well. To be used on one event loop.
    """

    def __init__(self, timetable: Timetable | None, local_now: Callable[[], datetime]) -> None:
        self._timetable = timetable
        self._local_now = local_now
        self._bucket = TokenBucket(None, 0.0)
        self._look_again_s = -math.inf
        self._turns = Turns()
        self._waiting = 0
        self._pause: asyncio.Future[None] | None = None

    def set_timetable(self, timetable: Timetable | None) -> None:
        """Another timetable, from now on and also for those who wait."""
        self._timetable = timetable
        self._look_again_s = -math.inf
        if timetable is None:
            self._bucket = TokenBucket(None, 0.0)
        self._wake()

    def piece_bytes(self) -> int | None:
        """The most to let through at a time for the traffic to be smooth; None if there is no limit now.

        The more there are who wait, the less: then everyone has a turn several times a second, whatever others want.
        """
        if self._timetable is None:
            return None
        self._look(asyncio.get_running_loop().time())
        piece_bytes = self._bucket.piece_bytes
        return max(piece_bytes // (1 + self._waiting), LEAST_PIECE_BYTES) if piece_bytes is not None else None

    async def take(self, count_bytes: int, user: str | None = None) -> None:
        """Wait until so many bytes of this user may travel. If it is cancelled nothing was taken."""
        if self._timetable is None and not self._turns.is_taken:
            return
        self._waiting += 1
        try:
            async with self._turns.turn(user, count_bytes) as turn:
                await self._wait_and_take(count_bytes, turn)
        finally:
            self._waiting -= 1

    async def _wait_and_take(self, count_bytes: int, turn: Turn) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now_s = loop.time()
            self._look(now_s)
            wait_s = self._bucket.wait_s(now_s)
            if wait_s > 0:
                await self._sleep(loop, min(wait_s, self._look_again_s - now_s))
            elif not await turn.is_overtaken():
                break
        self._bucket.take(count_bytes, now_s)

    def give_back(self, count_bytes: int) -> None:
        """So many of the bytes that were taken did not travel after all."""
        self._bucket.give_back(count_bytes)
        self._wake()

    def _look(self, now_s: float) -> None:
        """Take the rate from the timetable, if that was not done in this minute."""
        if self._timetable is None or now_s < self._look_again_s:
            return
        local = self._local_now()
        self._bucket.set_rate(rate_at(self._timetable, local), now_s)
        self._look_again_s = now_s + _MINUTE_S - local.second - local.microsecond / 1e6

    async def _sleep(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """For so long, or until something has changed."""
        self._pause = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            await self._pause
        finally:
            timer.cancel()
            self._pause = None

    def _wake(self) -> None:
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)


@dataclass(frozen=True, slots=True)
class Throttle:
    """All limits for one direction of some traffic: that of the virtual machine before that of everything. `user` is
    whose traffic it is: what is limited for all is shared evenly between users."""

    limiters: tuple[Limiter, ...]
    user: str | None = None

    def piece_bytes(self) -> int | None:
        """As for a `Limiter`: what the narrowest one says."""
        pieces = [piece for limiter in self.limiters if (piece := limiter.piece_bytes()) is not None]
        return min(pieces, default=None)

    async def take(self, count_bytes: int) -> None:
        """Wait until all limits let so many bytes travel. If it is cancelled nothing was taken."""
        taken: list[Limiter] = []
        try:
            for limiter in self.limiters:
                await limiter.take(count_bytes, self.user)
                taken.append(limiter)
        except BaseException:
            for limiter in taken:
                limiter.give_back(count_bytes)
            raise

    def give_back(self, count_bytes: int) -> None:
        """So many of the bytes that were taken did not travel after all."""
        for limiter in self.limiters:
            limiter.give_back(count_bytes)
