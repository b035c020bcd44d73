"""A machine that runs while it is replicated, and a tracker that lives in it as QEMU's dirty bitmaps live in QEMU.

It writes at every moment at which nothing keeps it from writing: before, at and after the moment of a view, and while
changes are asked for. The tracker is honest, and lives longer than any process of ours.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import TypeVar

from replicad.model.changes import ChangeSet, Outside
from replicad.model.clock import Clock
from replicad.model.extents import Extent, normalise
from replicad.model.points import Consistency, FileKind, Provenance
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode
from replicad.tracking.port import Facts, Instant, Request, Seen, SelectedFile, SnapshotFile, Tracker, Untold
from tests.support.faulty import FaultyShare
from tests.support.world import CHUNK

T = TypeVar("T")
_MOST_CHUNKS = 12


@dataclass
class Guest:
    """Its disks, and for each of them the bitmaps that note what is written, by name."""

    random: Random
    disks: dict[str, bytearray] = field(default_factory=dict)
    bitmaps: dict[str, dict[str, list[Extent]]] = field(default_factory=dict)
    clones: dict[str, bytes] = field(default_factory=dict)
    """What clones of its disks hold, by name."""
    is_busy: bool = False
    """It writes whenever it can."""
    shown: dict[datetime, dict[str, bytes]] = field(default_factory=dict)
    """What each view showed, by its time."""

    def put(self, path: str, data: bytes) -> None:
        """Another file in the place of this one, of which no bitmap knows anything."""
        self.disks[path], self.bitmaps[path] = bytearray(data), {}

    def drop(self, path: str) -> None:
        del self.disks[path], self.bitmaps[path]

    def restart(self) -> None:
        """Every bitmap is gone, and every clone."""
        self.bitmaps, self.clones = {path: {} for path in self.disks}, {}

    def write(self, path: str, offset: int, data: bytes) -> None:
        disk = self.disks[path]
        data = data[: max(0, len(disk) - offset)]
        disk[offset : offset + len(data)] = data
        self._note(path, offset, len(data))

    def resize(self, path: str, size: int) -> None:
        disk, before = self.disks[path], len(self.disks[path])
        del disk[size:]
        disk.extend(bytes(size - len(disk)))
        # What is cut off may come back as zeros.
        self._note(path, size, max(0, before - size))

    def become(self, disks: Mapping[str, bytes]) -> None:
        """Write until the disks are those."""
        for path in [p for p in self.disks if p not in disks]:
            self.drop(path)
        for path, data in disks.items():
            if path not in self.disks:
                self.put(path, data)
            self.resize(path, len(data))
            for offset in range(0, len(data), 4096):
                if self.disks[path][offset : offset + 4096] != data[offset : offset + 4096]:
                    self.write(path, offset, data[offset : offset + 4096])

    def live(self, writes: int) -> None:
        """Do what guests do to their disks."""
        random = self.random
        for _ in range(writes):
            path = random.choice(sorted(self.disks))
            size, kind = len(self.disks[path]), random.random()
            offset, length = random.randint(0, size), random.choice([1, 512, 4096, CHUNK, 2 * CHUNK + 1])
            if kind < 0.75:
                self.write(path, offset, random.randbytes(length))
            elif kind < 0.85:
                self.write(path, offset, bytes(length))
            elif kind < 0.93 and size + length <= _MOST_CHUNKS * CHUNK:
                self.resize(path, size + length)
                if random.random() < 0.5:
                    self.write(path, size + length // 2, random.randbytes(length))
            elif kind >= 0.93:
                self.resize(path, max(1, size - length))

    def chatter(self) -> None:
        """It may write now."""
        if self.is_busy:
            self.live(self.random.choice([0, 0, 1, 2]))

    def contents(self) -> dict[str, bytes]:
        return {path: bytes(data) for path, data in self.disks.items()}

    def _note(self, path: str, offset: int, length: int) -> None:
        for noted in self.bitmaps[path].values():
            noted.append(Extent(offset, length))


@dataclass
class GuestView:
    """A `View` of a guest's disks: a copy of one moment."""

    guest: Guest
    clock: Clock

    async def select(self) -> tuple[SelectedFile, ...]:
        return tuple(SelectedFile(path, FileKind.DISK, named=False) for path in sorted(self.guest.disks))

    @asynccontextmanager
    async def open(self, request: Request, instant: Instant) -> AsyncIterator[Seen]:
        guest = self.guest
        await instant.before(await self.select())
        guest.chatter()
        taken, contents = self.clock.now(), guest.contents()
        guest.shown[taken] = contents
        guest.chatter()
        await instant.after()
        guest.chatter()
        share = MemoryShare("view")
        files = [await _copied(share, path, data) for path, data in sorted(contents.items())]
        yield Seen(tuple(files), Consistency.CRASH, taken, (), _nothing)


async def _copied(share: MemoryShare, path: str, data: bytes) -> SnapshotFile:
    async with await share.open(path, OpenMode.CREATE) as file:
        await file.set_size(len(data))
        for start in range(0, len(data), CHUNK):
            if (piece := data[start : start + CHUNK]).strip(b"\0"):
                await file.write(piece, start)
    opened = await share.open(path, OpenMode.READ)
    return SnapshotFile(path, FileKind.DISK, False, opened, len(data), len(data))


