"""Bringing one disk of the replica to its next state, under the protection of its undo log.

The order is what makes it safe: the old bytes of a batch are durable in the undo log before the first of its chunks
is overwritten, and the disk bears another name from before its first byte changes until the point is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from replicad.model.chunks import chunk_length
from replicad.model.errors import NotFoundError
from replicad.model.manifest import HASH_BYTES, ZERO_HASH, Manifest
from replicad.model.names import last_part, parent, path_on
from replicad.model.points import UndoReference
from replicad.storage.documents import exists
from replicad.storage.port import OpenMode, Share, ShareFile
from replicad.storage.together import together

from .directory import make_durable_dir
from .known_chunks import KnownChunks
from .layout import Layout
from .undo_format import MAX_ENTRIES, NOT_WRITTEN, EntryKind, UndoEntry, UndoHeader
from .undo_log import UndoLog, create_undo_log, read_batches, read_file_header, resume_undo_log

BATCH_CHUNKS = 256
_FLUSH_EVERY_BYTES = 256 * 1024 * 1024
_WORTH_NOTING_BYTES = 16 * 1024 * 1024
"""To note that so much is durable takes less than to send it again."""
WRITES_AT_ONCE = 4
"""Of all batches together."""
_LARGE_BYTES = 4 * 1024 * 1024
"""Stretches that are smaller are written in one call with others: each call takes a hop to a thread and back."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring chunks to write: their hashes, joined, and their bytes, which are None if all of them are zeros."""

    first: int
    hashes: bytes
    data: bytes | memoryview | None

    @property
    def count(self) -> int:
        """How many chunks they are."""
        return len(self.hashes) // HASH_BYTES


@dataclass(frozen=True, slots=True)
class SavedBatch:
    """Stretches whose old bytes are durable in the undo log, which has so many batches with theirs."""

    stretches: Sequence[Stretch]
    batches: int


@dataclass(frozen=True, slots=True)
class UpdateTarget:
    """Which disk, in which cycle. `is_new`: the point before has no such disk. `reads_back`: `learn` is told what the
    disk holds before anything is written."""

    replica_id: str
    disk_id: str
    path: str
    point: int
    is_new: bool
    size_bytes: int
    reads_back: bool = False


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What became of the disk. `undo` is None if nothing was touched, or if there was no disk before."""

    touched: bool
    manifest: Manifest
    undo: UndoReference | None
    undo_bytes: int


@dataclass(slots=True)
class _Working:
    """What is open while the disk is being written."""

    disk: ShareFile
    log_file: ShareFile
    log: UndoLog
    durable_batches: int = 0
    written_batches: int = 0
    """So many from the first on are written whole."""
    unflushed_bytes: int = 0
    unnoted_bytes: int = 0
    """Flushed, and no batch says so yet."""
    _ahead: set[int] = field(default_factory=set)
    """Those that were written before one before them."""

    async def append(self, entries: tuple[UndoEntry, ...]) -> None:
        """Add a batch to the log, which also says what is durable. Durable on return."""
        unnoted_bytes = self.unnoted_bytes
        await self.log.append(entries, self.durable_batches, self.disk)
        self.unnoted_bytes -= unnoted_bytes

    async def took(self, batch: int, sent_bytes: int) -> None:
        """The `batch`-th batch of the log is written. Flushes from time to time."""
        self._ahead.add(batch)
        while self.written_batches + 1 in self._ahead:
            self.written_batches += 1
            self._ahead.remove(self.written_batches)
        self.unflushed_bytes += sent_bytes
        if self.unflushed_bytes >= _FLUSH_EVERY_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Make what was written durable, and have the log's next batch say so."""
        # What is written or saved meanwhile is not in it.
        batches, sent_bytes = self.written_batches, self.unflushed_bytes
        self.unflushed_bytes = 0
        await self.disk.flush()
        self.durable_batches = max(self.durable_batches, batches)
        self.unnoted_bytes += sent_bytes

    async def note(self) -> None:
        """Have the log say what is durable, if that is much."""
        if self.unnoted_bytes >= _WORTH_NOTING_BYTES:
            await self.log.note(self.durable_batches, self.disk)


