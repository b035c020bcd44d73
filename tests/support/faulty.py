"""A share that breaks where it is told to: for tests that break every single step.

Every call that changes anything is numbered from 1 in the order in which the calls begin: open with CREATE, write,
zero, copy_from, set_size, flush, rename, remove, make_dir, flush_directory, lock, and the release of a lock. A first
run without faults tells how many there are (`len(share.log)`); then one run for each number and each kind of fault.
"""

from __future__ import annotations

import builtins
import copy
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Self, TypeVar

from replicad.model.errors import ReplicadError
from replicad.model.extents import Extent
from replicad.storage.decorated import DecoratedFile, DecoratedShare, innermost
from replicad.storage.memory import MemoryFile, MemoryLock, MemoryShare
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


class Crash(BaseException):
    """The end of the process. No code but the test's may catch it."""


class When(Enum):
    """What is done of the call before it fails."""

    BEFORE = "before"
    AFTER = "after"
    TORN = "torn"
    """Half of a write, zero or copy_from; nothing of any other call."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at one call: `error` is raised, or the process crashes if it is None."""

    when: When
    error: ReplicadError | None = None


CRASHES = tuple(Fault(when) for when in When)


async def crashes(work: Coroutine[Any, Any, object]) -> bool:
    """Whether the work ended in a crash. Anything else that it raises is raised."""
    try:
        await work
    except Crash:
        return True
    except BaseExceptionGroup as group:
        _, others = group.split(Crash)
        if others is not None:
            raise
        return True
    return False


class FaultyShare(DecoratedShare):
    """A share in front of another, for one life of one process. `faults` are by the number of the call.

    After a crash every call raises Crash, and a `MemoryShare` below is told that this host has died: it frees the
    locks and closes the files. For the next life take another view of it.
    """

    def __init__(self, inner: Share, faults: Mapping[int, Fault] | None = None) -> None:
        super().__init__(inner)
        self.faults = dict(faults or {})
        self.log: builtins.list[str] = []
        self.crashed = False

    def alive(self) -> None:
        """Raise Crash if there has been one."""
        if self.crashed:
            raise Crash

    async def change(
        self, what: str, whole: Callable[[], Awaitable[T]], half: Callable[[], Awaitable[object]] | None = None
    ) -> T:
        """Make a numbered call, with what is to happen there."""
        self.alive()
        self.log.append(what)
        fault = self.faults.get(len(self.log))
        if fault is None:
            result = await whole()
            self.alive()
            return result
        if fault.when is When.AFTER:
            await _give_back(await whole())
        elif fault.when is When.TORN and half is not None:
            await half()
        self.alive()
        self.struck()
        if fault.error is not None:
            raise copy.copy(fault.error)  # one that is raised again keeps all that the last one was raised in
        self.crash()
        raise Crash

    def struck(self) -> None:
        """What else happens in the moment of a fault, before its error is raised or the process crashes."""

    def crash(self) -> None:
        """End this process's life."""
        self.crashed = True
        below = self.inner
        while isinstance(below, DecoratedShare):
            below = below.inner
        if isinstance(below, MemoryShare):
            below.die()

    async def look(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call that changes nothing."""
        self.alive()
        result = await call()
        self.alive()
        return result

    async def open(self, path: str, mode: OpenMode) -> ShareFile:
        if mode is OpenMode.CREATE:
            return FaultyFile(self, await self.change(f"create {path}", lambda: self.inner.open(path, mode)))
        return FaultyFile(self, await self.look(lambda: self.inner.open(path, mode)))

    async def stat(self, path: str) -> Stat:
        return await self.look(lambda: self.inner.stat(path))

    async def list(self, path: str) -> builtins.list[Stat]:
        return await self.look(lambda: self.inner.list(path))

    async def make_dir(self, path: str) -> None:
        await self.change(f"make_dir {path}", lambda: self.inner.make_dir(path))

    async def rename(self, source: str, target: str, *, replace: bool = False) -> None:
        await self.change(f"rename {source} to {target}", lambda: self.inner.rename(source, target, replace=replace))

    async def remove(self, path: str) -> None:
        await self.change(f"remove {path}", lambda: self.inner.remove(path))

    async def flush_directory(self, path: str) -> None:
        await self.change(f"flush_directory {path}", lambda: self.inner.flush_directory(path))

    async def free_bytes(self) -> int:
        return await self.look(self.inner.free_bytes)

    async def lock(self, path: str, holder: LockHolder) -> ShareLock:
        return FaultyLock(self, await self.change(f"lock {path}", lambda: self.inner.lock(path, holder)), path)

    async def lock_holder(self, path: str) -> LockHolder | None:
        return await self.look(lambda: self.inner.lock_holder(path))

    async def capabilities(self) -> Capabilities:
        return await self.look(self.inner.capabilities)

    async def close(self) -> None:
        self.alive()
        await self.inner.close()


class FaultyFile(DecoratedFile):
    """A file of a `FaultyShare`."""

    def __init__(self, share: FaultyShare, inner: ShareFile) -> None:
        super().__init__(inner)
        self._share = share

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        return await self._share.look(lambda: self.inner.read_into(buffer, offset))

    async def write(self, data: Buffer, offset: int) -> None:
        view = memoryview(data).cast("B")
        await self._share.change(
            f"write {self.path} at {offset}, {len(view)} bytes",
            lambda: self.inner.write(view, offset),
            lambda: self.inner.write(view[: len(view) // 2], offset),
        )

    async def zero(self, offset: int, length: int) -> None:
        await self._share.change(
            f"zero {self.path} at {offset}, {length} bytes",
            lambda: self.inner.zero(offset, length),
            lambda: self.inner.zero(offset, length // 2),
        )

    async def copy_from(self, source: ShareFile, ranges: Sequence[CopyRange]) -> None:
        below = innermost(source)
        await self._share.change(
            f"copy_from {source.path} to {self.path}, {len(ranges)} ranges",
            lambda: self.inner.copy_from(below, ranges),
            lambda: self.inner.copy_from(below, _half(ranges)),
        )

    async def allocated_extents(self) -> list[Extent]:
        return await self._share.look(self.inner.allocated_extents)

    async def flush(self) -> None:
        await self._share.change(f"flush {self.path}", self.inner.flush)

    async def set_size(self, size: int) -> None:
        await self._share.change(f"set_size {self.path} to {size}", lambda: self.inner.set_size(size))

    async def identity(self) -> Identity:
        return await self._share.look(self.inner.identity)

    async def close(self) -> None:
        self._share.alive()
        await self.inner.close()


class FaultyLock:
    """A lock of a `FaultyShare`."""

    def __init__(self, share: FaultyShare, inner: ShareLock, path: str) -> None:
        self._share = share
        self._inner = inner
        self._path = path

    async def check(self) -> None:
        await self._share.look(self._inner.check)

    async def release(self) -> None:
        await self._share.change(f"release {self._path}", self._inner.release)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()


async def _give_back(result: object) -> None:
    """What a server does with a file or a lock whose opener it can't tell of it."""
    if isinstance(result, MemoryFile):
        await result.close()
    elif isinstance(result, MemoryLock):
        await result.release()


def _half(ranges: Sequence[CopyRange]) -> list[CopyRange]:
    left = sum(one.length_bytes for one in ranges) // 2
    result = []
    for one in ranges:
        length = min(left, one.length_bytes)
        result.append(CopyRange(one.source_offset_bytes, one.offset_bytes, length))
        left -= length
    return result
