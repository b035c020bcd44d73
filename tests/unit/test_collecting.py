"""What changed, gathered into batches: how much of the memory they keep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from random import Random

import pytest

from replicad.model.changes import ChangeSet, Outside
from replicad.model.extents import Extent
from replicad.model.manifest import Manifest, ManifestEdit
from replicad.model.points import Provenance
from replicad.model.progress import Advanced, ProgressEvent
from replicad.replica.disk_update import SavedBatch, Stretch
from replicad.replica.hashing import hash_chunks
from replicad.replica.known_chunks import KnownChunks
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode
from replicad.workflows.scan import Hashing
from replicad.workflows.sending import send_changes
from tests.support.world import CHUNK, memory_world

SEED = 7
MIB = 1 << 20


class Recorder:
    """A writer that keeps what it is given, and is as slow as `pause` says."""

    def __init__(self, disk: bytearray, pause: Callable[[], Awaitable[None]], events: list[ProgressEvent]) -> None:
        self.disk = disk
        self.events = events
        self.written_bytes = 0
        self.batches: list[list[tuple[int, int, type]]] = []
        self._pause = pause

    async def save(self, stretches: object) -> SavedBatch:
        assert isinstance(stretches, list)
        self.batches.append([(s.first, s.count, type(s.data)) for s in stretches])
        await self._pause()
        return SavedBatch(tuple(stretches), len(self.batches))

    async def write(self, saved: SavedBatch) -> int:
        await self._pause()
        sent_bytes = sum(self._write(stretch) for stretch in saved.stretches)
        self.written_bytes += sum(stretch.count * CHUNK for stretch in saved.stretches)
        return sent_bytes

    @property
    def told_bytes(self) -> int:
        """What was told to be done."""
        return sum(event.done_bytes for event in self.events if isinstance(event, Advanced))

    def _write(self, stretch: Stretch) -> int:
        offset = stretch.first * CHUNK
        if stretch.data is None:
            self.disk[offset : offset + stretch.count * CHUNK] = bytes(stretch.count * CHUNK)
            return 0
        self.disk[offset : offset + len(stretch.data)] = stretch.data
        return len(stretch.data)


async def _send(
    old: bytes,
    new: bytes,
    pause: Callable[[], Awaitable[None]],
    show: Callable[[Recorder], None] = lambda recorder: None,
) -> Recorder:
    async with memory_world() as world:
        events, share = world.events, MemoryShare()
        async with await share.open("disk", OpenMode.CREATE) as file:
            await file.write(new, 0)
        edit = ManifestEdit(Manifest(CHUNK, 0), len(old))
        edit.put(0, hash_chunks(old, CHUNK, SEED))
        known = KnownChunks(edit.finish(), len(new))
        recorder = Recorder(bytearray(old.ljust(len(new), b"\0")[: len(new)]), pause, events)
        show(recorder)
        changes = ChangeSet((Extent(0, len(new)),), Outside.UNCHANGED, Provenance.FULL_SCAN)
        async with asyncio.timeout(60), await share.open("disk", OpenMode.READ) as file:
            tally = await send_changes(
                file, changes, known, Hashing(world.hashing, CHUNK, SEED), recorder, world.context()
            )
    assert recorder.disk == new
    assert tally.scanned_bytes == recorder.told_bytes == len(new)
    chunks = {c for batch in recorder.batches for first, count, _ in batch for c in range(first, first + count)}
    assert tally.changed_chunks == sum(count for batch in recorder.batches for _, count, _ in batch) == len(chunks)
    return recorder


async def _now() -> None:
    await asyncio.sleep(0)


async def _later() -> None:
    for _ in range(200):
        await asyncio.sleep(0)


@pytest.mark.parametrize("pause", [_now, _later])
async def test_blocks_that_changed_whole_are_written_from_the_buffer_that_they_were_read_into(
    pause: Callable[[], Awaitable[None]],
) -> None:
    new = Random(1).randbytes(100 * MIB + 12345)
    recorder = await _send(b"", new, pause)
    kinds = [kind for batch in recorder.batches for _, _, kind in batch]
    assert set(kinds[:-1]) == {memoryview}
    assert all(sum(count for _, count, _ in batch) == 256 for batch in recorder.batches[:-1])


@pytest.mark.parametrize("pause", [_now, _later])
@pytest.mark.parametrize("changed_in", [1, 63, 64, 65, 127])
async def test_whatever_part_of_each_block_changed_the_memory_suffices(
    changed_in: int, pause: Callable[[], Awaitable[None]]
) -> None:
    old = Random(1).randbytes(96 * MIB)
    new = bytearray(old)
    for block in range(12):
        first = block * 8 * MIB + block % 2 * CHUNK
        for chunk in range(changed_in):
            new[first + chunk * CHUNK] ^= 0xFF
    recorder = await _send(old, bytes(new), pause)
    kinds = {kind for batch in recorder.batches for _, _, kind in batch}
    # At least the half of a block of 8 MiB keeps it, less is copied: so is what the end of a batch cuts off.
    assert (memoryview in kinds, bytes in kinds) == (changed_in >= 64, changed_in < 64 or 256 % changed_in != 0)
    assert all(before < after for batch in recorder.batches for (before, *_), (after, *_) in pairwise(batch))


async def test_what_changed_is_told_to_be_done_only_when_it_is_written() -> None:
    recorders: list[Recorder] = []

    async def look() -> None:
        for recorder in recorders:
            assert recorder.told_bytes <= recorder.written_bytes
        await asyncio.sleep(0)

    await _send(b"", Random(1).randbytes(64 * MIB), look, recorders.append)


async def test_zeros_among_what_changed_are_not_written_as_bytes() -> None:
    old = Random(1).randbytes(8 * MIB)
    new = bytearray(Random(2).randbytes(8 * MIB))
    zeros = [0, 5, 6, 63, 64, 127]
    for chunk in zeros:
        new[chunk * CHUNK : (chunk + 1) * CHUNK] = bytes(CHUNK)
    recorder = await _send(old, bytes(new), _now)
    found = [
        chunk
        for batch in recorder.batches
        for first, count, kind in batch
        if kind is type(None)
        for chunk in range(first, first + count)
    ]
    assert found == zeros
