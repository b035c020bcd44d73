"""Opening a replica for the verbs that read it: with its lock where possible, and in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from replicad.model.errors import AccessDeniedError, DivergedError, NotFoundError, OutOfSpaceError
from replicad.model.points import RecoveryPoint
from replicad.model.progress import Warned
from replicad.replica.directory import Numbers, Replica, list_numbers, open_replica, require_replica
from replicad.replica.layout import Layout
from replicad.replica.recovery import recover
from replicad.replica.view import points_from
from replicad.storage.port import Share

from .context import Context


@dataclass(frozen=True, slots=True)
class OpenedReplica:
    """`points` are those from the wanted one to the latest, ascending; `writable`: we hold the lock."""

    replica: Replica
    numbers: Numbers
    points: tuple[RecoveryPoint, ...]
    writable: bool

    @property
    def point(self) -> RecoveryPoint:
        """The wanted point."""
        return self.points[0]


async def check_is_replica_of(share: Share, vm_dir: str, vm: str) -> None:
    """DivergedError if there is a replica in `vm_dir` and it is that of another virtual machine."""
    replica = await open_replica(share, vm_dir)
    if replica is not None and replica.record.vm != vm:
        raise DivergedError(
            "use", replica.name, f"it is the replica of the virtual machine '{replica.record.vm}', not of '{vm}'",
            "To use it all the same, name it with --replica.",
        )  # fmt: skip


@asynccontextmanager
async def opened_replica(share: Share, vm_dir: str, number: int | None, ctx: Context) -> AsyncIterator[OpenedReplica]:
    """The replica in `vm_dir` at point `number` (None: the latest), kept from changing until the context ends.

    On a share that we may not write, or that has no room for a lock file, there is no lock to hold: then it is read as
    it is, with a warning. LockedError if somebody writes it now; NotFoundError if there is no replica or no such point.
    """
    await require_replica(share, vm_dir)
    try:
        lock = await share.lock(Layout(vm_dir).lock, ctx.holder())
    except (AccessDeniedError, OutOfSpaceError) as error:
        why = "can't be written" if isinstance(error, AccessDeniedError) else "is full"
        ctx.observe(Warned(f"{share.name} {why}, so the replica is read without its lock"))
        yield await _opened(share, vm_dir, number, writable=False)
        return
    async with lock:
        await recover(await require_replica(share, vm_dir))
        yield await _opened(share, vm_dir, number, writable=True)


async def _opened(share: Share, vm_dir: str, number: int | None, *, writable: bool) -> OpenedReplica:
    replica = await require_replica(share, vm_dir)
    numbers = await list_numbers(replica)
    wanted = number if number is not None else numbers.latest
    if wanted is None:
        raise NotFoundError(
            "find", f"a recovery point in {replica.name}", "there is none yet",
            "The first 'replicad sync' makes it; an interrupted one goes on where it was.",
        )  # fmt: skip
    return OpenedReplica(replica, numbers, tuple(await points_from(replica, wanted, numbers)), writable)
