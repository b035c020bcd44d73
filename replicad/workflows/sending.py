"""Bringing one disk of the replica up to date with its source."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from replicad.model.changes import ChangeSet, Outside
from replicad.model.chunks import chunk_length
from replicad.model.errors import IntegrityError
from replicad.model.manifest import HASH_BYTES, ZERO_HASH
from replicad.model.points import Statistics
from replicad.model.progress import Advanced
from replicad.replica.disk_update import BATCH_CHUNKS, ChunkWrite, DiskUpdate
from replicad.replica.hashing import hash_chunk
from replicad.replica.known_chunks import KnownChunks
from replicad.storage.port import ShareFile

from .context import Context
from .scan import Block, Gap, Hashing, scan

_BATCH_BYTES = 16 * 1024 * 1024
_MOST_READ_BACK = 64
_READ_BACK_ONE_IN = 100

Write = Callable[[list[ChunkWrite]], Awaitable[int]]


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
    file: ShareFile, changes: ChangeSet, known: KnownChunks, hashing: Hashing, write: Write, ctx: Context
) -> Tally:
    """Read what may have changed, and give every chunk that the replica does not certainly hold to `write`.

    In ascending order, in batches of at most 256 chunks and 16 MiB (or one chunk, if that is larger).
    """
    tally = Tally()
    batch: list[ChunkWrite] = []
    batch_bytes = 0

    async def write_batch() -> None:
        nonlocal batch, batch_bytes
        if batch:
            full, batch, batch_bytes = batch, [], 0
            sent_bytes = await write(full)
            tally.sent_bytes += sent_bytes
            ctx.observe(Advanced(0, sent_bytes))

    async def add(index: int, new_hash: bytes, data: bytes | None) -> None:
        nonlocal batch_bytes
        batch.append(ChunkWrite(index, new_hash, data))
        batch_bytes += len(data or b"")
        tally.changed_bytes += chunk_length(index, known.size_bytes, known.chunk_bytes)
        _sample(tally, index, new_hash, ctx)
        if len(batch) >= BATCH_CHUNKS or batch_bytes >= _BATCH_BYTES:
            await write_batch()

    async def take(piece: Block | Gap) -> None:
        if isinstance(piece, Gap):
            if changes.outside is Outside.ZEROS:
                for index in known.stale_zeros(piece.first, piece.end):
                    await add(index, ZERO_HASH, None)
            ctx.observe(
                Advanced(min(piece.end * known.chunk_bytes, known.size_bytes) - piece.first * known.chunk_bytes)
            )
            return
        tally.scanned_bytes += len(piece.data)
        for index in known.stale(piece.first, piece.hashes):
            place = index - piece.first
            new_hash = piece.hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES]
            data = piece.data[place * known.chunk_bytes : (place + 1) * known.chunk_bytes]
            await add(index, new_hash, None if new_hash == ZERO_HASH else bytes(data))
        ctx.observe(Advanced(len(piece.data)))

    await scan(file, changes.extents, known.size_bytes, hashing, take)
    await write_batch()
    return tally


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
