"""Rounds of a move, read from clones, so that the next one knows by where the bytes lie what was written since."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from replicad.model.clock import Clock
from replicad.model.errors import UnsupportedError
from replicad.model.points import Consistency
from replicad.storage.decorated import cloning
from replicad.storage.port import Share, ShareFile

from .plain import PlainView
from .port import Instant, Request, Seen, SelectedFile, SnapshotFile
from .room import while_there_is_room


@dataclass(frozen=True, slots=True)
class ClonedRounds:
    """A `View` of certain files, each one as it was at an instant of its own; with an `ExtentTracker`, which keeps the
    clones. The last one shows the files themselves, which stand still then: that takes no clone's time.

    UnsupportedError where files can't be cloned, or one for which writes would have to wait longer than `max_stall_s`.
    """

    share: Share
    files: tuple[SelectedFile, ...]
    max_stall_s: float
    clock: Clock
    keep_free: Callable[[int], int]

    async def select(self) -> tuple[SelectedFile, ...]:
        return self.files

    @asynccontextmanager
    async def open(self, request: Request, instant: Instant) -> AsyncIterator[Seen]:
        async with AsyncExitStack() as stack:
            if request.is_last:
                plain = PlainView(self.share, self.files, self.clock.now)
                yield await stack.enter_async_context(plain.open(request, instant))
                return
            await instant.before(self.files)
            clones = await self._clones(stack)
            taken = self.clock.now()
            await instant.after()
            shown = [await _shown(file, clone) for file, clone in zip(self.files, clones, strict=True)]
            async with while_there_is_room(self.share, self.keep_free, self.clock):
                yield Seen(tuple(shown), Consistency.FUZZY, taken, (), _stay_as_they_are)

    async def _clones(self, stack: AsyncExitStack) -> Sequence[ShareFile]:
        paths = [file.path for file in self.files]
        clones = await stack.enter_async_context(await cloning(self.share).clones(paths))
        longest = max(await clones.forecast(), key=lambda one: one.stall_s)
        if longest.stall_s > self.max_stall_s:
            raise UnsupportedError(
                "clone", self.share.name, f"a disk has {longest.extents} extents, and writes to it would have to wait "
                f"for {longest.stall_s * 1000:.0f} ms, which is more than {self.max_stall_s * 1000:.0f} ms",
                "Defragment it, or raise 'max_stall'; the machine goes on at the source.",
            )  # fmt: skip
        return await clones.take()


async def _shown(file: SelectedFile, clone: ShareFile) -> SnapshotFile:
    size_bytes = (await clone.identity()).size_bytes
    return SnapshotFile(file.path, file.kind, file.named, clone, size_bytes, size_bytes)


async def _stay_as_they_are() -> None:
    """Clones have no name, so nobody can have written them."""
