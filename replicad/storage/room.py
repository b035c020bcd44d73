"""A share that says how much room was missing when it is full."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from replicad.model.errors import OutOfSpaceError, ReplicadError

from .decorated import DecoratedFile, DecoratedShare, innermost
from .port import Buffer, CopyRange, Piece, Share, ShareFile


class RoomTellingShare(DecoratedShare):
    """A share in front of `inner`: an `OutOfSpaceError` of a file that is written says how many bytes were to be
    written and how many are free, and has the difference as its `missing_bytes`."""

    def _wrap(self, file: ShareFile) -> ShareFile:
        return _RoomTellingFile(file, self.inner)


class _RoomTellingFile(DecoratedFile):
    def __init__(self, inner: ShareFile, share: Share) -> None:
        super().__init__(inner)
        self._share = share

    async def write(self, data: Buffer, offset: int) -> None:
        await self._telling(memoryview(data).nbytes, lambda: self.inner.write(data, offset))

    async def write_pieces(self, pieces: Sequence[Piece]) -> None:
        length = sum(memoryview(data).nbytes for data, _ in pieces)
        await self._telling(length, lambda: self.inner.write_pieces(pieces))

    async def zero(self, offset: int, length: int) -> None:
        await self._telling(length, lambda: self.inner.zero(offset, length))

    async def copy_from(self, source: ShareFile, ranges: Sequence[CopyRange]) -> None:
        length = sum(one.length_bytes for one in ranges)
        await self._telling(length, lambda: self.inner.copy_from(innermost(source), ranges))

    async def _telling(self, wanted_bytes: int, call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except OutOfSpaceError as error:
            full = error
        else:
            return
        with suppress(ReplicadError):  # then it stays at what is known
            free_bytes = await self._share.free_bytes()
            answer = f"{full.answer}: {wanted_bytes} bytes more were to be written, and {free_bytes} are free"
            missing_bytes = max(0, wanted_bytes - free_bytes)
            full = OutOfSpaceError(full.op, full.subject, answer, full.hint, missing_bytes=missing_bytes)
        raise full from None
