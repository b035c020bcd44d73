"""An undo log as a file on the replica's share: appending to it while a cycle runs, and reading it back."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise

from replicad.model.errors import IntegrityError, NeedsResyncError, NotFoundError
from replicad.model.manifest import HASH_BYTES, ZERO_HASH, Manifest
from replicad.model.names import path_on
from replicad.model.points import UndoReference
from replicad.storage.copying import copy_ranges
from replicad.storage.port import CopyRange, OpenMode, Share, ShareFile

from .hashing import hash_chunk
from .lost_batch import put_back
from .undo_format import (
    BLOCK_BYTES,
    DIGEST_BYTES,
    NOT_WRITTEN,
    BatchHeader,
    EntryKind,
    UndoEntry,
    UndoHeader,
    claimed_header_bytes,
    damaged,
    decode_batch,
    decode_file_header,
    encode_batch,
    encode_file_header,
    follows,
    peek_batch,
    saved_length,
    stored_length,
)


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch and where it lies: `data_offset_bytes` is where its first old byte is."""

    header: BatchHeader
    data_offset_bytes: int

    @property
    def end_bytes(self) -> int:
        """Where the next batch begins."""
        return self.data_offset_bytes + self.header.data_bytes


@dataclass(slots=True)
class UndoLog:
    """An undo log open for appending. Nothing it was told is durable before `flush`."""

    file: ShareFile
    header: UndoHeader
    end_bytes: int
    batches: int
    digest: bytes
    saved_bytes: int = 0
    named_chunk: int | None = None
    """Some chunk that the log names."""

    async def distrust(self, disk: ShareFile) -> None:
        """Let nobody who goes on from here believe that the disk holds any of the new bytes; durable on return."""
        await self.note(0, disk)

    async def note(self, durable_batches: int, disk: ShareFile) -> None:
        """Say how many batches are durable on the disk, without saving anything; only one chunk is in doubt then.
        Durable on return."""
        if self.named_chunk is not None:
            entry = UndoEntry(self.named_chunk, EntryKind.AGAIN, ZERO_HASH, NOT_WRITTEN)
            await self.append((entry,), durable_batches, disk)

    async def append(self, entries: tuple[UndoEntry, ...], durable_batches: int, disk: ShareFile) -> None:
        """Add a batch, the share copying the old bytes of its SAVED entries out of `disk`; then flush.

        When this returns, the batch is durable and its chunks may be overwritten.
        """
        block = encode_batch(self.batches, durable_batches, entries, self.header, self.digest)
        position = self.end_bytes + len(block)
        ranges: list[CopyRange] = []
        for entry in entries:
            if entry.kind is EntryKind.SAVED:
                length = saved_length(entry, self.header)
                ranges.append(CopyRange(entry.chunk * self.header.chunk_bytes, position, length))
                position += stored_length(entry, self.header)
                self.saved_bytes += length
        await self.file.write(block, self.end_bytes)
        if ranges:
            await copy_ranges(disk, self.file, joined(ranges))
            if ranges[-1].offset_bytes + ranges[-1].length_bytes != position:
                await self.file.set_size(position)  # the zeros that fill the last block
        await self.file.flush()
        self.end_bytes, self.batches, self.digest = position, self.batches + 1, block[-DIGEST_BYTES:]
        self.named_chunk = entries[0].chunk

    def reference(self, file: str) -> UndoReference:
        """What the point's record says of this log, beside which it has the name `file`."""
        return UndoReference(self.header.previous_size_bytes, self.end_bytes, self.batches, self.digest.hex(), file)


def joined(ranges: list[CopyRange]) -> list[CopyRange]:
    """The same ranges, those that go on where the one before ends put together with it."""
    result: list[CopyRange] = []
    for r in ranges:
        last = result[-1] if result else None
        if (
            last
            and last.source_offset_bytes + last.length_bytes == r.source_offset_bytes
            and last.offset_bytes + last.length_bytes == r.offset_bytes
        ):
            result[-1] = CopyRange(last.source_offset_bytes, last.offset_bytes, last.length_bytes + r.length_bytes)
        else:
            result.append(r)
    return result


async def create_undo_log(file: ShareFile, header: UndoHeader) -> UndoLog:
    """Begin a log in a new, empty file; durable on return (its name is not)."""
    block = encode_file_header(header)
    await file.write(block, 0)
    await file.flush()
    return UndoLog(file, header, len(block), 0, block[-DIGEST_BYTES:])


async def open_log(share: Share, path: str) -> ShareFile:
    """A log of a committed point, to read. IntegrityError if it is missing."""
    try:
        return await share.open(path, OpenMode.READ)
    except NotFoundError:
        raise damaged(log_subject(share, path), "the file is missing") from None


def log_subject(share: Share, path: str) -> str:
    """How errors call a log."""
    return f"undo log {path_on(share.name, path)}"


