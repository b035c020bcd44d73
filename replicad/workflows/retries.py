"""Cycles and moves that outlive lost connections: they begin again, from their lock on, and go on where they were."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from replicad.model.errors import ReplicadError, was_lost
from replicad.model.moves import MovePhase, MoveRecord
from replicad.model.patience import Failures, Patience
from replicad.model.progress import Advanced, ProgressEvent, Warned, each_warning_once
from replicad.replica.layout import Layout
from replicad.storage.decorated import DecoratedFile, DecoratedShare
from replicad.storage.port import Buffer, LockHolder, Piece, Share, ShareFile, ShareLock
from replicad.tracking.port import ChangeSource

from .context import Context
from .dry_run import DryRun, dry_run
from .locking import lock_again
from .move import move
from .move_parts import MoveParts
from .replicate import CycleReport, ReplicationJob, Trail, replicate

T = TypeVar("T")

_MUCH_BYTES = 16 * 1024 * 1024
PATIENCE = Patience(first_pause_s=1, longest_pause_s=30, failures=5, seconds=120)


async def replicate_with_retries(
    job: ReplicationJob, source: ChangeSource, share: Share, ctx: Context, patience: Patience | None = None
) -> CycleReport:
    """As `replicate`, but a connection that is lost on the way ends only an attempt.

    The next one takes the lock and the snapshot anew and sends what is in doubt and what is missing. As long as each
    attempt sends something that none before it had sent, there is no end to them; else `patience` says when the last
    error is raised. Every other error ends it at once: what somebody else keeps busy or locked, a sign-in that was
    refused, a full share.
    """
    began_s = ctx.clock.monotonic_s()
    replica = _ReplicaShare(share, Layout(job.vm))
    trail = Trail()
    once = replace(ctx, observe=each_warning_once(ctx.observe))
    attempts = 0

    async def attempt() -> CycleReport:
        nonlocal attempts
        attempts += 1
        return await replicate(job, source, replica, once, trail)

    report = await _through_losses(attempt, replica.got_on, ctx, patience)
    duration_ms = round((ctx.clock.monotonic_s() - began_s) * 1000)
    counted = replace(report.point.statistics, sent_bytes=replica.sent_bytes, duration_ms=duration_ms)
    return replace(report, statistics=counted, attempts=attempts)


async def dry_run_with_retries(
    job: ReplicationJob, source: ChangeSource, share: Share, ctx: Context, patience: Patience | None = None
) -> DryRun:
    """As `dry_run`, begun again when a connection is lost."""
    once = replace(ctx, observe=each_warning_once(ctx.observe))
    return await _through_losses(lambda: dry_run(job, source, share, once), lambda: False, ctx, patience)


async def move_with_retries(
    record: MoveRecord, parts: MoveParts, ctx: Context, patience: Patience | None = None
) -> MoveRecord:
    """As `move`, but a connection that is lost on the way ends only an attempt: the next one reads what is there and
    goes on. As long as each attempt comes to a later phase than all before it, or sends much, there is no end to
    them."""
    warn_once = each_warning_once(ctx.observe)
    furthest, sent_bytes = list(MovePhase).index(record.phase), 0

    def hear(event: ProgressEvent) -> None:
        nonlocal sent_bytes
        if isinstance(event, Advanced):
            sent_bytes += event.sent_bytes
        warn_once(event)

    def got_on() -> bool:
        nonlocal furthest, sent_bytes
        latest = parts.journal.latest or record
        reached, sent = list(MovePhase).index(latest.phase), sent_bytes
        is_further = reached > furthest or sent >= _MUCH_BYTES
        furthest, sent_bytes = max(furthest, reached), 0
        return is_further

    once = replace(ctx, observe=hear)
    return await _through_losses(lambda: move(record, parts, once), got_on, ctx, patience)


async def _through_losses(
    attempt: Callable[[], Awaitable[T]], got_on: Callable[[], bool], ctx: Context, patience: Patience | None
) -> T:
    """What the first attempt returns that loses no connection. `got_on`: the last one brought the work further."""
    failures = Failures(patience or PATIENCE)
    while True:
        try:
            return await attempt()
        except ReplicadError as error:
            if not was_lost(error):
                raise
            if got_on():
                failures.forget()
            pause_s = failures.another(ctx.clock.monotonic_s())
            if pause_s is None:
                raise
            if failures.count == 1:
                what = f"cannot {error.op} {error.subject}: {error.answer}"
                ctx.observe(Warned(f"{what}; trying again, to go on where it was"))
        await ctx.clock.sleep(pause_s)


class _ReplicaShare(DecoratedShare):
    """The replica's share for all attempts: it counts what is written to disks, and knows how far each one has got.

    What is sent once more because it is in doubt gets nothing on: else a connection that is lost again and again
    before anything is durable would never end.
    """

    def __init__(self, inner: Share, layout: Layout) -> None:
        super().__init__(inner)
        self.sent_bytes = 0
        self._prefix = layout.disks_dir + "/"
        self._ends: dict[str, int] = {}
        self._got_on = False
        self._was_locked = False

    async def lock(self, path: str, holder: LockHolder) -> ShareLock:
        if self._was_locked:
            return await lock_again(self.inner, path, holder)
        # Even if its answer is lost.
        self._was_locked = True
        return await self.inner.lock(path, holder)

    def _wrap(self, file: ShareFile) -> ShareFile:
        return _SentFile(file, self) if file.path.startswith(self._prefix) else file

    def sent(self, path: str, end: int, count: int) -> None:
        """So many bytes were written, up to `end`."""
        self.sent_bytes += count
        if end > self._ends.get(path, 0):
            self._ends[path] = end
            self._got_on = True

    def got_on(self) -> bool:
        """Whether anything was written that had never been written before, since this was asked last."""
        found, self._got_on = self._got_on, False
        return found


class _SentFile(DecoratedFile):
    def __init__(self, inner: ShareFile, share: _ReplicaShare) -> None:
        super().__init__(inner)
        self._share = share

    async def write(self, data: Buffer, offset: int) -> None:
        await self.inner.write(data, offset)
        length = memoryview(data).nbytes
        self._share.sent(self.path, offset + length, length)

    async def write_pieces(self, pieces: Sequence[Piece]) -> None:
        await self.inner.write_pieces(pieces)
        for data, offset in pieces:
            length = memoryview(data).nbytes
            self._share.sent(self.path, offset + length, length)

    async def zero(self, offset: int, length: int) -> None:
        await self.inner.zero(offset, length)
        self._share.sent(self.path, offset + length, 0)
