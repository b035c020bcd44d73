"""What changed, gathered into batches that are saved and written as one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from replicad.model.changes import ChangeSet, Outside
from replicad.model.manifest import HASH_BYTES, ZERO_HASH
from replicad.model.points import Statistics
from replicad.model.progress import Advanced
from replicad.replica.disk_update import BATCH_CHUNKS, Stretch
from replicad.replica.known_chunks import KnownChunks
from replicad.storage.buffers import Borrowed

from .context import Context
from .sample import ChunkSample
from .scan import Block, Gap

_BATCH_BYTES = 16 * 1024 * 1024
_MOST_READ_BACK = 64


@dataclass(slots=True)
class Tally:
    """What was counted on the way, and a sample of the chunks that changed."""

    sample: ChunkSample
    scanned_bytes: int = 0
    changed_bytes: int = 0
    sent_bytes: int = 0
    changed_chunks: int = 0

    def statistics(self, undo_bytes: int, duration_ms: int) -> Statistics:
        """The figures for a point's record."""
        return Statistics(self.scanned_bytes, self.changed_bytes, self.sent_bytes, undo_bytes, duration_ms)


@dataclass(slots=True)
class Batch:
    """At most 256 chunks and some 16 MiB, ascending; their bytes lie in buffers that it keeps, or in copies."""

    stretches: list[Stretch] = field(default_factory=list)
    chunks: int = 0
    changed_bytes: int = 0
    data_bytes: int = 0
    """Those of the changed bytes that are not zeros."""
    _lent: list[Borrowed] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        """Whether it is time to hand it over."""
        return self.chunks >= BATCH_CHUNKS or self.data_bytes >= _BATCH_BYTES

    def add(self, first: int, hashes: bytes, data: memoryview | None, lent: Borrowed | None) -> None:
        """Add neighbouring chunks, for which there must be room; `data` lies in what is `lent`."""
        kept: bytes | memoryview | None = data
        if data is not None and lent is not None:
            if 2 * len(data) >= len(lent.buffer):
                lent.keep()
                self._lent.append(lent)
            else:
                # A few chunks must not keep a whole block: batches full of them would keep all of the memory.
                kept = bytes(data)
            self.data_bytes += len(data)
        self.stretches.append(Stretch(first, hashes, kept))
        self.chunks += len(hashes) // HASH_BYTES

    def give_back(self) -> None:
        """Its bytes are not needed any more."""
        for lent in self._lent:
            lent.give_back()
        self._lent.clear()
        self.stretches.clear()


class Collector:
    """Compares what was read with what the replica holds, and gathers what differs into batches."""

    def __init__(
        self,
        changes: ChangeSet,
        known: KnownChunks,
        hand_over: Callable[[Batch], Awaitable[None]],
        ctx: Context,
    ) -> None:
        self.tally = Tally(ChunkSample(_MOST_READ_BACK, ctx.random))
        self._changes = changes
        self._known = known
        self._hand_over = hand_over
        self._ctx = ctx
        self._batch = Batch()

    async def take(self, piece: Block | Gap) -> None:
        """The next piece of the disk."""
        known, before_bytes = self._known, self.tally.changed_bytes
        if isinstance(piece, Gap):
            if self._changes.outside is Outside.ZEROS:
                for first, end in _neighbours(known.stale_zeros(piece.first, piece.end)):
                    await self._add(first, ZERO_HASH * (end - first), None)
            end_bytes = min(piece.end * known.chunk_bytes, known.size_bytes)
            self._observe(end_bytes - piece.first * known.chunk_bytes, before_bytes)
            return
        self.tally.scanned_bytes += len(piece.data)
        for first, end in _neighbours(known.stale(piece.first, piece.hashes)):
            for start, stop, is_zero in _zeros_apart(piece.hashes_of(first, end), first):
                await self._add(start, piece.hashes_of(start, stop), None if is_zero else piece)
        self._observe(len(piece.data), before_bytes)

    def _observe(self, length_bytes: int, before_bytes: int) -> None:
        # What changed is done when it is written, and the batch tells it then.
        self._ctx.observe(Advanced(length_bytes - (self.tally.changed_bytes - before_bytes)))

    async def _add(self, first: int, hashes: bytes, block: Block | None) -> None:
        """Add neighbouring chunks, as many at a time as the batch has room for. Without a block they are zeros."""
        known, end = self._known, first + len(hashes) // HASH_BYTES
        start = first
        while start < end:
            stop = min(end, start + BATCH_CHUNKS - self._batch.chunks)
            part = hashes[(start - first) * HASH_BYTES : (stop - first) * HASH_BYTES]
            if block is None:
                self._batch.add(start, part, None, None)
            else:
                self._batch.add(start, part, block.bytes_of(start, stop, known.chunk_bytes), block.lent)
            self._count(start, stop, part)
            start = stop
            if self._batch.is_full:
                await self.finish()

    def _count(self, start: int, stop: int, hashes: bytes) -> None:
        known, tally = self._known, self.tally
        tally.changed_chunks += stop - start
        changed_bytes = max(0, min(stop * known.chunk_bytes, known.size_bytes) - start * known.chunk_bytes)
        tally.changed_bytes += changed_bytes
        self._batch.changed_bytes += changed_bytes
        tally.sample.show(start, hashes)

    async def finish(self) -> None:
        """Hand over what was gathered."""
        if self._batch.chunks:
            batch, self._batch = self._batch, Batch()
            await self._hand_over(batch)


def _neighbours(indices: list[int]) -> Iterator[tuple[int, int]]:
    """Ascending indices as ranges [first, end) of neighbours."""
    if indices and indices[-1] - indices[0] == len(indices) - 1:
        yield indices[0], indices[-1] + 1
        return
    start = 0
    for place in range(1, len(indices) + 1):
        if place == len(indices) or indices[place] != indices[place - 1] + 1:
            yield indices[start], indices[place - 1] + 1
            start = place


def _zeros_apart(hashes: bytes, first: int) -> Iterator[tuple[int, int, bool]]:
    """Neighbouring chunks from `first` on as ranges [start, stop) that are zeros or are not."""
    count = len(hashes) // HASH_BYTES
    if ZERO_HASH not in hashes:
        yield first, first + count, False
        return
    zeros = [hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES] == ZERO_HASH for place in range(count)]
    start = 0
    for place in range(1, count + 1):
        if place == count or zeros[place] != zeros[start]:
            yield first + start, first + place, zeros[start]
            start = place
