"""What a cycle does to one disk: from its last manifest to its next one."""

from __future__ import annotations

from dataclasses import dataclass

from replicad.model.changes import BaseState, ChangeSet
from replicad.model.errors import IntegrityError
from replicad.model.manifest import Manifest, ManifestEdit
from replicad.model.names import path_on
from replicad.model.plan import PlannedDisk
from replicad.model.points import Change, DiskState, ManifestReference, PendingDisk, Trust
from replicad.model.progress import Warned
from replicad.model.tracking_words import mistake_in_words
from replicad.replica.cycle import Cycle
from replicad.replica.disk_update import DiskUpdate
from replicad.replica.known_chunks import KnownChunks
from replicad.tracking.port import Snapshot, SnapshotFile

from .context import Context
from .distrust import check_unchanged
from .manifests import load_manifest
from .resync import check_replica_disk, learn_from_replica, manifest_from_replica
from .scan import Hashing
from .sending import read_back_sample, send_changes
from .widening import widened


@dataclass(frozen=True, slots=True)
class SentDisk:
    """A disk of the point to come, and its manifest; `base` is the one that it was made of, and its digest."""

    state: DiskState
    manifest: Manifest
    base: tuple[str, Manifest] | None


async def send_disk(
    disk: PlannedDisk,
    file: SnapshotFile,
    snapshot: Snapshot,
    cycle: Cycle,
    *,
    resync: bool,
    sample: float,
    ctx: Context,
) -> SentDisk:
    """Bring the replica of one disk up to date, all but its name; what was sent is flushed and a sample read back.

    `sample`: which part of what a tracker calls unchanged is looked at all the same, 0 to 1.
    """
    began_s = ctx.clock.monotonic_s()
    replica = cycle.replica
    update, disk_id, base = await _begin(disk, file.size_bytes, cycle, resync=resync, ctx=ctx)
    try:
        hashing = Hashing(ctx.hashing, update.known.chunk_bytes, replica.seed)
        if resync:
            await learn_from_replica(replica, update, hashing, ctx)
        since = None if resync or base is None else BaseState(disk_id, base.digest)
        found = await _believable_changes(file, since, snapshot, update.known, hashing, sample, ctx)
        tally = await send_changes(file.file, found.changes, update.known, hashing, update, ctx)
        tally.scanned_bytes += found.scanned_bytes
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
        disk_id, file.path, file.kind, file.size_bytes, result.manifest.chunk_bytes, change, found.changes.provenance,
        reference, result.undo, statistics, found.trust, found.changes.note,
    )  # fmt: skip
    return SentDisk(state, result.manifest, (base.digest, update.known.previous) if base else None)


@dataclass(frozen=True, slots=True)
class _Believable:
    """What to look at, what came of checking the rest, and what was read for that."""

    changes: ChangeSet
    trust: Trust | None
    scanned_bytes: int = 0


async def _believable_changes(
    file: SnapshotFile, since: BaseState | None, snapshot: Snapshot, known: KnownChunks, hashing: Hashing,
    sample: float, ctx: Context,
) -> _Believable:  # fmt: skip
    """Where the disk may differ from what the replica has; all of it, if a sample of the rest shows otherwise."""
    changes = widened(await snapshot.changes(file, since), known)
    checked = await check_unchanged(file.file, changes, known, hashing, sample, ctx)
    if checked is None or since is None:
        return _Believable(changes, changes.trust)
    if checked.trust.mistake is None:
        return _Believable(changes, checked.trust, checked.scanned_bytes)
    ctx.observe(Warned(mistake_in_words(file.path, checked.trust)))
    changes = widened(await snapshot.mistaken(file, since, checked.trust), known)
    return _Believable(changes, checked.trust, checked.scanned_bytes)


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
