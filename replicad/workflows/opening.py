"""Opening a replica for the verbs that read it: with its lock where possible, and in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from replicad.model.errors import AccessDeniedError, IntegrityError, NotFoundError, OutOfSpaceError
from replicad.model.points import RecoveryPoint
from replicad.model.progress import Warned, warn_once
from replicad.replica.directory import Numbers, Replica, require_replica
from replicad.replica.layout import Layout
from replicad.replica.lineage import points_from
from replicad.replica.recovery import recover
from replicad.storage.port import Share
from replicad.storage.retrying import RetryingShare

from .context import Context
from .locking import RegainedLock, replica_as_it_stands


@dataclass(frozen=True, slots=True)
class OpenedReplica:
    """`points` are those from the wanted one to the latest, ascending; `writable`: we hold the lock, and
    the replica is in order.

    `still_ours` raises if somebody else may have written the replica since it was opened, as far as the lock can tell.
    """

    replica: Replica
    numbers: Numbers
    points: tuple[RecoveryPoint, ...]
    writable: bool
    still_ours: Callable[[], Awaitable[None]]

    @property
    def point(self) -> RecoveryPoint:
        """The wanted point."""
        return self.points[0]


@asynccontextmanager
async def opened_replica(share: Share, vm_dir: str, number: int | None, ctx: Context) -> AsyncIterator[OpenedReplica]:
    """The replica in `vm_dir` at point `number` (None: the latest), kept from changing until the context ends.

    Reading it outlives lost connections. On a share that we may not write, or that has no room for a lock file, there
    is no lock to hold: then it is read as it is, with a warning. LockedError if somebody writes it now, BusyError if
    somebody did while the connection was lost; NotFoundError if there is no replica or no such point.
    """
    warn = warn_once(ctx.observe)
    await require_replica(share, vm_dir, warn)
    try:
        lock = await share.lock(Layout(vm_dir).lock, ctx.holder())
    except (AccessDeniedError, OutOfSpaceError) as error:
        why = "can't be written" if isinstance(error, AccessDeniedError) else "is full"
        ctx.observe(Warned(f"{share.name} {why}, so the replica is read without its lock"))
        yield await _opened(await replica_as_it_stands(share, vm_dir, warn), number, ctx, None)
        return
    async with RegainedLock(lock, share, vm_dir, ctx, warn) as kept:
        in_order = await _brought_into_order(share, vm_dir, ctx, warn)
        opened = replace(await _opened(await kept.note(), number, ctx, kept), writable=in_order)
        try:
            yield opened
        except (IntegrityError, NotFoundError):
            # What looks like damage may be what another writer did while the lock was lost.
            await opened.still_ours()
            raise


async def _brought_into_order(share: Share, vm_dir: str, ctx: Context, warn: Callable[[str], None]) -> bool:
    """Finish what an earlier writer left, if we may: whoever only reads sees through it as well."""
    replica = await require_replica(share, vm_dir, warn)
    try:
        await recover(replica)
    except (AccessDeniedError, OutOfSpaceError) as error:
        ctx.observe(Warned(f"what an interrupted cycle left is only seen through, not finished: {error}"))
        return False
    return True


async def _opened(
    found: tuple[Replica, Numbers], number: int | None, ctx: Context, kept: RegainedLock | None
) -> OpenedReplica:
    replica, numbers = found
    regain = kept.regain if kept is not None else _nothing
    share = RetryingShare(replica.share, ctx.clock, ctx.observe, regain)
    replica = replace(replica, share=share)
    wanted = number if number is not None else numbers.latest
    if wanted is None:
        raise NotFoundError(
            "find", f"a recovery point in {replica.name}", "there is none yet",
            "The first 'replicad sync' makes it; an interrupted one goes on where it was.",
        )  # fmt: skip
    points = tuple(await points_from(replica, wanted, numbers))
    return OpenedReplica(replica, numbers, points, kept is not None, lambda: share.steadily(regain))


async def _nothing() -> None:
    pass
