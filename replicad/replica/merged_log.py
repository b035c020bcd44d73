"""One undo log in place of several: it leads from the newest of their points directly back to before the oldest.

For each chunk the oldest log that names it tells what the chunk was. The old bytes are copied by the server from the
logs that have them.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

from replicad.model.chunks import chunk_count
from replicad.model.errors import IntegrityError, NotFoundError
from replicad.model.manifest import ZERO_HASH, Manifest
from replicad.model.names import last_part
from replicad.model.points import UndoReference
from replicad.storage.copying import copy_ranges
from replicad.storage.port import CopyRange, OpenMode, Share, ShareFile

from .undo_format import (
    DIGEST_BYTES,
    MAX_ENTRIES,
    NOT_WRITTEN,
    EntryKind,
    UndoEntry,
    UndoHeader,
    damaged,
    encode_batch,
    saved_length,
    stored_length,
)
from .undo_log import UndoIndex, UndoLog, create_undo_log, index_undo_log, joined, log_subject, open_log, read_hash
from .view import manifest_before

_BATCH_BYTES = 256 * 1024 * 1024
_NOWHERE = 0xFFFF_FFFF
_READ_BACK_ONE_IN = 100
_MOST_READ_BACK = 64


@dataclass(frozen=True, slots=True)
class LogPlace:
    """A log of a committed point: where it lies, and what the point's record says of it."""

    path: str
    reference: UndoReference


@dataclass(slots=True)
class Union:
    """What a merged log saves: of each chunk, ascending, the source (its place in `sources`; _NOWHERE: the chunk was
    zeros) and the place in the index of that source."""

    sources: Sequence[UndoIndex]
    header: UndoHeader
    chunks: array[int] = field(default_factory=lambda: array("Q"))
    origins: array[int] = field(default_factory=lambda: array("I"))
    places: array[int] = field(default_factory=lambda: array("Q"))

    def entry(self, at: int) -> UndoEntry:
        """The entry of the merged log at this place."""
        old_hash = self.old_hash(at)
        kind = EntryKind.ZERO if old_hash == ZERO_HASH else EntryKind.SAVED
        return UndoEntry(self.chunks[at], kind, old_hash, NOT_WRITTEN)

    def old_hash(self, at: int) -> bytes:
        """The hash that the chunk had."""
        origin = self.origins[at]
        return ZERO_HASH if origin == _NOWHERE else self.sources[origin].hash_at(self.places[at])


def unite(sources: Sequence[UndoIndex], point: int, subject: str) -> Union:
    """What one log in place of `sources`, the oldest first, has to save to lead back from `point`. Pure.

    IntegrityError if the logs can't be of one disk.
    """
    first = sources[0].header
    if any((s.header.disk_id, s.header.chunk_bytes) != (first.disk_id, first.chunk_bytes) for s in sources):
        raise damaged(subject, "the logs to merge are of different disks")
    header = UndoHeader(first.replica_id, first.disk_id, point, first.chunk_bytes, first.previous_size_bytes)
    limit = chunk_count(header.previous_size_bytes, header.chunk_bytes)
    named = bytearray(limit)
    chunks, origins, places = array("Q"), array("I"), array("Q")
    for number, source in enumerate(sources):
        for place, chunk in enumerate(source.chunks):
            if chunk < limit and not named[chunk]:
                named[chunk] = 1
                chunks.append(chunk)
                origins.append(number)
                places.append(place)
        # The disk had ended before these, and had them again later: at the oldest point, which has room for them, they
        # were zeros, or the log that cut them off would have saved them.
        for chunk in source.beyond:
            if chunk < limit and not named[chunk]:
                named[chunk] = 1
                chunks.append(chunk)
                origins.append(_NOWHERE)
                places.append(0)
    union = Union(sources, header)
    for at in sorted(range(len(chunks)), key=chunks.__getitem__):
        union.chunks.append(chunks[at])
        union.origins.append(origins[at])
        union.places.append(places[at])
    return union


