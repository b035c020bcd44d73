"""A share whose reading outlives its connection.

A lost connection takes open files with it, and locks. What can be gone on with is the reading of a file that nobody
has changed meanwhile: it is opened again, and the very call that failed is made again. What is written is none of this:
the bytes that were under way are in doubt, and the lock that protects them may be somebody else's by now.
"""

from __future__ import annotations

import asyncio
import builtins
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import TypeVar

from replicad.model.clock import Clock
from replicad.model.errors import BusyError, ReplicadError, was_lost
from replicad.model.extents import Extent
from replicad.model.names import path_on
from replicad.model.patience import Failures, Patience
from replicad.model.progress import Observer, Warned

from .decorated import DecoratedFile, DecoratedShare
from .port import Identity, OpenMode, Share, ShareFile, Stat

T = TypeVar("T")

PATIENCE = Patience(first_pause_s=0.5, longest_pause_s=15, failures=1, seconds=120)


async def _nothing() -> None:
    pass


class RetryingShare(DecoratedShare):
    """A share in front of `inner`, on which `stat`, `list`, and opening and reading files with `OpenMode.READ` survive
    the loss of the connection, as long as it comes back within the patience.

    `regain` is awaited before anything is asked again: it takes back what else went with the connection, or raises
    why that can't be. `observe` is told once that a connection was lost, and once that it is back. All other calls,
    and files opened in another mode, are those of `inner`.
    """

    def __init__(
        self,
        inner: Share,
        clock: Clock,
        observe: Observer,
        regain: Callable[[], Awaitable[None]] = _nothing,
        patience: Patience | None = None,
    ) -> None:
        super().__init__(inner)
        self._losses = _Losses(inner.name, clock, observe, regain, patience or PATIENCE)

    async def open(self, path: str, mode: OpenMode) -> ShareFile:
        if mode is not OpenMode.READ:
            return await self.inner.open(path, mode)
        file = await self.steadily(lambda: self.inner.open(path, mode))
        return _RetryingFile(file, self.inner, path, self._losses)

    async def stat(self, path: str) -> Stat:
        return await self.steadily(lambda: self.inner.stat(path))

    async def list(self, path: str) -> builtins.list[Stat]:
        return await self.steadily(lambda: self.inner.list(path))

    async def steadily(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of any call on `inner` that can be made again without harm."""
        epoch = self._losses.epoch
        try:
            result = await call()
        except ReplicadError as error:
            result = await self._losses.outlive(error, epoch, call)
            epoch = self._losses.epoch
        self._losses.went_on(epoch)
        return result


class _RetryingFile(DecoratedFile):
    """A file opened for READ. Only one call at a time opens it again; the others then find it open."""

    def __init__(self, inner: ShareFile, share: Share, path: str, losses: _Losses) -> None:
        super().__init__(inner)
        self._share = share
        self._path = path
        self._losses = losses
        self._epoch = losses.epoch
        self._identity: Identity | None = None
        self._identifying = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._calls: Counter[ShareFile] = Counter()
        """How many calls are under way on a file."""

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        await self._identify()
        return await self._steadily(lambda file: file.read_into(buffer, offset))

    async def read_and(
        self, buffer: bytearray | memoryview, offset: int, use: Callable[[memoryview], T], executor: Executor
    ) -> T:
        await self._identify()
        return await self._steadily(lambda file: file.read_and(buffer, offset, use, executor))

    async def allocated_extents(self) -> list[Extent]:
        await self._identify()
        return await self._steadily(lambda file: file.allocated_extents())

    async def identity(self) -> Identity:
        found = await self._steadily(lambda file: file.identity())
        if self._identity is None:
            self._identity = found
        return found

    async def _identify(self) -> None:
        """Learn which file it is before anything is read from it; most readers have asked for that themselves."""
        if self._identity is None:
            async with self._identifying:
                if self._identity is None:
                    await self.identity()

    async def _steadily(self, call: Callable[[ShareFile], Awaitable[T]]) -> T:
        while True:
            file, epoch = self.inner, self._epoch
            try:
                async with self._kept_open(file):
                    result = await call(file)
            except ReplicadError as error:
                await self._open_instead_of(file, epoch, error)
            else:
                self._losses.went_on(epoch)
                return result

    @asynccontextmanager
    async def _kept_open(self, file: ShareFile) -> AsyncIterator[None]:
        """A call on a file that was lost may have begun and still wait for its turn: it has to find the file lost, not
        closed. The last one closes it."""
        self._calls[file] += 1
        try:
            yield
        finally:
            self._calls[file] -= 1
            if file is not self.inner:
                await self._close_unused(file)

    async def _close_unused(self, file: ShareFile) -> None:
        if not self._calls[file]:
            del self._calls[file]
            await file.close()

    async def _open_instead_of(self, file: ShareFile, epoch: int, error: ReplicadError) -> None:
        async with self._opening:
            if self.inner is not file:
                return
            self.inner = await self._losses.outlive(error, epoch, self._open_again)
            self._epoch = self._losses.epoch
        await self._close_unused(file)

    async def _open_again(self) -> ShareFile:
        file = await self._share.open(self._path, OpenMode.READ)
        try:
            if self._identity is not None and await file.identity() != self._identity:
                raise BusyError(
                    "go on reading", path_on(self._share.name, self._path),
                    "the connection was lost, and the file was changed before it came back", "Run it again.",
                )  # fmt: skip
        except BaseException:
            await file.close()
            raise
        return file


class _Losses:
    """What all files of one share have in common: whether the connection is there, and how long it has not been.

    The epoch grows with every failure. What was opened in an earlier one is lost with a connection of which that is
    known already.
    """

    def __init__(
        self, name: str, clock: Clock, observe: Observer, regain: Callable[[], Awaitable[None]], patience: Patience
    ) -> None:
        self.epoch = 0
        self._name = name
        self._clock = clock
        self._observe = observe
        self._regain = regain
        self._failures = Failures(patience)
        self._one_at_a_time = asyncio.Lock()

    async def outlive(self, error: ReplicadError, epoch: int, again: Callable[[], Awaitable[T]]) -> T:
        """What `again` returns, when it goes well at last. `error` is what was raised by what was opened in `epoch`.

        Raises it, or the latest error, if that is no lost connection or patience is at its end.
        """
        if not was_lost(error):
            raise error
        async with self._one_at_a_time:
            if epoch == self.epoch:
                await self._pause(error)
            while True:
                try:
                    await self._regain()
                    return await again()
                except ReplicadError as another:
                    if not was_lost(another):
                        raise
                    await self._pause(another)

    def went_on(self, epoch: int) -> None:
        """A call went well on what was opened in `epoch`."""
        if self._failures.count and epoch == self.epoch:
            self._failures.forget()
            self._observe(Warned(f"{self._name} can be reached again; reading goes on where it was"))

    async def _pause(self, error: ReplicadError) -> None:
        pause_s = self._failures.another(self._clock.monotonic_s())
        if pause_s is None:
            raise error
        self.epoch += 1
        if self._failures.count == 1:
            self._observe(Warned(f"the connection to {self._name} was lost ({error.answer}); trying again"))
        await self._clock.sleep(pause_s)
