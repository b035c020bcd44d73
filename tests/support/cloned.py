"""A source on a file system that can clone, and what its clones and their tracker say, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from replicad.model.changes import ChangeSet
from replicad.model.extents import Extent
from replicad.model.points import FileKind
from replicad.model.progress import ProgressEvent
from replicad.replica.layout import check_disk_path
from replicad.storage.decorated import cloning
from replicad.storage.local import LocalShare
from replicad.storage.port import Share, ShareFile
from replicad.tracking.clones import CloneView
from replicad.tracking.extents import ExtentTracker, kept_clones
from replicad.tracking.marks import MarkStore
from replicad.tracking.port import ChangeSource, Facts, Freezer, Request, SnapshotFile, Untold
from replicad.tracking.selection import Selection
from replicad.tracking.tracked import TrackedSource
from tests.support.world import World

NAME = "0123456789abcdef"


def request(*remembered: Facts, for_cycle: bool = True) -> Request:
    return Request(NAME, remembered, application=True, for_cycle=for_cycle)


@dataclass
class ClonedDisk:
    """One disk file of a mounted file system, and the clones that a tracker keeps of it."""

    where: Path
    executor: Executor
    keep_free_bytes: int = 0
    events: list[ProgressEvent] = field(default_factory=list)
    random: Random = field(default_factory=lambda: Random(1))

    def __post_init__(self) -> None:
        self.path = self.where / "디스크 1 🖴.vhdx"
        self.share: Share = LocalShare(str(self.where))

    def tracker(self) -> ExtentTracker:
        return ExtentTracker(
            self.share, lambda total: self.keep_free_bytes, lambda: self.random.randbytes(16).hex(), self.executor,
            self.events.append,
        )  # fmt: skip

    @asynccontextmanager
    async def cloned(self) -> AsyncIterator[SnapshotFile]:
        """A clone as it is now."""
        async with await cloning(self.share).clones([self.path.name]) as clones:
            (file,) = await clones.take()
            size_bytes = (await file.identity()).size_bytes
            yield SnapshotFile(self.path.name, FileKind.DISK, False, file, size_bytes, size_bytes)

    async def kept(self, *remembered: Facts) -> Facts:
        """What the tracker remembers of the disk as it is now."""
        tracker = self.tracker()
        await tracker.begin(request(*remembered), ())
        async with self.cloned() as file:
            facts = await tracker.mark(file)
        assert facts is not None, self.events
        return facts

    async def changes(self, since: Facts) -> ChangeSet | Untold:
        async with self.cloned() as file:
            return await self.tracker().changes(file, since)


async def content(file: ShareFile) -> bytearray:
    data = bytearray((await file.identity()).size_bytes)
    assert await file.read_into(data, 0) == len(data)
    return data


def brought_up_to_date(before: bytearray, after: bytearray, extents: tuple[Extent, ...]) -> bytearray:
    """What a replica of `before` becomes that gets these extents of `after`, and its size."""
    result = (before + bytes(max(0, len(after) - len(before))))[: len(after)]
    for extent in extents:
        result[extent.offset_bytes : extent.end_bytes] = after[extent.offset_bytes : extent.end_bytes]
    return result


@dataclass
class CloningWorld(World):
    """A world whose source is on a file system that can clone, with the method `reflink`."""

    freezer: Freezer | None = None
    marks: MarkStore | None = None
    max_stall_s: float = 1.0
    keep_free_bytes: int = 0

    def change_source(self) -> ChangeSource:
        clock = self.time.clock()
        view = CloneView(
            self.source, Selection(self.patterns, (), ("*.xml",)), check_disk_path, self.freezer, self.wait_s,
            self.allow_fuzzy, self.max_stall_s, self.hashing, clock, lambda total: self.keep_free_bytes,
        )  # fmt: skip
        tracker = ExtentTracker(
            self.source, lambda total: self.keep_free_bytes, lambda: self.random.randbytes(16).hex(), self.hashing,
            self.events.append,
        )  # fmt: skip
        return TrackedSource(view, tracker, self.marks, clock, self.events.append)

    async def kept(self) -> list[str]:
        """The clones that lie at the source."""
        return await kept_clones(self.source)
