"""One cycle of replication, from the lock to the committed point."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from replicad.model.changes import BaseState
from replicad.model.errors import AlreadyExistsError, ConflictError, NotFoundError, OutOfSpaceError
from replicad.model.extents import total_bytes
from replicad.model.names import path_on
from replicad.model.plan import CyclePlan, SourceDisk, plan_cycle
from replicad.model.points import (
    FORMAT_VERSION,
    Change,
    DiskState,
    RecoveryPoint,
    ReplicaRecord,
    Role,
    Statistics,
)
from replicad.model.progress import PhaseStarted, Warned, warn_once
from replicad.model.retention import Keep
from replicad.model.tracking_words import mistake_in_words, tracking_in_words
from replicad.replica.cycle import Cycle, begin_cycle, choose_new_disks
from replicad.replica.directory import Replica, adopt_source, check_belongs, create_replica, open_replica
from replicad.replica.fence import Fence
from replicad.replica.layout import Layout
from replicad.replica.record_copies import mend_records
from replicad.replica.recovery import Standing, recover
from replicad.storage.port import Share, ShareLock
from replicad.storage.room import RoomTellingShare
from replicad.tracking.port import ChangeSource, Snapshot

from .context import Context
from .disk_check import check_disks
from .disk_cycle import send_disk
from .manifests import remember_manifest
from .prune import prune_after_cycle


@dataclass(frozen=True, slots=True)
class ReplicationJob:
    """What is replicated: the VM, its source's name for people, and the chunk size for new disks (None: one that fits).

    `resync`: believe neither the manifest nor what the replica was made from; read both sides. `keep`: which points to
    keep once the cycle has committed its own; None: all of them. `sample`: which part of what a tracker calls unchanged
    is looked at all the same, 0 to 1, and at least a few chunks.
    """

    vm: str
    source_name: str
    chunk_bytes: int | None = None
    resync: bool = False
    keep: Keep | None = None
    sample: float = 0.001
    former_sources: tuple[str, ...] = ()
    """What the source was called before the machine was moved: a replica that was made from one of them is gone on
    with."""

    def adopts(self, source: str) -> bool:
        """Whether a replica that was made from this source is to be made from that of now."""
        return self.resync or source in self.former_sources


@dataclass(frozen=True, slots=True)
class CycleReport:
    """What a cycle did; `point` is the point that it committed.

    `attempts` is how often it was begun, and `statistics` count all of them where that matters: bytes sent, and time.
    """

    point: RecoveryPoint
    resumed: bool
    statistics: Statistics
    attempts: int = 1

    @property
    def provenance(self) -> str:
        """How it was known which parts of the disks may have changed; by more than one name, joined by `+`, where the
        disks differ."""
        return "+".join(sorted({disk.provenance.value for disk in self.point.disks}))

    @property
    def tracking(self) -> tuple[str, ...]:
        """The same in words, with what came of checking it, and why disks were read whole; a line each."""
        return tracking_in_words(self.point.disks)


@dataclass(slots=True)
class Trail:
    """What attempts at one cycle leave for the next one: the point that was about to be committed."""

    point: RecoveryPoint | None = None


async def replicate(
    job: ReplicationJob, source: ChangeSource, share: Share, ctx: Context, trail: Trail | None = None
) -> CycleReport:
    """Bring the replica on `share` up to date and commit a new point.

    Whatever is raised, all older points are as they were, and the next call goes on from here: with the cycle, or, if
    it was raised at the very commit, from a point that is there already or that the next call commits first. A call
    with the `trail` of that one then returns that point, and makes no other.
    BusyError if the source's disks can't be held; LockedError if another writer holds the replica.
    """
    began_s = ctx.clock.monotonic_s()
    trail = trail or Trail()
    await source.select()
    async with locked_replica(job, RoomTellingShare(share), ctx) as (replica, lock):
        with _telling_how_to_go_on():
            standing = await recover(replica)
            await mend_records(replica)
        if trail.point is not None and trail.point == standing.latest:
            return CycleReport(trail.point, True, trail.point.statistics)
        ctx.observe(PhaseStarted("holding the source"))
        async with source.snapshot(replica.record.replica_id, for_cycle=True) as snapshot:
            plan = _plan(job, standing, snapshot)
            warnings = (*snapshot.warnings, *plan.warnings, *await check_disks(snapshot, job.source_name))
            cycle = await _begin(plan, standing, replica, snapshot, lock, ctx)
            warnings = (*warnings, *cycle.warnings)
            for warning in warnings:
                ctx.observe(Warned(warning))
            ctx.observe(PhaseStarted(plan.kind.value, sum(f.size_bytes for f in snapshot.files)))
            files = {f.path: f for f in snapshot.files}
            with _telling_how_to_go_on():
                sent = [
                    await send_disk(
                        disk, files[disk.source.path], snapshot, cycle, resync=job.resync, sample=job.sample, ctx=ctx
                    )
                    for disk in plan.disks
                ]
            warnings = (*warnings, *(text for s in sent if (text := _mistake_of(s.state))))
            await snapshot.confirm()
            states = {s.state.path: BaseState(s.state.id, s.state.manifest.digest) for s in sent}
            await snapshot.keep(states)
        ctx.observe(PhaseStarted("committing"))
        point = _describe(job, plan, cycle, snapshot, tuple(s.state for s in sent), warnings, began_s, ctx)
        trail.point = point
        with _telling_how_to_go_on():
            await cycle.commit(point)
        await source.settle(replica.record.replica_id, states)
        for disk in sent:
            if disk.state.change is not Change.UNCHANGED:
                await remember_manifest(replica, disk.state.id, disk.manifest, ctx.cache, disk.base)
        if job.keep is not None:
            await prune_after_cycle(replica, job.keep, lock, ctx)
    return CycleReport(point, standing.pending is not None, point.statistics)


@contextmanager
def _telling_how_to_go_on() -> Iterator[None]:
    """A share that is full stops a cycle, and nothing else is lost."""
    try:
        yield
    except OutOfSpaceError as error:
        room = f"room for at least {error.missing_bytes} bytes" if error.missing_bytes else "room"
        hint = f"Make {room} there and run 'replicad sync' again: it goes on where it was; all points are intact."
        raise OutOfSpaceError(error.op, error.subject, error.answer, hint, missing_bytes=error.missing_bytes) from None


async def _make_directory(share: Share, vm: str) -> None:
    """The VM's own directory below the replica's share, which must be there: what is missing may be unmounted."""
    try:
        await share.stat("")
    except NotFoundError:
        raise NotFoundError(
            "find", f"the replica share's directory {share.name}", "there is no such directory",
            "Create it, mount what should be there, or correct 'replica' in the configuration.",
        ) from None  # fmt: skip
    try:
        await share.make_dir(vm)
    except AlreadyExistsError:
        raise ConflictError(
            "make a replica in", path_on(share.name, vm), "a file of that name is there",
            "Move it away, or choose another replica share.",
        ) from None  # fmt: skip


@asynccontextmanager
async def locked_replica(job: ReplicationJob, share: Share, ctx: Context) -> AsyncIterator[tuple[Replica, ShareLock]]:
    """The VM's replica, made if there is none, under its lock."""
    ctx.observe(PhaseStarted("locking the replica"))
    with _telling_how_to_go_on():
        await _make_directory(share, job.vm)
        taken = await share.lock(Layout(job.vm).lock, ctx.holder())
    async with taken as lock:
        warn = warn_once(ctx.observe)
        with _telling_how_to_go_on():
            replica = await open_replica(share, job.vm, warn)
            if replica is None:
                replica = await create_replica(share, _new_record(job, ctx), warn)
            check_belongs(replica, job.vm, job.source_name, adopt=job.adopts(replica.record.source))
            replica = await adopt_source(replica, job.source_name)
        yield replica, lock


