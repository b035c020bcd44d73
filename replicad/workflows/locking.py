"""The lock of a replica after the connection that held it was lost."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from replicad.model.errors import BusyError, LockedError, ReplicadError, UnreachableError, was_lost
from replicad.model.names import path_on
from replicad.replica.directory import Numbers, Replica, list_numbers, require_replica
from replicad.replica.layout import Layout
from replicad.replica.record_files import Warn
from replicad.storage.port import LockHolder, Share, ShareLock

from .context import Context


async def lock_again(share: Share, path: str, me: LockHolder) -> ShareLock:
    """Take a lock that this process held and has lost with its connection.

    As `Share.lock`, but UnreachableError as long as the server keeps the lost one for us: it frees that when it
    notices. (Mostly it is told at the next sign-in, and has freed it by then.)
    """
    try:
        return await share.lock(path, me)
    except LockedError as error:
        holder = await share.lock_holder(path)
        if holder is not None and _process(holder) != _process(me):
            raise
        # If nobody has it any more, it was given back between the two questions.
        raise UnreachableError(
            error.op, error.subject, "the server still keeps our own lock, whose connection was lost", error.hint
        ) from None


def _process(holder: LockHolder) -> tuple[str, str, str, int, str]:
    return holder.host, holder.machine_id, holder.boot_id, holder.pid, holder.process_start


async def replica_as_it_stands(share: Share, vm_dir: str, warn: Warn) -> tuple[Replica, Numbers]:
    """What another writer would have changed. NotFoundError if there is no replica."""
    replica = await require_replica(share, vm_dir, warn)
    return replica, await list_numbers(replica)


class RegainedLock:
    """The lock of a replica that is read: if it is lost with its connection, it is taken anew, and counts as if it had
    never been lost unless another writer was there meanwhile. Use as `async with`, and `note` before `regain`.

    Not for a cycle: what that had under way has to begin again.
    """

    def __init__(self, lock: ShareLock, share: Share, vm_dir: str, ctx: Context, warn: Warn) -> None:
        self._lock = lock
        self._share = share
        self._vm_dir = vm_dir
        self._ctx = ctx
        self._warn = warn
        self._noted: tuple[Replica, Numbers] | None = None
        self._in_doubt = False

    async def note(self) -> tuple[Replica, Numbers]:
        """Take down where the replica stands."""
        self._noted = await replica_as_it_stands(self._share, self._vm_dir, self._warn)
        return self._noted

    async def regain(self) -> None:
        """On return the lock is held, and the replica stands where it stood.

        LockedError if another writer holds it now; BusyError if one was there. Can be called again after any error.
        """
        if not self._in_doubt and await self._is_held():
            return
        self._in_doubt = True
        await self._lock.release()
        self._lock = await lock_again(self._share, Layout(self._vm_dir).lock, self._ctx.holder())
        if await replica_as_it_stands(self._share, self._vm_dir, self._warn) != self._noted:
            raise BusyError(
                "go on reading", path_on(self._share.name, self._vm_dir),
                "the connection was lost, and another writer was there before it came back", "Run it again.",
            )  # fmt: skip
        self._in_doubt = False

    async def _is_held(self) -> bool:
        try:
            await self._lock.check()
        except ReplicadError as error:
            if isinstance(error, LockedError) or was_lost(error):
                return False
            raise
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lock.release()
