"""One cycle's writing side: it begins, updates disks, and commits the point. Call with the lock held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from replicad.model.manifest import Manifest
from replicad.model.points import FORMAT_VERSION, CycleRecord, DiskState, ManifestReference, PendingDisk, RecoveryPoint
from replicad.storage.documents import replace_whole

from .directory import Replica, check_unchanged, point_files
from .disk_update import DiskUpdate, UpdateTarget
from .fence import Fence
from .manifest_file import write_manifest
from .record_files import write_first
from .records import encode
from .recovery import Standing, publish, undo_all_but


@dataclass(frozen=True, slots=True)
class Cycle:
    """A cycle under way, behind the fence of the replica's lock. `warnings`: what can't be undone."""

    replica: Replica
    record: CycleRecord
    fence: Fence
    warnings: tuple[str, ...]

    @property
    def directory(self) -> str:
        """The pending directory."""
        return self.replica.layout.pending_dir(self.record.number)

    async def update_known(
        self, disk: DiskState, manifest: Manifest, size_bytes: int, *, reads_back: bool = False
    ) -> DiskUpdate:
        """Begin, or go on with, the update of a disk that the latest point has."""
        target = UpdateTarget(
            self.replica.record.replica_id, disk.id, disk.path, self.record.number, False, size_bytes, reads_back
        )
        return await self._started(target, manifest)

    async def update_new(self, disk: PendingDisk, size_bytes: int, *, reads_back: bool = False) -> DiskUpdate:
        """Begin, or go on with, a disk that is sent for the first time."""
        target = UpdateTarget(
            self.replica.record.replica_id, disk.id, disk.path, self.record.number, True, size_bytes, reads_back
        )
        return await self._started(target, Manifest(disk.chunk_bytes, 0))

    async def _started(self, target: UpdateTarget, manifest: Manifest) -> DiskUpdate:
        update = DiskUpdate(
            self.replica.share,
            self.replica.layout,
            self.directory,
            target,
            manifest,
            self.replica.seed,
            self.fence.recently_ours,
        )
        await update.start()
        return update

    async def write_manifest(
        self, disk_id: str, path: str, manifest: Manifest, base: tuple[ManifestReference, Manifest] | None
    ) -> ManifestReference:
        """Write a disk's new manifest, durable but for its name; `base` is the one of the point before, if any."""
        layout, number = self.replica.layout, self.record.number
        owner = self.replica.owner(disk_id)
        base_file = None if base is None else (layout.manifest(path, base[0].point), base[1])
        digest = await write_manifest(self.replica.share, layout.manifest(path, number), manifest, owner, base_file)
        return ManifestReference(number, digest)

    async def commit(self, point: RecoveryPoint) -> None:
        """Make `point` the latest one. Its disks must be finished and closed, its manifests written.

        Until the rename in here the replica stands at the point before, and from then on at this one.
        StaleGenerationError if the replica is not what it was when the cycle began.
        """
        share, layout = self.replica.share, self.replica.layout
        await share.flush_directory(layout.manifests_dir)
        await write_first(point_files(self.replica, self.directory, point.number), point)
        await check_unchanged(self.replica)
        await self.fence.still_ours()
        await publish(self.replica, point)


async def begin_cycle(
    replica: Replica,
    standing: Standing,
    new_disks: tuple[PendingDisk, ...],
    kept: frozenset[str],
    started: datetime,
    host: str,
    fence: Fence,
) -> Cycle:
    """Write down what the cycle is about to do, before it does any of it; goes on with the pending one if there is one.

    `kept` are the paths of the disks that the cycle is going to hold: what a pending cycle did to any other is undone
    first. `new_disks` must have been chosen with `choose_new_disks`.
    """
    share, layout = replica.share, replica.layout
    previous = standing.latest.number if standing.latest else None
    number = (previous or 0) + 1
    record = CycleRecord(FORMAT_VERSION, replica.record.replica_id, number, previous, started, host, new_disks)
    pending = layout.pending_dir(number)
    losses: tuple[str, ...] = ()
    if standing.pending is not None:
        losses = await undo_all_but(replica, standing, kept, accept_loss=True)
    await share.make_dir(pending)
    await share.flush_directory(layout.points_dir)
    await replace_whole(share, layout.cycle_record(pending), encode(record))
    return Cycle(replica, record, fence, losses)


def choose_new_disks(
    standing: Standing, wanted: Mapping[str, int], new_id: Callable[[], str]
) -> tuple[PendingDisk, ...]:
    """The new disks of a cycle, given their chunk sizes by path; one that was begun keeps its id."""
    begun = {d.path: d for d in standing.pending.new_disks} if standing.pending else {}
    return tuple(begun.get(path) or PendingDisk(new_id(), path, size) for path, size in sorted(wanted.items()))
