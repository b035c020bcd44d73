"""What a cycle does to one disk: from its last manifest to its next one."""

from __future__ import annotations

from dataclasses import dataclass

from replicad.model.changes import BaseState
from replicad.model.errors import IntegrityError
from replicad.model.manifest import Manifest, ManifestEdit
from replicad.model.names import path_on
from replicad.model.plan import PlannedDisk
from replicad.model.points import Change, DiskState, ManifestReference, PendingDisk
from replicad.model.progress import Warned
from replicad.replica.cycle import Cycle
from replicad.replica.disk_update import DiskUpdate
from replicad.tracking.port import Snapshot, SnapshotFile

from .context import Context
from .manifests import load_manifest
from .resync import check_replica_disk, learn_from_replica, manifest_from_replica
from .scan import Hashing
from .sending import read_back_sample, send_changes
from .widening import widened


@dataclass(frozen=True, slots=True)
class SentDisk:
    """A disk of the point to come, and its manifest."""

    state: DiskState
    manifest: Manifest


async def send_disk(
    disk: PlannedDisk, file: SnapshotFile, snapshot: Snapshot, cycle: Cycle, *, resync: bool, ctx: Context
) -> SentDisk:
    """Bring the replica of one disk up to date, all but its name; what was sent is flushed and a sample read back."""
    began_s = ctx.clock.monotonic_s()
    replica = cycle.replica
    update, disk_id, base = await _begin(disk, file.size_bytes, cycle, resync=resync, ctx=ctx)
    try:
        hashing = Hashing(ctx.hashing, update.known.chunk_bytes, replica.seed)
        if resync:
            await learn_from_replica(replica, update, hashing, ctx)
        changes = await snapshot.changes(file, None if resync or base is None else BaseState(disk_id, base.digest))
        changes = widened(changes, update.known)
        tally = await send_changes(file.file, changes, update.known, hashing, update, ctx)
        result = await update.finish()
        await read_back_sample(update, tally, replica.seed, path_on(replica.name, file.path))
    finally:
        await update.close()
    change = Change.INITIAL if disk.known is None else Change.DELTA if result.touched else Change.UNCHANGED
    if base is not None and not result.touched:
        reference = base
    else:
        common = (base, update.known.previous) if base else None
        reference = await cycle.write_manifest(disk_id, file.path, result.manifest, common)
    statistics = tally.statistics(result.undo_bytes, round((ctx.clock.monotonic_s() - began_s) * 1000))
    state = DiskState(
        disk_id, file.path, file.kind, file.size_bytes, result.manifest.chunk_bytes, change, changes.provenance,
        reference, result.undo, statistics,
    )  # fmt: skip
    return SentDisk(state, result.manifest)


async def _begin(
    disk: PlannedDisk, size_bytes: int, cycle: Cycle, *, resync: bool, ctx: Context
) -> tuple[DiskUpdate, str, ManifestReference | None]:
    """The update, the disk's id, and the manifest file that it goes on from, if there is a sound one."""
    if disk.known is None:
        pending = _pending_disk(cycle, disk.source.path)
        return await cycle.update_new(pending, size_bytes, reads_back=resync), pending.id, None
    base: ManifestReference | None = disk.known.manifest
    if not resync:
        await check_replica_disk(cycle.replica, disk.known)
    try:
        previous = await load_manifest(cycle.replica, disk.known, None if resync else ctx.cache)
    except IntegrityError as error:
        if not resync:
            raise
        ctx.observe(Warned(f"{error.subject}: {error.answer}; it is made anew from the replica's disk"))
        previous, base = await _manifest_or_nothing(cycle, disk.known, ctx), None
    update = await cycle.update_known(disk.known, previous, size_bytes, reads_back=resync)
    return update, disk.known.id, base


async def _manifest_or_nothing(cycle: Cycle, disk: DiskState, ctx: Context) -> Manifest:
    """If the disk is missing as well, there is nothing to go on from."""
    try:
        return await manifest_from_replica(cycle.replica, disk, cycle.record.number, ctx)
    except IntegrityError:
        return ManifestEdit(Manifest(disk.chunk_bytes, 0), disk.size_bytes).finish()


def _pending_disk(cycle: Cycle, path: str) -> PendingDisk:
    return next(d for d in cycle.record.new_disks if d.path == path)