async def read_file_header(file: ShareFile, subject: str) -> tuple[UndoHeader, bytes]:
    """The log's header and the digest that the first batch follows. IntegrityError if it is damaged."""
    block = bytearray(BLOCK_BYTES)
    length = await file.read_into(block, 0)
    return decode_file_header(bytes(block[:length]), subject), bytes(block[-DIGEST_BYTES:])


async def read_batches(file: ShareFile, header: UndoHeader, digest: bytes) -> AsyncIterator[Batch]:
    """The sound batches from the first on; ends at the first place where none begins."""
    size_bytes = (await file.identity()).size_bytes
    position, number = BLOCK_BYTES, 0
    while position + BLOCK_BYTES <= size_bytes:
        first = bytearray(BLOCK_BYTES)
        await file.read_into(first, position)
        length = peek_batch(bytes(first))
        if length is None or position + length > size_bytes:
            return
        # A share may let go of a buffer an instant after it has filled it: it must not be resized.
        rest = bytearray(length - BLOCK_BYTES)
        if rest:
            await file.read_into(rest, position + BLOCK_BYTES)
        batch = decode_batch(bytes(first) + bytes(rest), number, header, digest)
        if batch is None or position + length + batch.data_bytes > size_bytes:
            return
        yield Batch(batch, position + length)
        position += length + batch.data_bytes
        number += 1
        digest = batch.digest


async def check_nothing_follows(file: ShareFile, end_bytes: int, subject: str) -> None:
    """IntegrityError if the log of an interrupted cycle goes on behind `end_bytes`, where its last sound batch ends.

    A batch that its writer did not get done is the last one. If another follows, the log was damaged since, and chunks
    were overwritten of which nothing before tells.
    """
    size_bytes = (await file.identity()).size_bytes
    if size_bytes < end_bytes + 2 * BLOCK_BYTES:
        return
    first = bytearray(BLOCK_BYTES)
    await file.read_into(first, end_bytes)
    header = bytearray(min(claimed_header_bytes(bytes(first)), size_bytes - end_bytes))
    await file.read_into(header, end_bytes)
    for position in range(end_bytes + len(header), size_bytes - BLOCK_BYTES + 1, BLOCK_BYTES):
        later = bytearray(BLOCK_BYTES)
        await file.read_into(later, position)
        if follows(bytes(later), bytes(header)):
            raise NeedsResyncError(
                "use", subject, f"the header of a batch at byte {end_bytes} is damaged",
                "Run 'replicad sync --resync': it reads both sides; some older recovery points may have lost chunks.",
            )  # fmt: skip


@dataclass(slots=True)
class UndoIndex:
    """Which chunks a log can bring back, in ascending order, and where their old bytes lie (0: they were zeros).

    Arrays rather than objects: some 32 bytes a chunk. `beyond` are the chunks that the disk did not reach to, in no
    order.
    """

    header: UndoHeader
    chunks: array[int] = field(default_factory=lambda: array("Q"))
    positions: array[int] = field(default_factory=lambda: array("Q"))
    hashes: bytearray = field(default_factory=bytearray)
    end_bytes: int = BLOCK_BYTES
    """Where the last sound batch ends."""
    beyond: array[int] = field(default_factory=lambda: array("Q"))

    def hash_at(self, place: int) -> bytes:
        """The old hash of the chunk at `place`."""
        return bytes(self.hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES])


async def index_undo_log(file: ShareFile, subject: str, reference: UndoReference | None) -> UndoIndex:
    """Read all headers of a log.

    With the reference of a committed point, guarantees that the log is exactly the one it names: IntegrityError if
    not. Without, for a cycle that did not end, takes the sound batches from the first on.
    """
    header, digest = await read_file_header(file, subject)
    index = UndoIndex(header)
    batches = 0
    async for batch in read_batches(file, header, digest):
        _take_entries(index, batch)
        index.end_bytes, batches, digest = batch.end_bytes, batches + 1, batch.header.digest
    if reference is not None:
        found = UndoReference(header.previous_size_bytes, index.end_bytes, batches, digest.hex(), reference.file)
        size_bytes = (await file.identity()).size_bytes
        if found != reference or size_bytes != reference.length_bytes:
            raise damaged(
                subject, f"batch {batches + 1} of {reference.batches} does not match the recovery point's record"
            )
    return _sorted(index, subject)


def _take_entries(index: UndoIndex, batch: Batch) -> None:
    position = batch.data_offset_bytes
    for entry in batch.header.entries:
        if entry.kind in (EntryKind.SAVED, EntryKind.ZERO):
            index.chunks.append(entry.chunk)
            index.positions.append(position if entry.kind is EntryKind.SAVED else 0)
            index.hashes += entry.old_hash
        elif entry.kind is EntryKind.BEYOND:
            index.beyond.append(entry.chunk)
        position += stored_length(entry, index.header)