async def write_merged_log(
    share: Share,
    logs: Sequence[LogPlace],
    target: str,
    point: int,
    seed: int,
    still_ours: Callable[[], Awaitable[None]],
) -> UndoReference:
    """Write to `target` (what is there is replaced) what takes the place of `logs`, the newest first; `point` is the
    one that it leads back from. Durable on return, but for its name.

    IntegrityError if one of the logs is damaged or missing, or if a sample of what was copied reads back different.
    `still_ours` is awaited before every batch.
    """
    async with AsyncExitStack() as files:
        sources: list[UndoIndex] = []
        opened: list[ShareFile] = []
        for place in reversed(logs):
            file = await files.enter_async_context(await open_log(share, place.path))
            opened.append(file)
            sources.append(await index_undo_log(file, log_subject(share, place.path), place.reference))
        union = unite(sources, point, log_subject(share, logs[0].path))
        with suppress(NotFoundError):
            await share.remove(target)
        merged = await files.enter_async_context(await share.open(target, OpenMode.CREATE))
        log = await create_undo_log(merged, union.header)
        most = min(MAX_ENTRIES, max(1, _BATCH_BYTES // union.header.chunk_bytes))
        copied: dict[int, int] = {}
        for first in range(0, len(union.chunks), most):
            await still_ours()
            batch = range(first, min(first + most, len(union.chunks)))
            copied |= await _append(log, union, batch, opened, log_subject(share, target))
        await merged.flush()
        await _read_back_sample(merged, union, copied, opened, seed, log_subject(share, target))
        return log.reference(last_part(target))


async def _append(log: UndoLog, union: Union, batch: range, files: Sequence[ShareFile], subject: str) -> dict[int, int]:
    """One batch, its old bytes copied out of the logs that have them. Nothing of it is durable.

    Returns for some of the entries, by their place in `union`, where their bytes are now.
    """
    copied: dict[int, int] = {}
    stride = max(_READ_BACK_ONE_IN, len(union.chunks) // _MOST_READ_BACK)
    header = union.header
    entries = tuple(union.entry(at) for at in batch)
    block = encode_batch(log.batches, log.batches, entries, header, log.digest)
    position = log.end_bytes + len(block)
    ranges: list[list[CopyRange]] = [[] for _ in files]
    for at, entry in zip(batch, entries, strict=True):
        if entry.kind is EntryKind.SAVED:
            origin, place = union.origins[at], union.places[at]
            length = saved_length(entry, header)
            if length != saved_length(entry, union.sources[origin].header):
                raise damaged(subject, f"chunk {entry.chunk} had another length when it was saved")
            ranges[origin].append(CopyRange(union.sources[origin].positions[place], position, length))
            if not copied or at % stride == 0:
                copied[at] = position
            position += stored_length(entry, header)
    await log.file.write(block, log.end_bytes)
    await log.file.set_size(position)  # with the zeros that fill the last block
    for file, of_file in zip(files, ranges, strict=True):
        if of_file:
            await copy_ranges(file, log.file, joined(of_file))
    log.end_bytes, log.batches, log.digest = position, log.batches + 1, block[-DIGEST_BYTES:]
    return copied


async def _read_back_sample(
    merged: ShareFile, union: Union, copied: Mapping[int, int], files: Sequence[ShareFile], seed: int, subject: str
) -> None:
    """What the share copied is about to be all that there is. Bytes that were damaged before are no fault of its."""
    for at, position in copied.items():
        origin, old_hash = union.origins[at], union.old_hash(at)
        length = saved_length(union.entry(at), union.header)
        if await read_hash(merged, position, length, seed) == old_hash:
            continue
        if await read_hash(files[origin], union.sources[origin].positions[union.places[at]], length, seed) == old_hash:
            raise IntegrityError(
                "copy old bytes to", subject, f"chunk {union.chunks[at]} reads back different from what was copied",
                "The file server or its storage corrupts data: check it before you trust any replica on it.",
            )  # fmt: skip


async def manifest_through(share: Share, log: LogPlace, manifest: Manifest) -> Manifest:
    """The manifest of the point that a log leads back to, given that of its own point; read from the log as it lies."""
    async with await open_log(share, log.path) as file:
        index = await index_undo_log(file, log_subject(share, log.path), log.reference)
        return manifest_before(index, manifest, log_subject(share, log.path))
