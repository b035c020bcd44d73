"""A share that counts what goes through it."""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

from replicad.model.extent_maps import ExtentMap
from replicad.model.extents import Extent

from .decorated import DecoratedFile, DecoratedShare
from .port import (
    Buffer,
    Capabilities,
    Clones,
    CopyRange,
    Identity,
    LockHolder,
    OpenMode,
    Piece,
    Share,
    ShareFile,
    ShareLock,
    Stat,
)

T = TypeVar("T")


@dataclass(slots=True)
class Meter:
    """What went through since it was made. Only what succeeded is in the bytes; `calls` has every attempt.

    `copied_bytes` and `zeroed_bytes` did not travel (unless the share below falls back to writing zeros).
    """

    read_bytes: int = 0
    written_bytes: int = 0
    copied_bytes: int = 0
    zeroed_bytes: int = 0
    calls: Counter[str] = field(default_factory=Counter)


class MeteredFile(DecoratedFile):
    """A file of a `MeteredShare`."""

    def __init__(self, inner: ShareFile, meter: Meter) -> None:
        super().__init__(inner)
        self._meter = meter

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        self._meter.calls["read_into"] += 1
        count = await self.inner.read_into(buffer, offset)
        self._meter.read_bytes += count
        return count

    async def read_and(
        self, buffer: bytearray | memoryview, offset: int, use: Callable[[memoryview], T], executor: Executor
    ) -> T:
        self._meter.calls["read_and"] += 1
        count, result = await self.inner.read_and(buffer, offset, lambda part: (len(part), use(part)), executor)
        self._meter.read_bytes += count
        return result

    async def write(self, data: Buffer, offset: int) -> None:
        self._meter.calls["write"] += 1
        await self.inner.write(data, offset)
        self._meter.written_bytes += memoryview(data).nbytes

    async def write_pieces(self, pieces: Sequence[Piece]) -> None:
        self._meter.calls["write_pieces"] += 1
        await self.inner.write_pieces(pieces)
        self._meter.written_bytes += sum(memoryview(data).nbytes for data, _ in pieces)

    async def zero(self, offset: int, length: int) -> None:
        self._meter.calls["zero"] += 1
        await self.inner.zero(offset, length)
        self._meter.zeroed_bytes += length

    async def copy_from(self, source: ShareFile, ranges: Sequence[CopyRange]) -> None:
        self._meter.calls["copy_from"] += 1
        await super().copy_from(source, ranges)
        self._meter.copied_bytes += sum(one.length_bytes for one in ranges)

    async def allocated_extents(self) -> list[Extent]:
        self._meter.calls["allocated_extents"] += 1
        return await self.inner.allocated_extents()

    async def flush(self) -> None:
        self._meter.calls["flush"] += 1
        await self.inner.flush()

    async def set_size(self, size: int) -> None:
        self._meter.calls["set_size"] += 1
        await self.inner.set_size(size)

    async def identity(self) -> Identity:
        self._meter.calls["identity"] += 1
        return await self.inner.identity()

    async def close(self) -> None:
        self._meter.calls["close"] += 1
        await self.inner.close()


class MeteredShare(DecoratedShare):
    """A share that counts into `meter`, which several shares may have in common."""

    def __init__(self, inner: Share, meter: Meter | None = None) -> None:
        super().__init__(inner)
        self.meter = meter if meter is not None else Meter()

    def _wrap(self, file: ShareFile) -> ShareFile:
        return MeteredFile(file, self.meter)

    async def open(self, path: str, mode: OpenMode) -> ShareFile:
        self.meter.calls["open"] += 1
        return await super().open(path, mode)

    async def stat(self, path: str) -> Stat:
        self.meter.calls["stat"] += 1
        return await self.inner.stat(path)

    async def list(self, path: str) -> builtins.list[Stat]:
        self.meter.calls["list"] += 1
        return await self.inner.list(path)

    async def make_dir(self, path: str) -> None:
        self.meter.calls["make_dir"] += 1
        await self.inner.make_dir(path)

    async def rename(self, source: str, target: str, *, replace: bool = False) -> None:
        self.meter.calls["rename"] += 1
        await self.inner.rename(source, target, replace=replace)

    async def remove(self, path: str) -> None:
        self.meter.calls["remove"] += 1
        await self.inner.remove(path)

    async def flush_directory(self, path: str) -> None:
        self.meter.calls["flush_directory"] += 1
        await self.inner.flush_directory(path)

    async def free_bytes(self) -> int:
        self.meter.calls["free_bytes"] += 1
        return await self.inner.free_bytes()

    async def lock(self, path: str, holder: LockHolder) -> ShareLock:
        self.meter.calls["lock"] += 1
        return await self.inner.lock(path, holder)

    async def lock_holder(self, path: str) -> LockHolder | None:
        self.meter.calls["lock_holder"] += 1
        return await self.inner.lock_holder(path)

    async def capabilities(self) -> Capabilities:
        self.meter.calls["capabilities"] += 1
        return await self.inner.capabilities()

    async def clones(self, paths: Sequence[str]) -> Clones:
        self.meter.calls["clones"] += len(paths)
        return await super().clones(paths)

    async def extent_map(self, file: ShareFile) -> ExtentMap:
        self.meter.calls["extent_map"] += 1
        return await super().extent_map(file)
