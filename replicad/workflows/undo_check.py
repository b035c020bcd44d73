"""Holding the old bytes in an undo log against their hashes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

from replicad.model.chunks import chunk_length
from replicad.model.manifest import HASH_BYTES
from replicad.replica.hashing import hash_chunks
from replicad.replica.undo_format import BLOCK_BYTES
from replicad.replica.undo_log import UndoIndex
from replicad.storage.port import ShareFile

from .covered import Covered, FileCover
from .reading import RUN_BYTES, differing, each_in_a_buffer


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Entries whose bytes lie side by side: `count` of them from `place` in the index on.

    `stored_bytes` is what they take in the log: the `data_bytes` and the zeros that fill the last block.
    """

    place: int
    count: int
    position: int
    data_bytes: int

    @property
    def stored_bytes(self) -> int:
        return -(-self.data_bytes // BLOCK_BYTES) * BLOCK_BYTES


async def damaged_entries(
    file: ShareFile, index: UndoIndex, seed: int, hashing: Executor, covered: Covered, cover: FileCover
) -> list[int]:
    """The chunks whose old bytes in a log are not what their hashes say, and those beside which bytes are that nobody
    wrote, in ascending order. Entries that `cover` does not want are not read again. Up to 24 MiB of the log are in
    memory at a time."""
    loop = asyncio.get_running_loop()
    begun: deque[_Stretch] = deque()
    checked: dict[int, list[int]] = {}

    def wanted() -> Iterator[_Stretch]:
        for stretch in _stretches(index, most_bytes):
            if cover.wants(stretch.place, stretch.place + stretch.count):
                begun.append(stretch)
                yield stretch

    async def check(stretch: _Stretch, buffer: memoryview) -> None:
        stored = buffer[: stretch.stored_bytes]
        count = await file.read_into(stored, stretch.position)
        stored[count:] = bytes(len(stored) - count)
        checked[stretch.place] = await loop.run_in_executor(hashing, _damaged, stored, stretch, index, seed)
        while begun and begun[0].place in checked:
            first = begun.popleft()
            covered.took(cover, first.place, first.place + first.count, checked.pop(first.place))

    most_bytes = max(RUN_BYTES, index.header.chunk_bytes)
    await each_in_a_buffer(check, wanted(), min(most_bytes, index.end_bytes))
    return sorted(index.chunks[place] for place in cover.bad)


def _stretches(index: UndoIndex, most_bytes: int) -> Iterator[_Stretch]:
    chunk_bytes = index.header.chunk_bytes
    most = most_bytes // chunk_bytes
    first = count = start = 0

    def stretch() -> _Stretch:
        # The disk's last chunk, which alone may be shorter, is the last one of the index.
        last_bytes = chunk_length(index.chunks[first + count - 1], index.header.previous_size_bytes, chunk_bytes)
        return _Stretch(first, count, start, (count - 1) * chunk_bytes + last_bytes)

    for place, position in enumerate(index.positions):
        if position == 0:
            continue  # zeros, of which the log has no bytes
        if 0 < count < most and place == first + count and position == start + count * chunk_bytes:
            count += 1
            continue
        if count:
            yield stretch()
        first, count, start = place, 1, position
    if count:
        yield stretch()


def _damaged(stored: memoryview, stretch: _Stretch, index: UndoIndex, seed: int) -> list[int]:
    """The places of the entries that are not as they were."""
    wanted = index.hashes[stretch.place * HASH_BYTES : (stretch.place + stretch.count) * HASH_BYTES]
    found = hash_chunks(stored[: stretch.data_bytes], index.header.chunk_bytes, seed)
    places = set(differing(found, wanted))
    if any(stored[stretch.data_bytes :]):
        places.add(stretch.count - 1)
    return [stretch.place + place for place in places]
