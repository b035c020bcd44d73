"""Reading a disk once, hashing on the way: several blocks are read and hashed at a time, and handed on in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from replicad.model.chunks import chunk_count
from replicad.model.errors import BusyError
from replicad.model.extents import Extent, split, widen
from replicad.model.manifest import HASH_BYTES
from replicad.replica.hashing import hash_chunks
from replicad.storage.port import ShareFile
from replicad.storage.together import in_order

_BLOCK_BYTES = 1024 * 1024
_BLOCKS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Block:
    """Chunks that were read: their hashes, joined, and their bytes, which are the taker's only until it returns."""

    first: int
    hashes: bytes
    data: memoryview

    def hash_of(self, index: int) -> bytes:
        """The hash of one of the chunks."""
        start = (index - self.first) * HASH_BYTES
        return self.hashes[start : start + HASH_BYTES]

    def bytes_of(self, start: int, end: int, chunk_bytes: int) -> memoryview:
        """The bytes of the chunks [start, end)."""
        return self.data[(start - self.first) * chunk_bytes : (end - self.first) * chunk_bytes]


@dataclass(frozen=True, slots=True)
class Gap:
    """The chunks [first, end), which no extent covers."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Hashing:
    """How chunks are hashed: on which threads, in which size, with which seed."""

    executor: Executor
    chunk_bytes: int
    seed: int


def pieces(extents: Sequence[Extent], size_bytes: int, chunk_bytes: int) -> Iterator[Extent | Gap]:
    """A disk from its beginning to its end: blocks of whole chunks where extents are, gaps between them."""
    position = 0
    for extent in widen(extents, chunk_bytes, size_bytes):
        if extent.offset_bytes > position:
            yield Gap(position // chunk_bytes, extent.offset_bytes // chunk_bytes)
        yield from split(extent, max(_BLOCK_BYTES, chunk_bytes))
        position = extent.end_bytes
    if position < size_bytes:
        yield Gap(position // chunk_bytes, chunk_count(size_bytes, chunk_bytes))


async def scan(
    file: ShareFile,
    extents: Sequence[Extent],
    size_bytes: int,
    hashing: Hashing,
    take: Callable[[Block | Gap], Awaitable[None]],
) -> None:
    """Hand every block and gap of the disk to `take`, in ascending order, one at a time.

    Up to 8 blocks of 1 MiB (or one chunk, if that is larger) are in memory. BusyError if the file ends early.
    """
    loop = asyncio.get_running_loop()
    block_bytes = max(_BLOCK_BYTES, hashing.chunk_bytes)
    buffers = [bytearray(min(block_bytes, max(1, size_bytes))) for _ in range(_BLOCKS_AT_ONCE)]

    async def read(piece: Extent | Gap, buffer: bytearray) -> Block | Gap:
        if isinstance(piece, Gap):
            return piece
        view = memoryview(buffer)[: piece.length_bytes]
        if await file.read_into(view, piece.offset_bytes) != piece.length_bytes:
            raise BusyError("read", file.path, "it became shorter while it was read", "Try again.")
        hashes = await loop.run_in_executor(hashing.executor, hash_chunks, view, hashing.chunk_bytes, hashing.seed)
        return Block(piece.offset_bytes // hashing.chunk_bytes, hashes, view)

    await in_order(read, pieces(extents, size_bytes, hashing.chunk_bytes), take, buffers)
