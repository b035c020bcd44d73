"""Shares and files that stand in front of others: the base of throttling, retrying, counting and breaking ones.

Each method hands over to the inner object; a decorator overrides what it cares about. `write_pieces` and `read_and`
of one that overrides `write` or `read_into` are made of those, piece by piece and with one more hop to a thread, unless
it overrides them, too: all that stand in a path of data do.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from types import TracebackType
from typing import Self, TypeVar, cast

from replicad.model.errors import UnsupportedError
from replicad.model.extent_maps import ExtentMap
from replicad.model.extents import Extent

from .port import (
    Buffer,
    Capabilities,
    CloneForecast,
    Clones,
    CloningShare,
    CopyRange,
    Identity,
    LockHolder,
    OpenMode,
    Piece,
    RoomOnDisk,
    Share,
    ShareFile,
    ShareLock,
    Stat,
)
from .using import read_then_use

T = TypeVar("T")


def innermost(file: ShareFile) -> ShareFile:
    """The file of an adapter, out of all that stands in front of it. Adapters copy from that."""
    while isinstance(file, DecoratedFile):
        file = file.inner
    return file


def cloning(share: Share) -> CloningShare:
    """The same share, for who wants to clone its files. UnsupportedError if it is of a kind that never can."""
    below = share
    while isinstance(below, DecoratedShare):
        below = below.inner
    if not hasattr(below, "clones"):
        raise UnsupportedError("clone files of", share.name, "only local file systems can do that")
    return cast("CloningShare", share)


class DecoratedFile:
    """A file in front of another."""

    def __init__(self, inner: ShareFile) -> None:
        self.inner = inner

    @property
    def path(self) -> str:
        return self.inner.path

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        return await self.inner.read_into(buffer, offset)

    async def read_and(
        self, buffer: bytearray | memoryview, offset: int, use: Callable[[memoryview], T], executor: Executor
    ) -> T:
        if type(self).read_into is DecoratedFile.read_into:
            return await self.inner.read_and(buffer, offset, use, executor)
        return await read_then_use(self, buffer, offset, use, executor)

    async def write(self, data: Buffer, offset: int) -> None:
        await self.inner.write(data, offset)

    async def write_pieces(self, pieces: Sequence[Piece]) -> None:
        if type(self).write is DecoratedFile.write:
            await self.inner.write_pieces(pieces)
            return
        for data, offset in pieces:
            await self.write(data, offset)

    async def zero(self, offset: int, length: int) -> None:
        await self.inner.zero(offset, length)

    async def copy_from(self, source: ShareFile, ranges: Sequence[CopyRange]) -> None:
        await self.inner.copy_from(innermost(source), ranges)

    async def allocated_extents(self) -> list[Extent]:
        return await self.inner.allocated_extents()

    async def flush(self) -> None:
        await self.inner.flush()

    async def set_size(self, size: int) -> None:
        await self.inner.set_size(size)

    async def identity(self) -> Identity:
        return await self.inner.identity()

    async def close(self) -> None:
        await self.inner.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class DecoratedShare:
    """A share in front of another. A decorator of files overrides `_wrap`."""

    def __init__(self, inner: Share) -> None:
        self.inner = inner

    def _wrap(self, file: ShareFile) -> ShareFile:
        return file

    @property
    def name(self) -> str:
        return self.inner.name

    async def open(self, path: str, mode: OpenMode) -> ShareFile:
        return self._wrap(await self.inner.open(path, mode))

    async def stat(self, path: str) -> Stat:
        return await self.inner.stat(path)

    async def list(self, path: str) -> builtins.list[Stat]:
        return await self.inner.list(path)

    async def make_dir(self, path: str) -> None:
        await self.inner.make_dir(path)

    async def rename(self, source: str, target: str, *, replace: bool = False) -> None:
        await self.inner.rename(source, target, replace=replace)

    async def remove(self, path: str) -> None:
        await self.inner.remove(path)

    async def flush_directory(self, path: str) -> None:
        await self.inner.flush_directory(path)

    async def free_bytes(self) -> int:
        return await self.inner.free_bytes()

    async def lock(self, path: str, holder: LockHolder) -> ShareLock:
        return await self.inner.lock(path, holder)

    async def lock_holder(self, path: str) -> LockHolder | None:
        return await self.inner.lock_holder(path)

    async def capabilities(self) -> Capabilities:
        return await self.inner.capabilities()

    async def close(self) -> None:
        await self.inner.close()

    async def clones(self, paths: Sequence[str]) -> Clones:
        return _DecoratedClones(await cloning(self.inner).clones(paths), self._wrap)

    async def give_name(self, clone: ShareFile, path: str) -> None:
        await cloning(self.inner).give_name(clone, path)

    async def fingerprint(self, file: ShareFile) -> str:
        return await cloning(self.inner).fingerprint(file)

    async def extent_map(self, file: ShareFile) -> ExtentMap:
        return await cloning(self.inner).extent_map(file)

    async def room(self) -> RoomOnDisk:
        return await cloning(self.inner).room()


class _DecoratedClones:
    """Clones whose files are those of the decorator."""

    def __init__(self, inner: Clones, wrap: Callable[[ShareFile], ShareFile]) -> None:
        self._inner = inner
        self._wrap = wrap

    async def forecast(self) -> tuple[CloneForecast, ...]:
        return await self._inner.forecast()

    async def approach(self) -> tuple[CloneForecast, ...]:
        return await self._inner.approach()

    async def held(self) -> bool:
        return await self._inner.held()

    async def take(self) -> tuple[ShareFile, ...]:
        return tuple(self._wrap(file) for file in await self._inner.take())

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._inner.__aexit__(exc_type, exc, trace)
