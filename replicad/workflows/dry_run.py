"""What a cycle would do, without doing any of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from replicad.model.changes import BaseState, ChangeSet
from replicad.model.errors import NotFoundError
from replicad.model.manifest import Manifest
from replicad.model.plan import PlannedDisk, SourceDisk, plan_cycle
from replicad.model.points import CycleKind, Provenance
from replicad.model.progress import PhaseStarted, Warned, warn_once
from replicad.replica.directory import Replica, check_belongs, list_numbers, open_replica, read_point
from replicad.replica.disk_update import SavedBatch, Stretch
from replicad.replica.known_chunks import KnownChunks
from replicad.storage.port import Share
from replicad.tracking.port import ChangeSource, Snapshot, SnapshotFile

from .context import Context
from .disk_check import check_disks
from .manifests import load_manifest
from .replicate import ReplicationJob
from .scan import Hashing
from .sending import send_changes
from .widening import widened


@dataclass(frozen=True, slots=True)
class DryDisk:
    """What would be sent of one disk, and why it was looked at. `action`: initial, delta, unchanged or removed."""

    path: str
    action: str
    scanned_bytes: int
    changed_bytes: int
    to_send_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class DryRun:
    """`point` is the number that the cycle would commit; `resumes`: it would go on with an interrupted one, and may
    find a part of this done already."""

    vm: str
    point: int
    kind: CycleKind
    resumes: bool
    disks: tuple[DryDisk, ...]


async def dry_run(job: ReplicationJob, source: ChangeSource, share: Share, ctx: Context) -> DryRun:
    """Read the source as a cycle would, compare with the latest point's manifests, and tell. Writes nothing."""
    replica = await _replica_if_any(share, job, ctx)
    numbers = await list_numbers(replica) if replica else None
    latest = await read_point(replica, numbers.latest) if replica and numbers and numbers.latest else None
    replica_id = replica.record.replica_id if replica else None
    async with source.snapshot(replica_id, for_cycle=False) as snapshot:
        for warning in (*snapshot.warnings, *await check_disks(snapshot, job.source_name)):
            ctx.observe(Warned(warning))
        sources = [SourceDisk(f.path, f.kind, f.size_bytes) for f in snapshot.files]
        plan = plan_cycle(latest, sources, job.chunk_bytes, resync=job.resync)
        ctx.observe(PhaseStarted("comparing", sum(f.size_bytes for f in snapshot.files)))
        files = {f.path: f for f in snapshot.files}
        disks = [
            await _compare(disk, files[disk.source.path], snapshot, replica, ctx, resync=job.resync)
            for disk in plan.disks
        ]
        await snapshot.confirm()
    removed = [DryDisk(r.path, "removed", 0, 0, 0, "it is no longer at the source") for r in plan.removed]
    number = (latest.number if latest else 0) + 1
    resumes = numbers is not None and numbers.pending is not None
    return DryRun(job.vm, number, plan.kind, resumes, (*disks, *removed))


async def _replica_if_any(share: Share, job: ReplicationJob, ctx: Context) -> Replica | None:
    try:
        replica = await open_replica(share, job.vm, warn_once(ctx.observe))
    except NotFoundError:
        return None
    if replica is not None:
        check_belongs(replica, job.vm, job.source_name, adopt=job.adopts(replica.record.source))
    return replica


class _Counter:
    """A writer that writes nothing."""

    def __init__(self) -> None:
        self.to_send_bytes = 0

    async def save(self, stretches: Sequence[Stretch]) -> SavedBatch:
        return SavedBatch(stretches, 0)

    async def write(self, saved: SavedBatch) -> int:
        self.to_send_bytes += sum(len(s.data or b"") for s in saved.stretches)
        return 0


async def _compare(
    disk: PlannedDisk, file: SnapshotFile, snapshot: Snapshot, replica: Replica | None, ctx: Context, *, resync: bool
) -> DryDisk:
    if disk.known is not None and replica is not None:
        previous = await load_manifest(replica, disk.known, ctx.cache)
    else:
        previous = Manifest(disk.chunk_bytes, 0)
    known = KnownChunks(previous, file.size_bytes)
    counter = _Counter()
    seed = replica.seed if replica else 0
    hashing = Hashing(ctx.hashing, known.chunk_bytes, seed)
    since = None if disk.known is None or resync else BaseState(disk.known.id, disk.known.manifest.digest)
    changes = widened(await snapshot.changes(file, since), known)
    tally = await send_changes(file.file, changes, known, hashing, counter, ctx)
    resized = disk.known is not None and disk.known.size_bytes != file.size_bytes
    action = "initial" if disk.known is None else "delta" if tally.changed_bytes or resized else "unchanged"
    reason = "; ".join(part for part in (disk.reason, _how(changes)) if part) if since is not None else disk.reason
    return DryDisk(file.path, action, tally.scanned_bytes, tally.changed_bytes, counter.to_send_bytes, reason)


def _how(changes: ChangeSet) -> str:
    if changes.provenance is Provenance.FULL_SCAN:
        return f"full scan: {changes.note or 'it is read and compared with the manifest'}"
    return f"changes known by {changes.provenance.value}"
