"""A share whose connection is lost where the test says so, as an SMB connection is.

With it go its open files (the server closes them) and its locks; the next call on the share connects anew. Every call
of the port is numbered from 1 in the order in which the calls begin, the closing of files and the giving back of locks
left out: they never fail.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from types import TracebackType
from typing import Self, TypeVar

from replicad.model.errors import LockedError, ReplicadError, TimedOutError, UnreachableError
from replicad.model.extents import Extent
from replicad.storage.decorated import DecoratedFile, DecoratedShare, innermost
from replicad.storage.memory import MemoryFile, MemoryLock
from replicad.storage.port import (
    Buffer,
    Capabilities,
    CopyRange,
    Identity,
    LockHolder,
    OpenMode,
    Share,
    ShareFile,
    ShareLock,
    Stat,
)

T = TypeVar("T")


class Lost(Enum):
    """What a call has done when its connection is lost."""

    BEFORE = "request lost"
    AFTER = "answer lost"
    TIMED_OUT = "request never answered"


def at_call(number: int, how: Lost) -> Callable[[int, str], Lost | None]:
    """A judge that loses the connection at one call."""
    return lambda seen, what: how if seen == number else None


class LossyShare(DecoratedShare):
    """`judge` is asked at each call, given its number and what it is: how the connection is lost there, or None.

    `down` as long as no connection can be made. The next `locks_kept` attempts to lock after a loss find the lock still
    held, by a server that has not noticed the loss.
    """

    def __init__(self, inner: Share, judge: Callable[[int, str], Lost | None] = lambda number, what: None) -> None:
        super().__init__(inner)
        self.judge = judge
        self.down = False
        self.locks_kept = 0
        self.log: builtins.list[str] = []
        self.connections = 1
        self.files: builtins.list[LossyFile] = []
        self._locks: builtins.list[LossyLock] = []
        self._left_over: LockHolder | None = None
        self._cleaning: asyncio.Future[None] | None = None

    async def lose(self) -> None:
        """Lose the connection. What the server does about it is done before the next call reaches it."""
        self.connections += 1
        self._cleaning = asyncio.ensure_future(self._clean_up())
        await asyncio.shield(self._cleaning)

    async def _clean_up(self) -> None:
        files, self.files = self.files, []
        locks, self._locks = self._locks, []
        for file in files:
            await file.inner.close()
        for lock in locks:
            await lock.inner.release()
            self._left_over = lock.holder

    async def call(self, what: str, connection: int, whole: Callable[[], Awaitable[T]]) -> T:
        """Make a numbered call on a connection that may be lost before, meanwhile or after."""
        self.log.append(what)
        if self._cleaning is not None:
            await asyncio.shield(self._cleaning)
        if connection != self.connections or self.down:
            await asyncio.sleep(0)
            raise _lost(what)
        how = self.judge(len(self.log), what)
        if how is None:
            return await self._answered(what, connection, whole)
        if how is Lost.AFTER:
            with contextlib.suppress(ReplicadError):  # that is an answer, too
                await _give_back(await self._answered(what, connection, whole))
        await self.lose()
        raise TimedOutError(what, "nas", "no answer for 30 s") if how is Lost.TIMED_OUT else _lost(what)

    async def _answered(self, what: str, connection: int, whole: Callable[[], Awaitable[T]]) -> T:
        try:
            result = await whole()
        except (ReplicadError, ValueError):
            if connection == self.connections:
                raise
        else:
            if connection == self.connections:
                return result
            await _give_back(result)
        raise _lost(what)

    async def now(self, what: str, whole: Callable[[], Awaitable[T]]) -> T:
        """The same on the present connection."""
        return await self.call(what, self.connections, whole)

    async def open(self, path: str, mode: OpenMode) -> ShareFile:
        file = await self.now(f"open {path} to {mode.value}", lambda: self.inner.open(path, mode))
        self.files.append(LossyFile(self, file))
        return self.files[-1]

    async def stat(self, path: str) -> Stat:
        return await self.now(f"stat {path}", lambda: self.inner.stat(path))

    async def list(self, path: str) -> builtins.list[Stat]:
        return await self.now(f"list {path}", lambda: self.inner.list(path))

    async def make_dir(self, path: str) -> None:
        await self.now(f"make_dir {path}", lambda: self.inner.make_dir(path))

    async def rename(self, source: str, target: str, *, replace: bool = False) -> None:
        await self.now(f"rename {source} to {target}", lambda: self.inner.rename(source, target, replace=replace))

    async def remove(self, path: str) -> None:
        await self.now(f"remove {path}", lambda: self.inner.remove(path))

    async def flush_directory(self, path: str) -> None:
        await self.now(f"flush_directory {path}", lambda: self.inner.flush_directory(path))

    async def free_bytes(self) -> int:
        return await self.now("free_bytes", self.inner.free_bytes)

    async def lock(self, path: str, holder: LockHolder) -> ShareLock:
        async def take() -> ShareLock:
            if self._left_over is not None and self.locks_kept:
                self.locks_kept -= 1
                raise LockedError("lock", path, "it is held by us")
            return await self.inner.lock(path, holder)

        self._locks.append(LossyLock(self, await self.now(f"lock {path}", take), holder))
        return self._locks[-1]

    async def lock_holder(self, path: str) -> LockHolder | None:
        async def ask() -> LockHolder | None:
            return self._left_over if self.locks_kept else await self.inner.lock_holder(path)

        return await self.now(f"lock_holder {path}", ask)

    async def capabilities(self) -> Capabilities:
        return await self.now("capabilities", self.inner.capabilities)


class LossyFile(DecoratedFile):
    """A file of a `LossyShare`."""

    def __init__(self, share: LossyShare, inner: ShareFile) -> None:
        super().__init__(inner)
        self._share = share
        self._connection = share.connections
        self._open = True

    async def _call(self, what: str, whole: Callable[[], Awaitable[T]]) -> T:
        if not self._open:
            raise ValueError(f"{self.path} is closed")
        return await self._share.call(f"{what} {self.path}", self._connection, whole)

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        return await self._call("read", lambda: self.inner.read_into(buffer, offset))

    async def write(self, data: Buffer, offset: int) -> None:
        await self._call("write", lambda: self.inner.write(data, offset))

    async def zero(self, offset: int, length: int) -> None:
        await self._call("zero", lambda: self.inner.zero(offset, length))

    async def copy_from(self, source: ShareFile, ranges: Sequence[CopyRange]) -> None:
        await self._call("copy to", lambda: self.inner.copy_from(innermost(source), ranges))

    async def allocated_extents(self) -> list[Extent]:
        return await self._call("allocated_extents", self.inner.allocated_extents)

    async def flush(self) -> None:
        await self._call("flush", self.inner.flush)

    async def set_size(self, size: int) -> None:
        await self._call("set_size", lambda: self.inner.set_size(size))

    async def identity(self) -> Identity:
        return await self._call("identity", self.inner.identity)

    async def close(self) -> None:
        self._open = False
        if self in self._share.files:
            self._share.files.remove(self)
        await self.inner.close()


class LossyLock:
    """A lock of a `LossyShare`."""

    def __init__(self, share: LossyShare, inner: ShareLock, holder: LockHolder) -> None:
        self.inner = inner
        self.holder = holder
        self._share = share
        self._connection = share.connections

    async def check(self) -> None:
        await self._share.call("check the lock", self._connection, self.inner.check)

    async def release(self) -> None:
        if self._connection == self._share.connections:
            await self.inner.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()


async def _give_back(result: object) -> None:
    """What the server does with a file or lock whose opener it can't tell of it any more."""
    if isinstance(result, MemoryFile):
        await result.close()
    elif isinstance(result, MemoryLock):
        await result.release()


def _lost(what: str) -> UnreachableError:
    return UnreachableError(what, "nas", "the server reset the connection")
