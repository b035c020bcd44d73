"""Copying a move's files: all of them once, then, round by round, what was written meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from replicad.model.changes import BaseState
from replicad.model.extents import total_bytes
from replicad.model.moves import MovedFile, MoveRecord, Proof
from replicad.model.names import path_on
from replicad.model.progress import PhaseStarted
from replicad.storage.documents import exists
from replicad.storage.port import OpenMode
from replicad.storage.together import together
from replicad.tracking.port import ChangeSource, Snapshot, SnapshotFile

from .context import Context
from .move_chains import rewrite_locator
from .move_journal import incoming
from .move_parts import MoveParts
from .move_transfer import FileTransfer

_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Round:
    """What one round came to: what was read, found different and sent, by us or by the server, and how long that took.
    `copied_bytes` are those that the server copied."""

    scanned_bytes: int
    changed_bytes: int
    sent_bytes: int
    duration_s: float
    copied_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Tallied:
    """Bytes read at the source, found different, and sent, by us or by the server."""

    scanned_bytes: int = 0
    changed_bytes: int = 0
    sent_bytes: int = 0
    copied_bytes: int = 0

    def __add__(self, other: Tallied) -> Tallied:
        return Tallied(
            self.scanned_bytes + other.scanned_bytes,
            self.changed_bytes + other.changed_bytes,
            self.sent_bytes + other.sent_bytes,
            self.copied_bytes + other.copied_bytes,
        )


class Copying:
    """The files of a move on their way, open at the destination (`copying`), for one task at a time."""

    def __init__(
        self, record: MoveRecord, transfers: Mapping[str, FileTransfer], source: ChangeSource, ctx: Context
    ) -> None:
        self._id = record.id
        self._proof = record.options.proof
        # Afterwards the two sides of these differ, and only what is known of their bytes tells in what.
        self._rewritten = {file.path for file in record.files if file.parent is not None}
        self._transfers = transfers
        self._source = source
        self._ctx = ctx
        self._bases: dict[str, BaseState] = {}

    async def round(self, name: str, *, is_last: bool = False) -> Round:
        """Bring the copies up to what the source holds while this runs, durable and read back; what is written
        meanwhile may be lacking. Without anything known of a file all of it is brought, by the server where it can.

        `is_last`: the source stands still. After that one, or an error, it is over with this object. IntegrityError if
        something reads back different from what was written.
        """
        began_s = self._ctx.clock.monotonic_s()
        total = Tallied()
        async with self._source.snapshot(self._id, for_cycle=True, is_last=is_last) as snapshot:
            self._ctx.observe(PhaseStarted(name, sum(file.size_bytes for file in snapshot.files)))
            for file in snapshot.files:
                total += await self._bring(file, snapshot)
            await snapshot.confirm()
            await together(lambda transfer: transfer.flush(), self._transfers.values(), _AT_ONCE)
            for transfer in self._transfers.values():
                await transfer.verify()
            if not is_last:
                bases = {path: BaseState(path, transfer.digest) for path, transfer in self._transfers.items()}
                await snapshot.keep(bases)
        if not is_last:
            await self._source.settle(self._id, bases)
            self._bases = bases
        return Round(
            total.scanned_bytes, total.changed_bytes, total.sent_bytes, self._ctx.clock.monotonic_s() - began_s,
            total.copied_bytes,
        )  # fmt: skip

    async def _bring(self, file: SnapshotFile, snapshot: Snapshot) -> Tallied:
        transfer, server_bytes = self._transfers[file.path], 0
        changes = await snapshot.changes(file, self._bases.get(file.path))
        if not transfer.is_known and await transfer.copy_by_server(file.file, file.size_bytes, changes.extents):
            server_bytes = total_bytes(changes.extents)
            if self._proof is Proof.SAMPLE and file.path not in self._rewritten:
                looked_at = await transfer.compare(file.file, file.size_bytes, changes.extents)
                if looked_at is not None:
                    return Tallied(looked_at, server_bytes, server_bytes, server_bytes)
            await transfer.learn()
        tally = await transfer.copy(file.file, file.size_bytes, changes)
        return Tallied(
            tally.scanned_bytes, tally.changed_bytes + server_bytes, tally.sent_bytes + server_bytes, server_bytes
        )

    def digests(self) -> Mapping[str, str]:
        """What the copies hold, by path; "" where not all of it was read."""
        return {path: "" if transfer.is_sampled else transfer.digest for path, transfer in self._transfers.items()}

    async def rewrite_locators(self, record: MoveRecord, files: Sequence[MovedFile]) -> None:
        """Have children name their parents at the destination; for when all is sent."""
        known = {file.path: file for file in record.files}
        for file in files:
            if file.parent is not None:
                work = partial(rewrite_locator, record=record, child=file, files=known, new_id=self._ctx.new_id)
                await self._transfers[file.path].change(work)

    async def close(self) -> None:
        """Close the files at the destination: what their server tells of them afterwards stays as it is."""
        await together(lambda transfer: transfer.close(), self._transfers.values(), _AT_ONCE)


@asynccontextmanager
async def copying(
    record: MoveRecord, files: Sequence[MovedFile], parts: MoveParts, ctx: Context
) -> AsyncIterator[Copying]:
    """The incoming files, made where they are not there yet, and what is there already learnt."""
    async with AsyncExitStack() as opened:
        transfers: dict[str, FileTransfer] = {}
        for file in files:
            place, path = parts.place_of(file), incoming(record, file.number)
            there = await exists(place, path)
            mode = OpenMode.WRITE if there else OpenMode.CREATE
            target = await opened.enter_async_context(await place.open(path, mode))
            transfer = FileTransfer(target, path_on(place.name, file.target), seed_of(record), ctx)
            if there:
                ctx.observe(PhaseStarted("reading what was copied before"))
                await transfer.learn()
            transfers[file.path] = transfer
        yield Copying(record, transfers, parts.changes(files), ctx)


def seed_of(record: MoveRecord) -> int:
    """Nobody who can write the disks knows a move's id, so nobody makes two chunks with one hash."""
    return int(record.id[:16], 16)
