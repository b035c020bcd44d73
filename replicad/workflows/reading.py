"""Reading what a replica holds, several runs of chunks at a time, each chunk held against its hash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from replicad.model.errors import IntegrityError
from replicad.model.manifest import HASH_BYTES, Manifest
from replicad.replica.hashing import hash_chunks
from replicad.replica.view import ChunkRun, PointDisk
from replicad.storage.together import first_error

RUN_BYTES = 8 * 1024 * 1024
"""A run takes three hops to a thread and back; for 1 MiB they cost more than the hashing."""
_RUNS_AT_ONCE = 3
"""While one is hashed or used, two are on their way."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class ReadRun:
    """Chunks that were read; `damaged` are those whose bytes do not have the hash that the point's manifest says.

    `data` is the user's only until it returns. `zeros_before_bytes` lie between the run before and this one.
    """

    run: ChunkRun
    data: memoryview
    damaged: tuple[int, ...]
    zeros_before_bytes: int


async def read_point_disk(disk: PointDisk, hashing: Executor, use: Callable[[ReadRun], Awaitable[None]]) -> None:
    """Read all chunks that are not zeros, and await `use` for each run of them when it is hashed.

    Runs begin in ascending order; 3 of them, of up to 8 MiB each, are read, hashed or used at a time. After an
    IntegrityError no other run begins, and those under way come to their end: what is raised is the error of the run
    that comes first on the disk. Any other error, or being cancelled, ends all of them at once.
    """
    loop, chunk_bytes = asyncio.get_running_loop(), disk.manifest.chunk_bytes
    damages: list[tuple[int, IntegrityError]] = []

    def runs() -> Iterator[tuple[ChunkRun, int]]:
        end = 0
        for run in disk.runs(RUN_BYTES):
            if damages:
                return
            yield run, (run.first - end) * chunk_bytes
            end = run.first + run.count

    async def read(item: tuple[ChunkRun, int], buffer: memoryview) -> None:
        run, zeros_before_bytes = item
        data = buffer[: disk.run_bytes(run)]
        try:
            await disk.read(run, data)
            damaged = await loop.run_in_executor(hashing, damaged_chunks, data, run.first, disk.manifest, disk.seed)
            await use(ReadRun(run, data, damaged, zeros_before_bytes))
        except IntegrityError as error:
            damages.append((run.first, error))

    await each_in_a_buffer(read, runs(), min(max(RUN_BYTES, chunk_bytes), disk.manifest.size_bytes))
    if damages:
        raise min(damages, key=lambda damage: damage[0])[1]


async def each_in_a_buffer(
    work: Callable[[Item, memoryview], Awaitable[None]], items: Iterator[Item], buffer_bytes: int
) -> None:
    """Await `work` for all items, begun in their order, 3 at a time, each with a buffer of its own until it returns.

    When one fails the others are cancelled and awaited, and its error is raised, not a group.
    """

    async def work_on() -> None:
        buffer: memoryview | None = None
        for item in items:
            buffer = buffer if buffer is not None else memoryview(bytearray(buffer_bytes))
            await work(item, buffer)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_RUNS_AT_ONCE):
                group.create_task(work_on())
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None


def differing(found: bytes, wanted: bytes | bytearray) -> tuple[int, ...]:
    """The places of wanted hashes at which others, or none, were found."""
    if found == wanted:
        return ()
    starts = range(0, len(wanted), HASH_BYTES)
    return tuple(s // HASH_BYTES for s in starts if found[s : s + HASH_BYTES] != wanted[s : s + HASH_BYTES])


def damaged_chunks(data: memoryview, first: int, manifest: Manifest, seed: int) -> tuple[int, ...]:
    """Which of the chunks from `first` on do not have the bytes that a manifest says."""
    found = hash_chunks(data, manifest.chunk_bytes, seed)
    places = differing(found, manifest.hashes(first, len(found) // HASH_BYTES))
    return tuple(first + place for place in places)


def damage_error(disk: PointDisk, run: ChunkRun, index: int, point: int) -> IntegrityError:
    """The error for a chunk of a point that can't be read back as it was."""
    place = run.offset_bytes + (index - run.first) * disk.manifest.chunk_bytes
    return IntegrityError(
        "read", f"chunk {index} of {disk.state.path!r} at point {point}",
        f"its bytes at offset {place} of {run.file.path} are damaged",
        "Another recovery point may be sound; 'replicad verify --repair' mends what the source still has.",
    )  # fmt: skip
