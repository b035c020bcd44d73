"""Removing the recovery points that no rule keeps."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from replicad.model.errors import IntegrityError, OutOfSpaceError, ReplicadError
from replicad.model.points import RecoveryPoint
from replicad.model.progress import Observer, PhaseStarted, Warned, nobody, warn_once
from replicad.model.retention import Keep, PointFacts, Run, Verdict, judge, runs_to_remove
from replicad.replica.directory import Replica, check_belongs, list_numbers, require_replica
from replicad.replica.fence import Fence
from replicad.replica.layout import Layout
from replicad.replica.lineage import read_lineage, read_settled_lineage
from replicad.replica.merge import Manifests, Merge, commit_merge, prepare_merge
from replicad.replica.recovery import recover
from replicad.replica.tidying import Tidied, has_leftovers, tidy
from replicad.storage.port import Share, ShareLock

from .context import Context
from .manifests import load_manifest


@dataclass(frozen=True, slots=True)
class PruneReport:
    """All points as they were before, ascending, and a verdict on each. `removed` are the numbers of those that went,
    `refused` says why others that should have gone did not."""

    vm: str
    points: tuple[RecoveryPoint, ...]
    verdicts: tuple[Verdict, ...]
    removed: tuple[int, ...] = ()
    refused: tuple[str, ...] = ()
    freed_bytes: int = 0
    foreign: tuple[str, ...] = ()


async def prune_replica(share: Share, vm: str, keep: Keep, ctx: Context) -> PruneReport:
    """Take the lock of the replica of `vm`, bring it in order, and prune it; raises as `prune`.

    NotFoundError if there is no replica; LockedError if another writer holds it.
    """
    await require_replica(share, vm)
    ctx.observe(PhaseStarted("locking the replica"))
    async with await share.lock(Layout(vm).lock, ctx.holder()) as lock:
        replica = await require_replica(share, vm, warn_once(ctx.observe))
        check_belongs(replica, vm, replica.record.source, adopt=True)
        await recover(replica)
        return await prune(replica, keep, lock, ctx)


async def preview(share: Share, vm: str, keep: Keep | None, observe: Observer = nobody) -> PruneReport:
    """What `prune_replica` would find and remove; changes nothing and takes no lock."""
    replica = await require_replica(share, vm, warn_once(observe))
    points, _ = await read_settled_lineage(replica)
    return PruneReport(vm, tuple(points), verdicts_on(points, keep))


def verdicts_on(points: list[RecoveryPoint], keep: Keep | None) -> tuple[Verdict, ...]:
    """What keeps each point, or why it goes."""
    return judge([PointFacts(p.number, p.time, p.pinned) for p in points], keep)


async def prune(replica: Replica, keep: Keep, lock: ShareLock, ctx: Context) -> PruneReport:
    """Remove the points that no rule keeps. Call with the lock held and the replica in order.

    The points that stay read as before at every instant, whatever dies; the next call finishes what this one left. Old
    bytes that only a damaged undo log could bring back keep their points from being removed, with a warning.
    """
    points = await read_lineage(replica, await list_numbers(replica))
    work = _Pruning(replica, {p.number: p for p in points}, Fence(lock.check, ctx.clock.monotonic_s), ctx)
    await work.tidy(records_in_doubt=True)
    verdicts = verdicts_on(points, keep)
    runs = runs_to_remove(verdicts)
    if runs:
        ctx.observe(PhaseStarted("pruning"))
    # What goes without leaving anything is first: it makes room for the logs that merging writes. Then from the newest
    # on, as the manifests that each merge is proven by are found on the way back from the latest point.
    for run in sorted(runs, key=lambda r: (r.older is not None, -r.newer)):
        await work.remove(run)
    for path in work.tidied.foreign:
        ctx.observe(Warned(f"{path} is not replicad's and was left where it is; move it away"))
    return PruneReport(
        replica.record.vm, tuple(points), verdicts, tuple(sorted(work.removed)), tuple(work.refused),
        max(0, work.tidied.freed_bytes - work.written_bytes), work.tidied.foreign,
    )  # fmt: skip


async def prune_after_cycle(replica: Replica, keep: Keep, lock: ShareLock, ctx: Context) -> None:
    """As `prune`, at the end of a cycle, whose point stands whatever happens here: what goes wrong is a warning."""
    try:
        # Without a rule, or with fewer directories than points to keep, no record need be read.
        full = not keep.keeps_all() and len((await list_numbers(replica)).committed) > keep.latest
        if full or await has_leftovers(replica):
            await prune(replica, keep, lock, ctx)
    except ReplicadError as error:
        ctx.observe(Warned(f"points that no rule keeps are still there: {error}"))


@dataclass(slots=True)
class _Pruning:
    """`points` are those that there are, by number; `written_bytes` is what merged logs take."""

    replica: Replica
    points: dict[int, RecoveryPoint]
    fence: Fence
    ctx: Context
    manifests: Manifests = field(init=False)
    tidied: Tidied = field(default_factory=Tidied)
    written_bytes: int = 0
    removed: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.manifests = Manifests(
            self.replica, self.points, lambda disk: load_manifest(self.replica, disk, self.ctx.cache)
        )

    async def tidy(self, *, records_in_doubt: bool = False) -> None:
        """Put away what no record names."""
        points = [self.points[n] for n in sorted(self.points)]
        self.tidied += await tidy(self.replica, points, self.fence, records_in_doubt=records_in_doubt)

    async def remove(self, run: Run) -> None:
        """Remove one run of points, and put away what it leaves."""
        older = self.points[run.older] if run.older is not None else None
        merge = Merge(older, tuple(self.points[n] for n in run.removed), self.points[run.newer])
        try:
            record = await prepare_merge(self.replica, merge, self.manifests, self.fence)
        except IntegrityError as error:
            span = (
                f"point {run.removed[0]}" if len(run.removed) == 1 else f"points {run.removed[0]} to {run.removed[-1]}"
            )
            self.refused.append(f"{span} can't be removed: {error}")
            self.ctx.observe(Warned(self.refused[-1]))
            await self.tidy()
            return
        except OutOfSpaceError:
            with suppress(ReplicadError):  # what went wrong first is what is told
                await self.tidy()
            raise
        await commit_merge(self.replica, record, self.fence)
        made = set(record.undo_references()) - set(merge.newer.undo_references())
        self.written_bytes += sum(undo.length_bytes for undo in made)
        self.points[run.newer] = record
        for number in run.removed:
            del self.points[number]
        self.removed += run.removed
        await self.tidy()
