"""The lock of a replica after the connection that held it was lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from replicad.model.errors import LockedError, UnreachableError
from replicad.storage.port import LockHolder, Share

from .context import Context


@asynccontextmanager
async def our_old_lock_is_a_loss(share: Share, path: str, ctx: Context) -> AsyncIterator[None]:
    """A LockedError becomes an UnreachableError if it is this very process that holds the lock `path`.

    Call it only while this process means to hold no such lock: then it is one that was lost with its connection, and
    that the server will free when it notices. (Mostly it is told at the next sign-in, and has freed it by then.)
    """
    try:
        yield
    except LockedError as error:
        holder, me = await share.lock_holder(path), ctx.holder()
        if holder is None or _process(holder) != _process(me):
            raise
        raise UnreachableError(
            error.op, error.subject, "the server still keeps our own lock, whose connection was lost", error.hint
        ) from None


def _process(holder: LockHolder) -> tuple[str, str, str, int, str]:
    return holder.host, holder.machine_id, holder.boot_id, holder.pid, holder.process_start
