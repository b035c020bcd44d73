"""A virtual machine's source, its replica and the surroundings of a workflow, for tests: any shares, a steady clock."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

from replicad.model.clock import Clock
from replicad.model.errors import NotFoundError
from replicad.model.names import join, parent
from replicad.model.patience import Patience
from replicad.model.progress import ProgressEvent
from replicad.model.retention import Keep
from replicad.replica.fence import RECENT_S
from replicad.replica.layout import check_disk_path
from replicad.storage.memory import MemoryShare
from replicad.storage.port import LockHolder, OpenMode, Share
from replicad.tracking.held import HeldView
from replicad.tracking.port import ChangeSource
from replicad.tracking.selection import Selection
from replicad.tracking.tracked import TrackedSource
from replicad.workflows.context import Context
from replicad.workflows.list_points import list_points
from replicad.workflows.prune import PruneReport, prune_replica
from replicad.workflows.replicate import CycleReport, ReplicationJob, replicate
from replicad.workflows.restore import restore
from replicad.workflows.retries import replicate_with_retries

CHUNK = 64 * 1024
VM = "웹 서버 🖥"


class SteadyClock:
    """Time that moves a second at each look at the time of day, `tick_s` at each other look, and as far as it is asked
    to sleep."""

    def __init__(self, tick_s: float = 0.0) -> None:
        self.seconds = 0.0
        self._tick_s = tick_s

    def now(self) -> datetime:
        self.seconds += 1
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic_s(self) -> float:
        self.seconds += self._tick_s
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def clock(self) -> Clock:
        return Clock(self.now, self.monotonic_s, self.sleep)


@dataclass
class World:
    """One VM. `disks` is what its source holds now; `history` what it held at each point."""

    source: Share
    replica: Share
    hashing: Executor
    cache: Share | None = None
    seed: int = 1
    disks: dict[str, bytes] = field(default_factory=dict)
    history: dict[int, dict[str, bytes]] = field(default_factory=dict)
    events: list[ProgressEvent] = field(default_factory=list)
    wait_s: float = 3
    allow_fuzzy: bool = False
    patterns: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.time = SteadyClock(tick_s=RECENT_S)

    def context(self, cache: Share | None = None) -> Context:
        return Context(
            clock=self.time.clock(),
            random=Random(self.seed),
            new_id=lambda: self.random.randbytes(16).hex(),
            holder=lambda: LockHolder("시험-host", "machine", "boot", 1, "1", "2026-01-01T00:00:00Z"),
            hashing=self.hashing,
            cache=cache or self.cache,
            observe=self.events.append,
            version="0",
        )

    def change_source(self) -> ChangeSource:
        clock = self.time.clock()
        selection = Selection(self.patterns, (), ())
        view = HeldView(self.source, selection, check_disk_path, self.wait_s, self.allow_fuzzy, clock)
        return TrackedSource(view, None, None, clock, self.events.append)

    async def put(self, path: str, data: bytes) -> None:
        """Make a file of the source."""
        await self.source.make_dir(parent(path))
        with contextlib.suppress(NotFoundError):
            await self.source.remove(path)
        async with await self.source.open(path, OpenMode.CREATE) as file:
            await file.set_size(len(data))
            for start in range(0, len(data), CHUNK):
                piece = data[start : start + CHUNK]
                if piece.strip(b"\0"):
                    await file.write(piece, start)
        self.disks[path] = data

    async def drop(self, path: str) -> None:
        await self.source.remove(path)
        del self.disks[path]

    def job(self, *, resync: bool = False, chunk_bytes: int | None = CHUNK, keep: Keep | None = None) -> ReplicationJob:
        return ReplicationJob(VM, self.source.name, chunk_bytes, resync, keep)

    async def sync(
        self, *, resync: bool = False, chunk_bytes: int | None = CHUNK, keep: Keep | None = None
    ) -> CycleReport:
        job = self.job(resync=resync, chunk_bytes=chunk_bytes, keep=keep)
        report = await replicate(job, self.change_source(), self.replica, self.context())
        self.history[report.point.number] = dict(self.disks)
        if keep is not None:
            there = {p.number for p in (await list_points(self.replica, VM)).points}
            self.history = {number: disks for number, disks in self.history.items() if number in there}
        return report

    async def prune(self, keep: Keep) -> PruneReport:
        report = await prune_replica(self.replica, VM, keep, self.context())
        for number in report.removed:
            self.history.pop(number, None)
        return report

    async def sync_with_retries(self, *, patience: Patience | None = None) -> CycleReport:
        report = await replicate_with_retries(self.job(), self.change_source(), self.replica, self.context(), patience)
        self.history[report.point.number] = dict(self.disks)
        return report

    async def restored(self, number: int | None) -> dict[str, bytes]:
        target = MemoryShare()
        await restore(self.replica, VM, number, target, self.context())
        return await read_tree(target)

    async def check_all_points(self) -> None:
        """Every point restores to exactly what the source held at it."""
        for number, wanted in self.history.items():
            found = await self.restored(number)
            assert digests(found) == digests(wanted), f"point {number} is not what it was"


def digests(files: dict[str, bytes]) -> dict[str, tuple[int, str]]:
    return {path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in files.items()}


async def read_tree(share: Share, directory: str = "") -> dict[str, bytes]:
    """All files below a directory, by path."""
    files: dict[str, bytes] = {}
    for entry in await share.list(directory):
        path = join(directory, entry.name)
        if entry.is_dir:
            files.update(await read_tree(share, path))
        else:
            async with await share.open(path, OpenMode.READ) as file:
                buffer = bytearray(entry.size_bytes)
                assert await file.read_into(buffer, 0) == len(buffer)
                files[path] = bytes(buffer)
    return files


def mutate(data: bytes, random: Random, most_size: int = 24 * CHUNK) -> bytes:
    """The data after some random change: bytes overwritten, zeroed, appended or cut off."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        kind = random.choice(["write", "write", "zero", "grow", "grow-zeros", "shrink", "same"])
        size = len(changed)
        start = random.randint(0, size)
        length = random.choice([1, 512, 4096, CHUNK, CHUNK + 1, 3 * CHUNK])
        if kind == "write":
            changed[start : min(start + length, size)] = random.randbytes(min(length, size - start))
        elif kind == "zero":
            changed[start : min(start + length, size)] = bytes(min(length, size - start))
        elif kind == "grow" and size + length <= most_size:
            changed += random.randbytes(length)
        elif kind == "grow-zeros" and size + length <= most_size:
            changed += bytes(length)
        elif kind == "shrink":
            del changed[start:]
    return bytes(changed)


@contextlib.asynccontextmanager
async def memory_world(seed: int = 1, *, server_copy: bool = True) -> AsyncIterator[World]:
    """A world of memory shares."""
    with ThreadPoolExecutor(2, "hash") as hashing:
        yield World(MemoryShare(), MemoryShare(server_copy=server_copy), hashing, seed=seed)