async def _nothing() -> None:
    pass


class BitmapTracker:
    """An honest `Tracker`: a bitmap for each mark."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._begun: dict[str, str] = {}

    @property
    def provenance(self) -> Provenance:
        return Provenance.DIRTY_BITMAP

    async def begin(self, request: Request, files: Sequence[SelectedFile]) -> None:
        remembered = {facts["bitmap"] for facts in request.remembered}
        self._begun = {}
        for file in files:
            bitmaps = self.guest.bitmaps[file.path]
            for name in bitmaps.keys() - remembered:
                del bitmaps[name]  # left behind by a process that died
            self._begun[file.path] = name = self.guest.random.randbytes(8).hex()
            bitmaps[name] = []

    async def passed(self) -> None:
        self.guest.chatter()

    async def changes(self, file: SnapshotFile, since: Facts) -> ChangeSet | Untold:
        self.guest.chatter()
        noted = self.guest.bitmaps.get(file.path, {}).get(since["bitmap"])
        if noted is None:
            return Untold("the machine was restarted")
        return ChangeSet(tuple(normalise(noted)), Outside.UNCHANGED, Provenance.DIRTY_BITMAP)

    async def mark(self, file: SnapshotFile) -> Facts | None:
        self.guest.chatter()
        name = self._begun.pop(file.path, None)
        return None if name is None else {"bitmap": name}

    async def forget(self, path: str, facts: Facts) -> None:
        self.guest.bitmaps.get(path, {}).pop(facts["bitmap"], None)

    async def end(self) -> None:
        for path, name in self._begun.items():
            self.guest.bitmaps.get(path, {}).pop(name, None)
        self._begun = {}


class CloneTracker:
    """An honest `Tracker` that keeps what it saw: what was written and taken back since then has not changed."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    @property
    def provenance(self) -> Provenance:
        return Provenance.EXTENTS

    async def begin(self, request: Request, files: Sequence[SelectedFile]) -> None:
        remembered = {facts["clone"] for facts in request.remembered}
        for name in self.guest.clones.keys() - remembered:
            del self.guest.clones[name]  # left behind by a process that died

    async def passed(self) -> None:
        self.guest.chatter()

    async def changes(self, file: SnapshotFile, since: Facts) -> ChangeSet | Untold:
        before = self.guest.clones.get(since["clone"])
        if before is None:
            return Untold("the clone is gone")
        now = bytearray(file.size_bytes)
        await file.file.read_into(now, 0)
        padded = before.ljust(len(now), b"\0")
        step = 4096
        differing = [
            Extent(start, step) for start in range(0, len(now), step)
            if now[start : start + step] != padded[start : min(start + step, len(now))]
        ]  # fmt: skip
        return ChangeSet(tuple(normalise(differing)), Outside.UNCHANGED, Provenance.EXTENTS)

    async def mark(self, file: SnapshotFile) -> Facts | None:
        content = bytearray(file.size_bytes)
        await file.file.read_into(content, 0)
        name = self.guest.random.randbytes(8).hex()
        self.guest.clones[name] = bytes(content)
        return {"clone": name}

    async def forget(self, path: str, facts: Facts) -> None:
        self.guest.clones.pop(facts["clone"], None)

    async def end(self) -> None:
        pass


class LyingTracker(BitmapTracker):
    """Calls some chunks unchanged, whatever is written to them."""

    def __init__(self, guest: Guest, hidden: Mapping[str, Sequence[int]]) -> None:
        super().__init__(guest)
        self.hidden = dict(hidden)

    async def changes(self, file: SnapshotFile, since: Facts) -> ChangeSet | Untold:
        told = await super().changes(file, since)
        if isinstance(told, Untold):
            return told
        shown = [
            Extent(chunk * CHUNK, CHUNK)
            for extent in told.extents
            for chunk in range(extent.offset_bytes // CHUNK, -(-extent.end_bytes // CHUNK))
            if chunk not in self.hidden.get(file.path, ())
        ]
        return ChangeSet(tuple(normalise(shown)), told.outside, told.provenance)


class FaultyTracker:
    """A `Tracker` whose every call is one of those that a `FaultyShare` breaks."""

    def __init__(self, inner: Tracker, share: FaultyShare) -> None:
        self._inner = inner
        self._share = share

    @property
    def provenance(self) -> Provenance:
        return self._inner.provenance

    async def _call(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        return await self._share.change(f"tracker {name}", call)

    async def begin(self, request: Request, files: Sequence[SelectedFile]) -> None:
        await self._call("begin", lambda: self._inner.begin(request, files))

    async def passed(self) -> None:
        await self._call("passed", self._inner.passed)

    async def changes(self, file: SnapshotFile, since: Facts) -> ChangeSet | Untold:
        return await self._call(f"changes {file.path}", lambda: self._inner.changes(file, since))

    async def mark(self, file: SnapshotFile) -> Facts | None:
        return await self._call(f"mark {file.path}", lambda: self._inner.mark(file))

    async def forget(self, path: str, facts: Facts) -> None:
        await self._call(f"forget {path}", lambda: self._inner.forget(path, facts))

    async def end(self) -> None:
        await self._call("end", self._inner.end)
