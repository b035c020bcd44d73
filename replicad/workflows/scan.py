"""Reading a disk once, hashing on the way: several blocks are read and hashed at a time, and handed on in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from replicad.model.chunks import chunk_count
from replicad.model.errors import BusyError
from replicad.model.extents import Extent, split, total_bytes, widen
from replicad.model.manifest import HASH_BYTES
from replicad.replica.hashing import hash_chunks
from replicad.storage.buffers import Borrowed, Buffers
from replicad.storage.port import ShareFile
from replicad.storage.together import in_order

_BLOCK_BYTES = 8 * 1024 * 1024
"""What is read, hashed and, where most of it changed, written at once. Each of these takes a hop to a thread and back,
which for 1 MiB costs more than the hashing."""
_BLOCKS_AT_ONCE = 3
_FEW_BYTES = 16 * 1024 * 1024
_PIECES_AT_ONCE = 8
_BUFFERS = 9
"""Blocks in memory: those being read, and those whose bytes the taker keeps."""


@dataclass(frozen=True, slots=True)
class Block:
    """Chunks that were read: their hashes, joined, and their bytes.

    The bytes are the taker's until it returns, or, if it calls `lent.keep()`, until it gives them back.
    """

    first: int
    hashes: bytes
    data: memoryview
    lent: Borrowed

    def hashes_of(self, start: int, end: int) -> bytes:
        """The hashes of the chunks [start, end), joined."""
        return self.hashes[(start - self.first) * HASH_BYTES : (end - self.first) * HASH_BYTES]

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

    def measure(self, block: memoryview) -> tuple[int, bytes]:
        """The length of a block, which starts at a chunk's start, and the hashes of its chunks, joined. Blocking."""
        return len(block), hash_chunks(block, self.chunk_bytes, self.seed)


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

    Up to 9 blocks of 8 MiB are in memory; if `take` keeps more than 6 of them before it returns, it waits for ever.
    BusyError if the file ends early.
    """
    blocks_at_once, buffers = _room_for(extents, size_bytes, hashing.chunk_bytes)

    async def read(piece: Extent | Gap) -> Block | Gap:
        if isinstance(piece, Gap):
            return piece
        lent = await buffers.borrow()
        view = memoryview(lent.buffer)[: piece.length_bytes]
        count, hashes = await file.read_and(view, piece.offset_bytes, hashing.measure, hashing.executor)
        if count != piece.length_bytes:
            raise BusyError("read", file.path, "it became shorter while it was read", "Try again.")
        return Block(piece.offset_bytes // hashing.chunk_bytes, hashes, view, lent)

    async def hand_on(piece: Block | Gap) -> None:
        await take(piece)
        if isinstance(piece, Block):
            piece.lent.give_back()

    await in_order(read, pieces(extents, size_bytes, hashing.chunk_bytes), hand_on, blocks_at_once)


def _room_for(extents: Sequence[Extent], size_bytes: int, chunk_bytes: int) -> tuple[int, Buffers]:
    """How many blocks to read at a time, and what they are read into."""
    block_bytes = min(max(_BLOCK_BYTES, chunk_bytes), max(1, size_bytes))
    if total_bytes(extents) <= _FEW_BYTES:
        wanted = widen(extents, chunk_bytes, size_bytes)
        if sum(extent.length_bytes for extent in wanted) <= _FEW_BYTES:
            # Small pieces wait for the share, and not for us. Twice their size, as nobody keeps what is filled by less
            # than half: the few bytes are copied out.
            largest_bytes = max((extent.length_bytes for extent in wanted), default=1)
            return _PIECES_AT_ONCE, Buffers(
                3 * _PIECES_AT_ONCE, 2 * min(largest_bytes, block_bytes) + 2, kept=_PIECES_AT_ONCE
            )
    return _BLOCKS_AT_ONCE, Buffers(_BUFFERS, block_bytes, kept=_BLOCKS_AT_ONCE)
