"""Bringing one disk of the replica up to date with its source."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from replicad.model.changes import ChangeSet, Outside
from replicad.model.chunks import chunk_length
from replicad.model.errors import IntegrityError
from replicad.model.manifest import HASH_BYTES, ZERO_HASH
from replicad.model.points import Statistics
from replicad.model.progress import Advanced
from replicad.replica.disk_update import BATCH_CHUNKS, DiskUpdate, SavedBatch, Stretch
from replicad.replica.hashing import hash_chunk
from replicad.replica.known_chunks import KnownChunks
from replicad.storage.port import ShareFile
from replicad.storage.together import first_error

from .context import Context
from .scan import Block, Gap, Hashing, scan

_BATCH_BYTES = 16 * 1024 * 1024
_BATCHES_AT_ONCE = 2
_MOST_READ_BACK = 64
_READ_BACK_ONE_IN = 100


class Writer(Protocol):
    """Where changed chunks go; `DiskUpdate` is one."""

    async def save(self, stretches: Sequence[Stretch]) -> SavedBatch:
        """Make it safe to overwrite these chunks."""

    async def write(self, saved: SavedBatch) -> int:
        """Overwrite them; returns the bytes sent. In the order of the saving."""


@dataclass(slots=True)
class Tally:
    """What was counted on the way."""

    scanned_bytes: int = 0
    changed_bytes: int = 0
    sent_bytes: int = 0
    changed_chunks: int = 0
    sample: list[tuple[int, bytes]] = field(default_factory=list)

    def statistics(self, undo_bytes: int, duration_ms: int) -> Statistics:
        """The figures for a point's record."""
        return Statistics(self.scanned_bytes, self.changed_bytes, self.sent_bytes, undo_bytes, duration_ms)


async def send_changes(
    file: ShareFile, changes: ChangeSet, known: KnownChunks, hashing: Hashing, writer: Writer, ctx: Context
) -> Tally:
    """Read what may have changed; `writer` saves and writes every chunk that the replica does not certainly hold.

    In ascending order, in batches of at most 256 chunks and some 16 MiB. While one batch is written the next one may be
    saved and a third one read: so many are in memory at most, and the blocks of the scan.
    """
    tally = Tally()
    slots = asyncio.Semaphore(_BATCHES_AT_ONCE)
    to_save: asyncio.Queue[list[Stretch] | None] = asyncio.Queue(1)
    to_write: asyncio.Queue[SavedBatch | None] = asyncio.Queue(1)

    async def hand_over(batch: list[Stretch]) -> None:
        await slots.acquire()
        await to_save.put(batch)

    async def save_all() -> None:
        while (batch := await to_save.get()) is not None:
            await to_write.put(await writer.save(batch))
        await to_write.put(None)

    async def write_all() -> None:
        while (saved := await to_write.get()) is not None:
            sent_bytes = await writer.write(saved)
            tally.sent_bytes += sent_bytes
            ctx.observe(Advanced(0, sent_bytes))
            slots.release()

    collector = _Collector(changes, known, tally, hand_over, ctx)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(save_all())
            group.create_task(write_all())
            await scan(file, changes.extents, known.size_bytes, hashing, collector.take)
            await collector.finish()
            await to_save.put(None)
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return tally


