"""The consistency method `reflink`: clones of all files at one moment, while the machine goes on.

A clone is made in an instant and is from then on a file of its own. The clones that are read have no name: whenever
this process ends, nothing is left of them. Which moment they show, and so what the point promises, is seen and not
believed (DESIGN §4, invariant 7):

- nobody had any of the files open for writing: `cold`;
- all were cloned while the machine stood still: what its freezer says;
- one disk was cloned: `crash`, as that is one instant whatever goes on;
- several were, one after the other, and after the last one none of the others had changed since its own: `crash`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from replicad.model.clock import Clock
from replicad.model.errors import BusyError, NotFoundError, UnsupportedError
from replicad.model.extent_maps import differing, has_moved
from replicad.model.names import path_on
from replicad.model.points import Consistency, FileKind
from replicad.storage.decorated import cloning
from replicad.storage.port import CloneForecast, CloningShare, Identity, OpenMode, Share, ShareFile

from .port import Freezer, Instant, Request, Seen, SelectedFile, SnapshotFile
from .room import while_there_is_room
from .selection import Selection, select

_ASK_AGAIN_EVERY_S = 1.0
_WRITTEN_HINT = (
    "Have the machine stand still for the instant: give 'freeze' and 'thaw' commands, or choose the method qemu; "
    "'allow_fuzzy: true' accepts a copy that promises nothing."
)
_STALL_HINT = (
    "Have its extents joined at a quiet time (xfs_fsr, btrfs filesystem defragment), have new ones be larger "
    "(xfs_io -c 'cowextsize 1m'), or raise 'max_stall'."
)


@dataclass(frozen=True, slots=True)
class CloneView:
    """A `View` for shares that can clone files. UnsupportedError where the share can't, or where the machine's writes
    would have to wait for longer than `max_stall_s`; nothing has been waited for then.

    A running machine whose disks can't be seen to stand still for an instant is looked at again for `wait_s` seconds.
    While the clones are read the machine's writes take more and more room: they are given up (OutOfSpaceError) well
    before there is none. `keep_free` tells how many bytes are to be left on a file system of some size.
    """

    share: Share
    selection: Selection
    check_path: Callable[[str], str]
    freezer: Freezer | None
    wait_s: float
    allow_fuzzy: bool
    max_stall_s: float
    executor: Executor
    clock: Clock
    keep_free: Callable[[int], int]

    async def select(self) -> tuple[SelectedFile, ...]:
        return (await select(self.share, self.selection, self.check_path)).files

    @asynccontextmanager
    async def open(self, request: Request, instant: Instant) -> AsyncIterator[Seen]:
        share = cloning(self.share)
        async with AsyncExitStack() as stack:
            selected = await select(self.share, self.selection, self.check_path)
            await instant.before(selected.files)
            taken = await self._take(share, selected.files, request, stack)
            await instant.after()
            files = [await self._sized(f, clone) for f, clone in zip(selected.files, taken.clones, strict=True)]
            links = tuple(f"'{link}' is a symbolic link, and links are not followed" for link in selected.links)
            warnings = (*taken.warnings, *self._stalled(taken), *links)
            async with while_there_is_room(self.share, self.keep_free, self.clock):
                yield Seen(tuple(files), taken.consistency, taken.at, warnings, _stays_as_it_is)

    async def _take(
        self, share: CloningShare, files: Sequence[SelectedFile], request: Request, stack: AsyncExitStack
    ) -> _Taken:
        deadline = self.clock.monotonic_s() + self.wait_s
        while True:
            async with AsyncExitStack() as attempt:
                taken = await self._attempt(share, files, request, attempt)
                late = self.clock.monotonic_s() >= deadline
                if taken.consistency is not Consistency.FUZZY or (late and self.allow_fuzzy):
                    stack.push_async_exit(attempt.pop_all())
                    return taken
            if late:
                raise BusyError("clone", self.share.name, taken.warnings[0], _WRITTEN_HINT)
            await self.clock.sleep(_ASK_AGAIN_EVERY_S)

    async def _attempt(
        self, share: CloningShare, files: Sequence[SelectedFile], request: Request, stack: AsyncExitStack
    ) -> _Taken:
        """All clones, and what they were seen to be; `fuzzy` ones have their reason as the first warning."""
        taking = _Taking(share, self.clock, self.executor, files)
        freezer = self.freezer
        if freezer is None or not await freezer.is_running():
            cold = await taking.nobody_writing(stack)
            if cold is not None:
                return cold
        if freezer is not None and await freezer.is_running():
            forecasts = await taking.approach(stack)
            self._check_stall(files, forecasts, sum(f.stall_s for f in forecasts))
            async with freezer.frozen(application=request.application) as reached:
                taken = await taking.take(reached)
            if not await taking.held():
                answer = "the file system moved its bytes around meanwhile (balancing or defragmentation)"
                raise BusyError("clone", self.share.name, answer, "It is tried again; or do that at another time.")
            return taken
        forecasts = await taking.prepare(stack)
        self._check_stall(files, forecasts, max(f.stall_s for f in forecasts))
        return await taking.one_instant()

    def _check_stall(self, files: Sequence[SelectedFile], forecasts: Sequence[CloneForecast], stall_s: float) -> None:
        if stall_s <= self.max_stall_s:
            return
        most, forecast = max(zip(files, forecasts, strict=True), key=lambda pair: pair[1].extents)
        raise UnsupportedError(
            "clone", path_on(self.share.name, most.path),
            f"it has {forecast.extents} extents, and writes to the machine's disks would have to wait for "
            f"{stall_s * 1000:.0f} ms, which is more than {self.max_stall_s * 1000:.0f} ms", _STALL_HINT,
        )  # fmt: skip

    def _stalled(self, taken: _Taken) -> tuple[str, ...]:
        if taken.took_s <= self.max_stall_s or taken.consistency is Consistency.COLD:
            return ()
        return (
            f"writes to the machine's disks may have had to wait for {taken.took_s * 1000:.0f} ms while they were "
            f"cloned, which is more than the {self.max_stall_s * 1000:.0f} ms of 'max_stall'",
        )

    async def _sized(self, file: SelectedFile, clone: ShareFile) -> SnapshotFile:
        size_bytes = (await clone.identity()).size_bytes
        try:
            allocated_bytes = min(size_bytes, (await self.share.stat(file.path)).allocated_bytes)
        except NotFoundError:  # it was removed since
            allocated_bytes = size_bytes
        return SnapshotFile(file.path, file.kind, file.named, clone, size_bytes, allocated_bytes)


async def _stays_as_it_is() -> None:
    """Clones have no name, so nobody can have written them."""


@dataclass(frozen=True, slots=True)
class _Taken:
    clones: tuple[ShareFile, ...]
    consistency: Consistency
    at: datetime
    took_s: float
    warnings: tuple[str, ...] = ()


class _Taking:
    """One attempt at clones of some files."""

    def __init__(self, share: CloningShare, clock: Clock, executor: Executor, files: Sequence[SelectedFile]) -> None:
        self._share = share
        self._clock = clock
        self._executor = executor
        self._files = files
        self._disks = [index for index, file in enumerate(files) if file.kind is FileKind.DISK]

    async def prepare(self, stack: AsyncExitStack) -> tuple[CloneForecast, ...]:
        self._clones = await stack.enter_async_context(await self._share.clones([f.path for f in self._files]))
        return await self._clones.forecast()

    async def approach(self, stack: AsyncExitStack) -> tuple[CloneForecast, ...]:
        """As `prepare`, for a machine that is going to stand still when they are taken."""
        self._clones = await stack.enter_async_context(await self._share.clones([f.path for f in self._files]))
        return await self._clones.approach()

    async def held(self) -> bool:
        return await self._clones.held()

    async def take(self, consistency: Consistency) -> _Taken:
        # Whatever was written before the point's time is in it: what is written while the clones are made may not be.
        at = self._clock.now()
        began_s = self._clock.monotonic_s()
        clones = await self._clones.take()
        took_s = self._clock.monotonic_s() - began_s
        return _Taken(clones, consistency, at, took_s)

    async def nobody_writing(self, stack: AsyncExitStack) -> _Taken | None:
        """Clones taken while all files are held; None if somebody writes one, or that can't be told."""
        async with AsyncExitStack() as holds, AsyncExitStack() as clones:
            try:
                held = [
                    await holds.enter_async_context(await self._share.open(file.path, OpenMode.HOLD))
                    for file in self._files
                ]
            except (BusyError, UnsupportedError):
                return None
            # What has to be opened is opened only now: a writer that waits meanwhile takes the hold away.
            await self.prepare(clones)
            taken = await self.take(Consistency.COLD)
            try:
                for file in held:
                    await file.read_into(bytearray(1), 0)  # it raises if the hold was lost
            except BusyError:
                return None
            stack.push_async_exit(clones.pop_all())
        return taken

    async def one_instant(self) -> _Taken:
        """Clones of a machine that may be running: `crash` if they are seen to be of one instant, else `fuzzy`."""
        async with AsyncExitStack() as stack:
            live = [
                await stack.enter_async_context(await self._share.open(self._files[index].path, OpenMode.READ))
                for index in self._disks
            ]
            if len(live) <= 1:
                return await self.take(Consistency.CRASH)
            before = [await file.identity() for file in live]
            taken = await self.take(Consistency.CRASH)
            for index, file, known in zip(self._disks[:-1], live[:-1], before[:-1], strict=True):
                why = await self._doubt(file, known, taken.clones[index])
                if why is not None:
                    reason = f"{self._files[index].path} {why}"
                    return replace(taken, consistency=Consistency.FUZZY, warnings=(reason,))
        return taken

    async def _doubt(self, live: ShareFile, known: Identity, clone: ShareFile) -> str | None:
        """Why a file may have been written between the moment that it was cloned and now; None if it can't have been.

        Each write of a block that a clone shares puts it elsewhere. One of what was a hole, and is one again, is seen
        by the file's times alone.
        """
        written = "was written while the other disks were cloned, so they are not of one instant"
        try:
            now = await self._share.extent_map(live)
            then = await self._share.extent_map(clone)
        except ValueError:
            return written
        except UnsupportedError:
            return "can't be seen not to have changed while the other disks were cloned, on this file system"
        loop = asyncio.get_running_loop()
        if now.size_bytes != then.size_bytes or await loop.run_in_executor(self._executor, has_moved, then, now):
            return written
        if await loop.run_in_executor(self._executor, differing, then, now):
            return "has compressed extents, which don't tell whether it changed while the other disks were cloned"
        return None if await live.identity() == known else written
