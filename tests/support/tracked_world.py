"""A world whose source is a running guest with a tracker, and whose processes may die with all that they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from replicad.model.errors import IntegrityError, ReplicadError
from replicad.model.points import RecoveryPoint
from replicad.replica.directory import list_numbers, open_replica, read_point
from replicad.storage.memory import MemoryShare
from replicad.storage.port import Share
from replicad.tracking.marks import MarkStore
from replicad.tracking.port import ChangeSource, Tracker
from replicad.tracking.tracked import TrackedSource
from replicad.workflows.replicate import CycleReport, ReplicationJob, replicate
from tests.support.faulty import Fault, FaultyShare, crashes
from tests.support.world import CHUNK, VM, World, digests
from tests.support.writing_machine import BitmapTracker, FaultyTracker, Guest, GuestView


class _Part(FaultyShare):
    """One share of a process: calls are numbered over all of them, and all die at once."""

    def __init__(self, inner: Share, parts: list[_Part], log: list[str], faults: dict[int, Fault]) -> None:
        super().__init__(inner)
        self.log, self.faults, self._parts = log, faults, parts
        parts.append(self)

    def crash(self) -> None:
        for part in self._parts:
            FaultyShare.crash(part)


@dataclass
class TrackedWorld(World):
    """`guest` is what the source is; `store` is where marks are kept."""

    guest: Guest = field(default_factory=lambda: Guest(Random(1)))
    store: Share = field(default_factory=lambda: MemoryShare("store"))
    sample: float = 0.001
    make_tracker: Callable[[Guest], Tracker] = BitmapTracker
    application_every_s: int | None = None
    _tracker: Tracker | None = None

    def change_source(self) -> ChangeSource:
        clock = self.time.clock()
        tracker = self._tracker or self.make_tracker(self.guest)
        return TrackedSource(
            GuestView(self.guest, clock), tracker, MarkStore(self.store), clock, self.events.append,
            self.application_every_s,
        )  # fmt: skip

    async def cycle(self, *, resync: bool = False) -> CycleReport:
        """A cycle; history is what its view showed."""
        job = ReplicationJob(VM, self.source.name, CHUNK, resync, None, self.sample)
        report = await replicate(job, self.change_source(), self.replica, self.context())
        await self.note()
        return report

    async def note(self) -> list[RecoveryPoint]:
        """Take down what new points must hold, by the time that they bear."""
        replica = await open_replica(self.replica, VM)
        if replica is None:
            return []
        points = [await read_point(replica, number) for number in (await list_numbers(replica)).committed]
        for point in points:
            self.history.setdefault(point.number, self.guest.shown[point.time])
        return points

    async def life(self, faults: Mapping[int, Fault]) -> list[str]:
        """One process that makes one cycle, and what it called; its end may come in the middle."""
        replica, store = self.replica, self.store
        parts: list[_Part] = []
        log: list[str] = []
        left = dict(faults)
        self.replica = _Part(replica, parts, log, left)
        self.store = _Part(store, parts, log, left)
        self._tracker = FaultyTracker(self.make_tracker(self.guest), parts[1])
        try:
            await crashes(self._one_cycle())
        finally:
            self._tracker = None
            views = [share.view() for share in (replica, store) if isinstance(share, MemoryShare)]
            for share in (replica, store):
                if isinstance(share, MemoryShare):
                    share.die()
            self.replica, self.store = views
        return log

    async def _one_cycle(self) -> None:
        job = ReplicationJob(VM, self.source.name, CHUNK, False, None, self.sample)
        try:
            await replicate(job, self.change_source(), self.replica, self.context())
        except IntegrityError:
            raise
        except ReplicadError:
            return

    async def check(self) -> None:
        """Every point is what the guest's disks were then, and no honest tracker was called a liar."""
        points = await self.note()
        for number, wanted in self.history.items():
            assert digests(await self.restored(number)) == digests(wanted), f"point {number} is not what it was"
        assert not [d.trust for p in points for d in p.disks if d.trust is not None and d.trust.mistake is not None]
