"""A share whose bytes wait their turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from .decorated import DecoratedFile, DecoratedShare
from .limiter import Throttle
from .port import Buffer, Piece, Share, ShareFile

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Throttles:
    """What bytes have to pass that are sent to a share, and those that are received from it."""

    sending: Throttle
    receiving: Throttle


class ThrottledFile(DecoratedFile):
    """A file of a `ThrottledShare`."""

    def __init__(self, inner: ShareFile, throttles: Throttles) -> None:
        super().__init__(inner)
        self._throttles = throttles

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        throttle = self._throttles.receiving
        if throttle.piece_bytes() is None:
            return await self.inner.read_into(buffer, offset)
        view, done = memoryview(buffer).cast("B"), 0
        while True:
            piece = view[done : done + (throttle.piece_bytes() or len(view))]
            await throttle.take(len(piece))
            count = await self.inner.read_into(piece, offset + done)
            done += count
            if count < len(piece):
                throttle.give_back(len(piece) - count)
                return done
            if done == len(view):
                return done

    async def read_and(
        self, buffer: bytearray | memoryview, offset: int, use: Callable[[memoryview], T], executor: Executor
    ) -> T:
        if self._throttles.receiving.piece_bytes() is None:
            return await self.inner.read_and(buffer, offset, use, executor)
        return await super().read_and(buffer, offset, use, executor)

    async def write(self, data: Buffer, offset: int) -> None:
        throttle = self._throttles.sending
        if throttle.piece_bytes() is None:
            await self.inner.write(data, offset)
            return
        view, done = memoryview(data).cast("B"), 0
        while True:
            piece = view[done : done + (throttle.piece_bytes() or len(view))]
            await throttle.take(len(piece))
            await self.inner.write(piece, offset + done)
            done += len(piece)
            if done == len(view):
                return

    async def write_pieces(self, pieces: Sequence[Piece]) -> None:
        if self._throttles.sending.piece_bytes() is None:
            await self.inner.write_pieces(pieces)
        else:
            await super().write_pieces(pieces)


class ThrottledShare(DecoratedShare):
    """A share whose files are read and written no faster than the throttles allow, in pieces small enough for that to
    be smooth. Without a limit calls go through whole.

    What the share does by itself is free: `copy_from` and `zero`. Where it can't copy, whoever reads and writes in its
    stead does so here. What adapters send beside the bytes of files is not counted: requests, names, lock files, and
    the zeros that some of them write where a share can't free space.
    """

    def __init__(self, inner: Share, throttles: Throttles) -> None:
        super().__init__(inner)
        self._throttles = throttles

    def _wrap(self, file: ShareFile) -> ShareFile:
        return ThrottledFile(file, self._throttles)