class DiskUpdate:
    """One disk on its way from `previous`, its manifest at the point before, to its next state.

    Use: `start`, then ask `known` what is stale, `save` and `write` it, for every part of the source's disk, then
    `finish`; `close` in any case. One batch may be saved while those before are written. If it ends early, what is on
    the share is enough for `start` to go on with, or for a rollback. `still_ours` is awaited before every batch; it
    raises if the replica's lock was found lost (`fence`).
    """

    def __init__(
        self,
        share: Share,
        layout: Layout,
        pending: str,
        target: UpdateTarget,
        previous: Manifest,
        seed: int,
        still_ours: Callable[[], Awaitable[None]],
    ) -> None:
        self.known = KnownChunks(previous, target.size_bytes)
        self._share = share
        self._layout = layout
        self._pending = pending
        self._target = target
        self._seed = seed
        self._still_ours = still_ours
        self._working: _Working | None = None
        self._lost = self._misfits = False
        self._writing = asyncio.Semaphore(WRITES_AT_ONCE)
        self._header = UndoHeader(
            target.replica_id, target.disk_id, target.point, previous.chunk_bytes, previous.size_bytes
        )
        self._log_path = layout.undo(pending, target.path)
        self._working_path = layout.initial(target.path) if target.is_new else layout.updating(target.path)

    @property
    def disk_path(self) -> str:
        """The disk's path, as the VM's owner knows it."""
        return self._target.path

    @property
    def path(self) -> str:
        """Where the disk lies on the share now."""
        working = self._working is not None or self._target.is_new
        return self._working_path if working else self._layout.disk(self._target.path)

    def has_disk(self) -> bool:
        """Whether there is anything on the share yet."""
        return self._working is not None or not self._target.is_new

    def learn(self, found: Manifest, size_bytes: int | None) -> int:
        """Take what was read from the replica's disk for true; None: there is no disk, and one is made anew.

        Returns how many chunks that this cycle has not touched yet were not what the manifest says.
        """
        self._lost = size_bytes is None
        self._misfits = self._working is None and size_bytes != self.known.previous.size_bytes
        return self.known.believe(found)

    async def start(self) -> bool:
        """Look for what an interrupted cycle left of this update; True if there was something to go on with."""
        if not await exists(self._share, self._log_path):
            return False
        if not await exists(self._share, self._working_path):
            # The log was made, and nothing else yet.
            await self._share.remove(self._log_path)
            return False
        # Whoever gave the disk this name may have ended before that was durable.
        await self._share.flush_directory(parent(self._working_path))
        subject = f"undo log {path_on(self._share.name, self._log_path)}"
        disk = await self._share.open(self._working_path, OpenMode.WRITE)
        try:
            log_file = await self._share.open(self._log_path, OpenMode.WRITE)
            try:
                working = await self._resume(disk, log_file, subject)
                await self._grow(disk, self._target.size_bytes)
            except BaseException:
                await log_file.close()
                raise
        except BaseException:
            await disk.close()
            raise
        self._working = working
        return True

    async def _resume(self, disk: ShareFile, log_file: ShareFile, subject: str) -> _Working:
        resumed = await resume_undo_log(
            log_file, self._header, disk, self._previous, self._seed, subject, reads_back=self._target.reads_back
        )
        if resumed is None:
            # Torn at its very beginning: no chunk was overwritten, and the log begins anew.
            await log_file.set_size(0)
            return _Working(disk, log_file, await create_undo_log(log_file, self._header))
        header, digest = await read_file_header(log_file, subject)
        async for batch in read_batches(log_file, header, digest):
            for entry in batch.header.entries:
                self.known.replay(entry, durable=batch.header.number < resumed.durable_batches)
        for index in resumed.lost:
            self.known.distrust(index)
        working = _Working(disk, log_file, resumed.log, resumed.durable_batches)
        await self._note_doubts(working)
        working.written_batches = working.log.batches
        return working

    async def _previous(self) -> Manifest:
        return self.known.previous

    async def _note_doubts(self, working: _Working) -> None:
        """Name the chunks in doubt once more: the next flush makes all batches so far durable, and with them bytes
        that an earlier writer may have written in part."""
        doubts = self.known.in_doubt()
        for start in range(0, len(doubts), MAX_ENTRIES):
            await self._still_ours()
            entries = tuple(
                UndoEntry(index, EntryKind.AGAIN, ZERO_HASH, NOT_WRITTEN)
                for index in doubts[start : start + MAX_ENTRIES]
            )
            await working.append(entries)

    async def save(self, stretches: Sequence[Stretch]) -> SavedBatch:
        """Save what these stretches overwrite: at most BATCH_CHUNKS chunks, each once, ascending. Durable on return."""
        await self._still_ours()
        working = await self._opened()
        entries = tuple(entry for s in stretches for entry in self.known.entries(s.first, s.hashes))
        await working.append(entries)
        for stretch in stretches:
            self.known.writing(stretch.first, stretch.count)
        return SavedBatch(stretches, working.log.batches)

    async def write(self, saved: SavedBatch) -> int:
        """Write a batch that was saved; returns the bytes sent. To be begun in the order of the saving."""
        working = await self._opened()
        parts = list(_written_together(saved.stretches))
        sent_bytes = sum(await together(partial(self._send, working.disk), parts, WRITES_AT_ONCE))
        for stretch in saved.stretches:
            self.known.written(stretch.first, stretch.hashes)
        await working.took(saved.batches, sent_bytes)
        return sent_bytes

    async def _send(self, disk: ShareFile, stretches: Sequence[Stretch]) -> int:
        """Write stretches that go together; returns the bytes sent."""
        chunk_bytes = self.known.chunk_bytes
        pieces = [(s.data, s.first * chunk_bytes) for s in stretches if s.data is not None]
        async with self._writing:
            if pieces:
                await disk.write_pieces(pieces)
            for stretch in stretches:
                if stretch.data is None:
                    # Whole chunks, also beyond the new end: the disk is cut only when all of it is written, and may
                    # grow again before the cycle gets through.
                    await disk.zero(stretch.first * chunk_bytes, stretch.count * chunk_bytes)
        return sum(len(data) for data, _ in pieces)

    async def _opened(self) -> _Working:
        if self._working is None:
            log_file = await self._share.open(self._log_path, OpenMode.CREATE)
            try:
                log = await create_undo_log(log_file, self._header)
                await self._share.flush_directory(self._pending)
                disk = await (self._create_new() if self._target.is_new else self._take_working_name())
            except BaseException:
                await log_file.close()
                raise
            self._working = _Working(disk, log_file, log)
            # Not only to the new size: a disk that somebody cut must have room for what is saved of it.
            await self._grow(disk, self.known.limit_bytes)
        return self._working

    async def _take_working_name(self) -> ShareFile:
        own = self._layout.disk(self._target.path)
        if self._lost:
            return await self._create_new()
        await self._share.rename(own, self._working_path)
        await self._share.flush_directory(parent(own))
        return await self._share.open(self._working_path, OpenMode.WRITE)

    async def _create_new(self) -> ShareFile:
        path = self._working_path
        await make_durable_dir(self._share, parent(path))
        with suppress(NotFoundError):
            await self._share.remove(path)
        file = await self._share.open(path, OpenMode.CREATE)
        try:
            await self._share.flush_directory(parent(path))
        except BaseException:
            await file.close()
            raise
        return file

    async def _grow(self, disk: ShareFile, size_bytes: int) -> None:
        if (await disk.identity()).size_bytes < size_bytes:
            await disk.set_size(size_bytes)

    async def read_back(self, index: int) -> bytes:
        """The bytes of one chunk as the share holds them now."""
        working = await self._opened()
        buffer = bytearray(chunk_length(index, self._target.size_bytes, self.known.chunk_bytes))
        return bytes(buffer[: await working.disk.read_into(buffer, index * self.known.chunk_bytes)])

    async def distrust(self) -> None:
        """Have the next cycle send again everything that this one wrote: the share did not keep what it was given."""
        working = await self._opened()
        await working.log.distrust(working.disk)

    async def finish(self) -> UpdateResult:
        """Cut the disk to its new size where it shrinks, flush it, and tell what its next state is."""
        previous = self.known.previous
        same = self._target.size_bytes == previous.size_bytes and not self._misfits
        if self._working is None and same and not self._target.is_new:
            return UpdateResult(False, previous, None, 0)
        working = await self._opened()
        cut_off = self.known.cut_off()
        for start in range(0, len(cut_off), BATCH_CHUNKS):
            await self._still_ours()
            entries = tuple(self.known.entry(i, NOT_WRITTEN) for i in cut_off[start : start + BATCH_CHUNKS])
            await working.append(entries)
        if (await working.disk.identity()).size_bytes != self._target.size_bytes:
            await working.disk.set_size(self._target.size_bytes)
        working.written_batches = working.log.batches
        await working.flush()
        # Other disks may take hours yet, and the commit may fail.
        await working.note()
        undo = None if self._target.is_new else working.log.reference(last_part(self._log_path))
        return UpdateResult(True, self.known.manifest(), undo, working.log.saved_bytes)

    async def close(self) -> None:
        """Give the files back; everything stays on the share as it is."""
        working, self._working = self._working, None
        if working is not None:
            await working.log_file.close()
            await working.disk.close()


def _written_together(stretches: Sequence[Stretch]) -> Iterator[list[Stretch]]:
    """Zeros and large stretches each by itself; of small ones as many as are as large as a large one."""
    few: list[Stretch] = []
    few_bytes = 0
    for stretch in stretches:
        length_bytes = 0 if stretch.data is None else len(stretch.data)
        if not 0 < length_bytes < _LARGE_BYTES:
            yield [stretch]
            continue
        few.append(stretch)
        few_bytes += length_bytes
        if few_bytes >= _LARGE_BYTES:
            yield few
            few, few_bytes = [], 0
    if few:
        yield few