def _new_record(job: ReplicationJob, ctx: Context) -> ReplicaRecord:
    seed = ctx.new_id()[:16]
    return ReplicaRecord(
        FORMAT_VERSION, ctx.new_id(), job.vm, job.source_name, seed, 1, Role.REPLICA, ctx.clock.now(),
        f"replicad {ctx.version}",
    )  # fmt: skip


def _plan(job: ReplicationJob, standing: Standing, snapshot: Snapshot) -> CyclePlan:
    sources = [SourceDisk(f.path, f.kind, f.size_bytes) for f in snapshot.files]
    return plan_cycle(standing.latest, sources, job.chunk_bytes, resync=job.resync)


async def _begin(
    plan: CyclePlan,
    standing: Standing,
    replica: Replica,
    snapshot: Snapshot,
    lock: ShareLock,
    ctx: Context,
) -> Cycle:
    wanted = {d.source.path: d.chunk_bytes for d in plan.disks if d.known is None}
    if standing.pending is None:
        await _check_room(replica, snapshot, frozenset(wanted))
    new_disks = choose_new_disks(standing, wanted, ctx.new_id)
    kept = frozenset(d.source.path for d in plan.disks)
    fence = Fence(lock.check, ctx.clock.monotonic_s)
    with _telling_how_to_go_on():
        return await begin_cycle(replica, standing, new_disks, kept, ctx.clock.now(), ctx.holder().host, fence)


async def _check_room(replica: Replica, snapshot: Snapshot, new: frozenset[str]) -> None:
    """New disks need the room that they take at the source; say so before a byte moves."""
    needed_bytes = 0
    for file in snapshot.files:
        if file.path in new:
            # Where the share can't tell which ranges are allocated, it may still tell how much is.
            extent_bytes = total_bytes((await snapshot.changes(file, None)).extents)
            needed_bytes += min(extent_bytes, file.allocated_bytes)
    free_bytes = await replica.share.free_bytes()
    if needed_bytes > free_bytes:
        raise OutOfSpaceError(
            "copy", f"{len(new)} new {'disk' if len(new) == 1 else 'disks'} to {replica.name}",
            f"{needed_bytes} bytes are needed and {free_bytes} are free",
            f"Make room for {needed_bytes - free_bytes} bytes more, or choose another replica share; nothing was sent.",
            missing_bytes=needed_bytes - free_bytes,
        )  # fmt: skip


def _mistake_of(disk: DiskState) -> str:
    return "" if disk.trust is None else mistake_in_words(disk.path, disk.trust)


def _describe(
    job: ReplicationJob,
    plan: CyclePlan,
    cycle: Cycle,
    snapshot: Snapshot,
    disks: tuple[DiskState, ...],
    warnings: tuple[str, ...],
    began_s: float,
    ctx: Context,
) -> RecoveryPoint:
    duration_ms = round((ctx.clock.monotonic_s() - began_s) * 1000)
    total = sum((d.statistics for d in disks), Statistics())
    record = cycle.replica.record
    return RecoveryPoint(
        FORMAT_VERSION, record.replica_id, job.vm, cycle.record.number, cycle.record.previous, snapshot.taken,
        plan.kind, snapshot.consistency, record.generation, ctx.holder().host, disks, plan.removed, warnings,
        Statistics(total.scanned_bytes, total.changed_bytes, total.sent_bytes, total.undo_bytes, duration_ms),
    )  # fmt: skip
