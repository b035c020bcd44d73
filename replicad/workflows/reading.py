"""Reading a disk of a point in order, several runs of chunks at a time, each chunk held against its hash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from replicad.model.errors import IntegrityError
from replicad.model.manifest import HASH_BYTES
from replicad.replica.hashing import hash_chunks
from replicad.replica.view import ChunkRun, PointDisk
from replicad.storage.buffers import Borrowed, Buffers
from replicad.storage.together import in_order

_RUN_BYTES = 1024 * 1024
_RUNS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class ReadRun:
    """Chunks that were read; `damaged` are those whose bytes do not have the hash that the point's manifest says.

    `data` is the taker's only until it returns.
    """

    run: ChunkRun
    data: memoryview
    damaged: tuple[int, ...]


async def read_point_disk(disk: PointDisk, hashing: Executor, take: Callable[[ReadRun], Awaitable[None]]) -> None:
    """Hand all chunks that are not zeros to `take`, ascending, one run at a time; up to 8 are in memory."""
    loop = asyncio.get_running_loop()
    buffers = Buffers(_RUNS_AT_ONCE, max(_RUN_BYTES, disk.manifest.chunk_bytes))

    async def read(run: ChunkRun) -> tuple[ReadRun, Borrowed]:
        lent = await buffers.borrow()
        view = memoryview(lent.buffer)[: disk.run_bytes(run)]
        await disk.read(run, view)
        found = await loop.run_in_executor(hashing, hash_chunks, view, disk.manifest.chunk_bytes, disk.seed)
        return ReadRun(run, view, _damaged(run, found, disk.manifest.hashes(run.first, run.count))), lent

    async def hand_on(read: tuple[ReadRun, Borrowed]) -> None:
        await take(read[0])
        read[1].give_back()

    await in_order(read, disk.runs(_RUN_BYTES), hand_on, _RUNS_AT_ONCE)


def _damaged(run: ChunkRun, found: bytes, wanted: bytes) -> tuple[int, ...]:
    if found == wanted:
        return ()
    return tuple(
        run.first + i
        for i in range(run.count)
        if found[i * HASH_BYTES : (i + 1) * HASH_BYTES] != wanted[i * HASH_BYTES : (i + 1) * HASH_BYTES]
    )


def damage_error(disk: PointDisk, run: ChunkRun, index: int, point: int) -> IntegrityError:
    """The error for a chunk of a point that can't be read back as it was."""
    place = run.offset_bytes + (index - run.first) * disk.manifest.chunk_bytes
    return IntegrityError(
        "read", f"chunk {index} of {disk.state.path!r} at point {point}",
        f"its bytes at offset {place} of {run.file.path} are damaged",
        "Another recovery point may be sound; 'replicad verify --repair' mends what the source still has.",
    )  # fmt: skip