class _Collector:
    """Compares what was read with what the replica holds, and gathers what differs into batches."""

    def __init__(
        self,
        changes: ChangeSet,
        known: KnownChunks,
        tally: Tally,
        hand_over: Callable[[list[Stretch]], Awaitable[None]],
        ctx: Context,
    ) -> None:
        self._changes = changes
        self._known = known
        self._tally = tally
        self._hand_over = hand_over
        self._ctx = ctx
        self._batch: list[Stretch] = []
        self._batch_chunks = self._batch_bytes = 0

    async def take(self, piece: Block | Gap) -> None:
        """The next piece of the disk; its bytes are not needed any more on return."""
        known = self._known
        if isinstance(piece, Gap):
            if self._changes.outside is Outside.ZEROS:
                for first, end in _neighbours(known.stale_zeros(piece.first, piece.end)):
                    await self._add(first, ZERO_HASH * (end - first), None)
            end_bytes = min(piece.end * known.chunk_bytes, known.size_bytes)
            self._ctx.observe(Advanced(end_bytes - piece.first * known.chunk_bytes))
            return
        self._tally.scanned_bytes += len(piece.data)
        for first, end in _neighbours(known.stale(piece.first, piece.hashes)):
            await self._add_block(piece, first, end)
        self._ctx.observe(Advanced(len(piece.data)))

    async def _add_block(self, block: Block, first: int, end: int) -> None:
        """Chunks [first, end) of a block, those of zeros apart from the others."""
        start = first
        while start < end:
            is_zero = block.hash_of(start) == ZERO_HASH
            stop = start + 1
            while stop < end and (block.hash_of(stop) == ZERO_HASH) == is_zero:
                stop += 1
            hashes = block.hashes[(start - block.first) * HASH_BYTES : (stop - block.first) * HASH_BYTES]
            await self._add(start, hashes, None if is_zero else block.bytes_of(start, stop, self._known.chunk_bytes))
            start = stop

    async def _add(self, first: int, hashes: bytes, data: memoryview | None) -> None:
        """Add a stretch to the batch, as much at a time as that has room for."""
        known, count, place = self._known, len(hashes) // HASH_BYTES, 0
        while place < count:
            taken = min(count - place, BATCH_CHUNKS - self._batch_chunks)
            part = hashes[place * HASH_BYTES : (place + taken) * HASH_BYTES]
            copied = None
            if data is not None:
                copied = bytes(data[place * known.chunk_bytes : (place + taken) * known.chunk_bytes])
                self._batch_bytes += len(copied)
            self._batch.append(Stretch(first + place, part, copied))
            self._batch_chunks += taken
            for index in range(first + place, first + place + taken):
                self._tally.changed_bytes += chunk_length(index, known.size_bytes, known.chunk_bytes)
                start = (index - first) * HASH_BYTES
                _sample(self._tally, index, hashes[start : start + HASH_BYTES], self._ctx)
            place += taken
            if self._batch_chunks >= BATCH_CHUNKS or self._batch_bytes >= _BATCH_BYTES:
                await self.finish()

    async def finish(self) -> None:
        """Hand over what was gathered."""
        if self._batch:
            batch, self._batch = self._batch, []
            self._batch_chunks = self._batch_bytes = 0
            await self._hand_over(batch)


def _neighbours(indices: list[int]) -> Iterator[tuple[int, int]]:
    """Ascending indices as ranges [first, end) of neighbours."""
    start = 0
    for place in range(1, len(indices) + 1):
        if place == len(indices) or indices[place] != indices[place - 1] + 1:
            yield indices[start], indices[place - 1] + 1
            start = place


def _sample(tally: Tally, index: int, new_hash: bytes, ctx: Context) -> None:
    """Keep an even random sample of what is written (reservoir sampling)."""
    tally.changed_chunks += 1
    if len(tally.sample) < _MOST_READ_BACK:
        tally.sample.append((index, new_hash))
    elif (place := ctx.random.randrange(tally.changed_chunks)) < _MOST_READ_BACK:
        tally.sample[place] = (index, new_hash)


async def read_back_sample(update: DiskUpdate, tally: Tally, seed: int, subject: str) -> None:
    """Read back one in a hundred of the chunks that were written, 64 at most; IntegrityError if one differs."""
    wanted = min(len(tally.sample), tally.changed_chunks // _READ_BACK_ONE_IN)
    for index, new_hash in tally.sample[:wanted]:
        data = await update.read_back(index)
        if hash_chunk(data, seed) != new_hash:
            await update.distrust()
            raise IntegrityError(
                "write", subject, f"chunk {index} reads back different from what was written",
                "The file server or its storage corrupts data: check it before you trust any replica on it.",
            )  # fmt: skip
