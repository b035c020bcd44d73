"""Bringing one disk of the replica up to date with its source."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from replicad.model.changes import ChangeSet
from replicad.model.errors import IntegrityError
from replicad.model.progress import Advanced
from replicad.replica.disk_update import DiskUpdate, SavedBatch, Stretch
from replicad.replica.hashing import hash_chunk
from replicad.replica.known_chunks import KnownChunks
from replicad.storage.port import ShareFile
from replicad.storage.together import first_error

from .collecting import Batch, Collector, Tally
from .context import Context
from .scan import Hashing, scan

_BATCHES_AT_ONCE = 2
_READ_BACK_ONE_IN = 100


class Writer(Protocol):
    """Where changed chunks go; `DiskUpdate` is one."""

    async def save(self, stretches: Sequence[Stretch]) -> SavedBatch:
        """Make it safe to overwrite these chunks."""

    async def write(self, saved: SavedBatch) -> int:
        """Overwrite them; returns the bytes sent. Begun in the order of the saving, several at a time."""


async def send_changes(
    file: ShareFile, changes: ChangeSet, known: KnownChunks, hashing: Hashing, writer: Writer, ctx: Context
) -> Tally:
    """Read what may have changed; `writer` saves and writes every chunk that the replica does not certainly hold.

    In ascending order, in batches of at most 256 chunks and some 16 MiB: two of them are being saved or written while a
    third one is gathered. So many are in memory at most, and the blocks of the scan.
    """
    slots = asyncio.Semaphore(_BATCHES_AT_ONCE)
    to_save: asyncio.Queue[Batch | None] = asyncio.Queue()
    collector: Collector

    async def hand_over(batch: Batch) -> None:
        await slots.acquire()
        to_save.put_nowait(batch)

    async def save_and_write(group: asyncio.TaskGroup) -> None:
        while (batch := await to_save.get()) is not None:
            group.create_task(write(batch, await writer.save(batch.stretches)))

    async def write(batch: Batch, saved: SavedBatch) -> None:
        sent_bytes = await writer.write(saved)
        collector.tally.sent_bytes += sent_bytes
        ctx.observe(Advanced(batch.changed_bytes, sent_bytes))
        batch.give_back()
        slots.release()

    collector = Collector(changes, known, hand_over, ctx)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(save_and_write(group))
            await scan(file, changes.extents, known.size_bytes, hashing, collector.take)
            await collector.finish()
            to_save.put_nowait(None)
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return collector.tally


async def read_back_sample(update: DiskUpdate, tally: Tally, seed: int, subject: str) -> None:
    """Read back one in a hundred of the chunks that were written, 64 at most; IntegrityError if one differs."""
    chosen = tally.sample.chosen
    for index, new_hash in chosen[: tally.changed_chunks // _READ_BACK_ONE_IN]:
        data = await update.read_back(index)
        if hash_chunk(data, seed) != new_hash:
            await update.distrust()
            raise IntegrityError(
                "write", subject, f"chunk {index} reads back different from what was written",
                "The file server or its storage corrupts data: check it before you trust any replica on it.",
            )  # fmt: skip
