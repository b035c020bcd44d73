"""Buffers of one size, lent and given back: no more than a fixed number at a time, and few of them asked for anew."""

from __future__ import annotations

import asyncio


class Buffers:
    """Lends up to `count` buffers of `size_bytes` at a time, first come, first served; each is made when it is needed.

    Of those that nobody uses `kept` are kept for the next ones. For one event loop.
    """

    def __init__(self, count: int, size_bytes: int, kept: int) -> None:
        self.size_bytes = size_bytes
        self._kept = kept
        self._places = asyncio.Semaphore(count)
        self._free: list[bytearray] = []

    async def borrow(self) -> Borrowed:
        """Wait for a buffer. What is in it is what its last user left."""
        await self._places.acquire()
        return Borrowed(self, self._free.pop() if self._free else bytearray(self.size_bytes))

    def take_back(self, buffer: bytearray) -> None:
        """For `Borrowed`: nobody uses it any more."""
        if len(self._free) < self._kept:
            self._free.append(buffer)
        self._places.release()


class Borrowed:
    """A buffer and how many use it: it goes back when each of them has given it back. Made with one user."""

    __slots__ = ("_lender", "_users", "buffer")

    def __init__(self, lender: Buffers, buffer: bytearray) -> None:
        self.buffer = buffer
        self._lender = lender
        self._users = 1

    def keep(self) -> None:
        """One user more. ValueError if it was given back already."""
        if self._users == 0:
            raise ValueError("the buffer was given back")
        self._users += 1

    def give_back(self) -> None:
        """One user fewer. ValueError if nobody had it any more."""
        if self._users == 0:
            raise ValueError("the buffer was given back")
        self._users -= 1
        if self._users == 0:
            self._lender.take_back(self.buffer)