def _sorted(index: UndoIndex, subject: str) -> UndoIndex:
    if all(before < after for before, after in pairwise(index.chunks)):
        return index  # as a cycle writes it that nobody interrupted
    order = sorted(range(len(index.chunks)), key=index.chunks.__getitem__)
    result = UndoIndex(index.header, end_bytes=index.end_bytes, beyond=index.beyond)
    for place in order:
        if result.chunks and result.chunks[-1] == index.chunks[place]:
            raise damaged(subject, f"it saves chunk {index.chunks[place]} twice")
        result.chunks.append(index.chunks[place])
        result.positions.append(index.positions[place])
        result.hashes += index.hash_at(place)
    return result


@dataclass(frozen=True, slots=True)
class Resumed:
    """The log of an interrupted cycle, ready for appending, and how much of it is known to have reached the disk.

    `lost` are chunks that it does not name, and of which the disk holds something else than at the point before.
    """

    log: UndoLog
    durable_batches: int
    lost: tuple[int, ...] = ()


async def resume_undo_log(
    file: ShareFile,
    header: UndoHeader,
    disk: ShareFile,
    load_previous: Callable[[], Awaitable[Manifest]],
    seed: int,
    subject: str,
    *,
    reads_back: bool = False,
) -> Resumed | None:
    """Go on with the log of an interrupted cycle; what lies behind its last whole batch is cut off.

    If that may have been a batch once, the disk is read back and held against its manifest at the point before.
    None if not even its file header is whole and no batch follows: nothing was overwritten yet. IntegrityError if the
    log is damaged in a way that no interruption explains; damaged batches are no error if the caller `reads_back` what
    the disk holds.
    """
    try:
        found, digest = await read_file_header(file, subject)
    except IntegrityError:
        if (await file.identity()).size_bytes > BLOCK_BYTES:
            raise
        return None
    if found != header:
        raise damaged(subject, "it belongs to another disk, replica or point")
    log = UndoLog(file, header, BLOCK_BYTES, 0, digest)
    durable_batches, last = 0, None
    async for batch in read_batches(file, header, digest):
        log.end_bytes, log.batches, log.digest = batch.end_bytes, log.batches + 1, batch.header.digest
        log.saved_bytes += sum(saved_length(e, header) for e in batch.header.entries)
        log.named_chunk = batch.header.entries[0].chunk
        durable_batches, last = batch.header.durable_batches, batch
    if not reads_back:
        await check_nothing_follows(file, log.end_bytes, subject)
    lost: list[int] = []
    if await _may_hide_a_batch(file, log):
        named = {e.chunk async for batch in read_batches(file, header, digest) for e in batch.header.entries}
        previous = await load_previous()
        lost = await put_back(disk, file, log.end_bytes, named, previous, seed, zeros=not reads_back)
    if last is not None:
        await _complete(file, last, header, disk, seed)
    await file.set_size(log.end_bytes)
    await file.flush()
    return Resumed(log, durable_batches, tuple(lost))


async def _may_hide_a_batch(file: ShareFile, log: UndoLog) -> bool:
    """Whether there may have been a whole batch behind the last sound one, whose header is damaged now."""
    size_bytes = (await file.identity()).size_bytes
    if size_bytes < log.end_bytes + BLOCK_BYTES:
        return False  # it was never flushed
    first = bytearray(BLOCK_BYTES)
    await file.read_into(first, log.end_bytes)
    block = bytearray(min(peek_batch(bytes(first)) or 0, size_bytes - log.end_bytes))
    await file.read_into(block, log.end_bytes)
    # If its header is sound, its data was cut short, and it was never flushed either.
    return decode_batch(bytes(block), log.batches, log.header, log.digest) is None


async def _complete(file: ShareFile, last: Batch, header: UndoHeader, disk: ShareFile, seed: int) -> None:
    """Copy anew what did not reach the last batch's data: then none of its chunks was overwritten yet.

    All batches before it were durable when it was begun. What neither the log nor the disk has as it was had been
    damaged before the cycle came to it; that is no reason never to go on, and reading the point before tells it.
    """
    position = last.data_offset_bytes
    for entry in last.header.entries:
        length = saved_length(entry, header)
        if length and await read_hash(file, position, length, seed) != entry.old_hash:
            offset = entry.chunk * header.chunk_bytes
            if await read_hash(disk, offset, length, seed) == entry.old_hash:
                await copy_ranges(disk, file, [CopyRange(offset, position, length)])
        position += stored_length(entry, header)


async def read_hash(file: ShareFile, offset: int, length: int, seed: int) -> bytes | None:
    """The hash of one chunk as it is in a file now; None if the file ends before its end."""
    buffer = bytearray(length)
    if await file.read_into(buffer, offset) != length:
        return None
    return hash_chunk(buffer, seed)
