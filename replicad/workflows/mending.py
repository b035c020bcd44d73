"""Writing damaged bytes of a replica anew, where the right ones are found. Each byte is held against its hash first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from replicad.model.chunks import chunk_length
from replicad.model.errors import IntegrityError, NotFoundError
from replicad.model.manifest import ZERO_HASH, Manifest
from replicad.model.names import parent
from replicad.model.points import DiskState, UndoReference
from replicad.replica.directory import Replica
from replicad.replica.hashing import hash_chunk
from replicad.replica.manifest_file import manifest_digest, read_manifest, write_manifest
from replicad.replica.undo_format import BLOCK_BYTES
from replicad.replica.undo_log import index_undo_log, read_hash
from replicad.storage.documents import exists
from replicad.storage.port import OpenMode, ShareFile
from replicad.tracking.port import SnapshotFile

from .context import Context
from .resync import hash_file, manifest_from_replica
from .scan import Hashing

FindSource = Callable[[], Awaitable[SnapshotFile | None]]
"""The source's file of a disk; None if there is none, or if it can't be had."""

NOT_AT_THE_SOURCE = "the source no longer has these bytes; 'replicad sync --resync' makes the next point sound"
NOWHERE_ELSE = "the old bytes are kept nowhere else"
BOTH_DAMAGED = "the disk is damaged as well, and the source no longer has what the point holds"


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a disk that a replica keeps as a file, and the manifest of that.

    `working_path` is the name that it bears while it is written; None if it has no other: a removed disk.
    """

    disk: DiskState
    path: str
    manifest_path: str
    working_path: str | None


async def mend_manifest(
    replica: Replica, content: Content, pending: int | None, find_source: FindSource, ctx: Context
) -> str:
    """Write a manifest anew from the content, or from the source if that has it still; '' or why it could not be.

    The digest that the point names tells which is right.
    """
    manifest = await _manifest_of_content(replica, content, pending, ctx)
    if manifest is None or not _is_right(replica, content, manifest):
        manifest = await _manifest_of_source(replica, content, await find_source(), ctx)
    if manifest is None or not _is_right(replica, content, manifest):
        return BOTH_DAMAGED
    await write_manifest(replica.share, content.manifest_path, manifest, replica.owner(content.disk.id))
    await replica.share.flush_directory(parent(content.manifest_path))
    return ""


def _is_right(replica: Replica, content: Content, manifest: Manifest) -> bool:
    return manifest_digest(manifest, replica.owner(content.disk.id)) == content.disk.manifest.digest


async def _manifest_of_content(
    replica: Replica, content: Content, pending: int | None, ctx: Context
) -> Manifest | None:
    try:
        if content.working_path is not None:
            return await manifest_from_replica(replica, content.disk, pending, ctx)
        async with await replica.share.open(content.path, OpenMode.READ) as file:
            size_bytes = min((await file.identity()).size_bytes, content.disk.size_bytes)
            return await hash_file(file, size_bytes, Hashing(ctx.hashing, content.disk.chunk_bytes, replica.seed))
    except (IntegrityError, NotFoundError):
        return None  # then it is no help


async def _manifest_of_source(
    replica: Replica, content: Content, source: SnapshotFile | None, ctx: Context
) -> Manifest | None:
    if source is None or source.size_bytes != content.disk.size_bytes:
        return None
    hashing = Hashing(ctx.hashing, content.disk.chunk_bytes, replica.seed)
    return await hash_file(source.file, source.size_bytes, hashing)


async def mend_content(replica: Replica, content: Content, chunks: tuple[int, ...], find_source: FindSource) -> str:
    """Give a disk's file its length and these of its chunks back, or the whole of it if it is gone; '' or why not.

    A latest disk bears its working name meanwhile: if this is interrupted, its own is given back when the replica is
    opened next, and what is left of the damage is found again.
    """
    share = replica.share
    manifest = await read_manifest(
        share, content.manifest_path, replica.owner(content.disk.id), content.disk.manifest.digest
    )
    if not await exists(share, content.path):
        return await _make_anew(replica, content, manifest, find_source)
    source = await find_source() if any(manifest.hash_of(c) != ZERO_HASH for c in chunks) else None
    path = content.working_path or content.path
    if path != content.path:
        await share.rename(content.path, path)
        await share.flush_directory(parent(path))
    async with await share.open(path, OpenMode.WRITE) as file:
        if (await file.identity()).size_bytes != manifest.size_bytes:
            await file.set_size(manifest.size_bytes)
        for index in chunks:
            await _mend_chunk(file, manifest, index, source, replica.seed)
        await file.flush()
        left = [index for index in chunks if not await _is_sound(file, manifest, index, replica.seed)]
    if path != content.path:
        await share.rename(path, content.path)
        await share.flush_directory(parent(path))
    return f"of {len(left)} of these chunks {NOT_AT_THE_SOURCE}" if left else ""


async def _make_anew(replica: Replica, content: Content, manifest: Manifest, find_source: FindSource) -> str:
    """All of a file that is gone, or nothing: under its name only what is whole may be seen."""
    share, temporary = replica.share, content.path + ".tmp"
    source = await find_source()
    with suppress(NotFoundError):
        await share.remove(temporary)
    if source is None and manifest.pages:
        return NOT_AT_THE_SOURCE
    whole = True
    async with await share.open(temporary, OpenMode.CREATE) as file:
        await file.set_size(manifest.size_bytes)
        for index in manifest.nonzero_chunks(0, manifest.chunks):
            if not await _mend_chunk(file, manifest, index, source, replica.seed):
                whole = False
                break
        await file.flush()
    if not whole:
        await share.remove(temporary)
        return NOT_AT_THE_SOURCE
    await share.rename(temporary, content.path)
    await share.flush_directory(parent(content.path))
    return ""


async def _mend_chunk(file: ShareFile, manifest: Manifest, index: int, source: SnapshotFile | None, seed: int) -> bool:
    offset = index * manifest.chunk_bytes
    length = chunk_length(index, manifest.size_bytes, manifest.chunk_bytes)
    if manifest.hash_of(index) == ZERO_HASH:
        await file.zero(offset, length)
        return True
    data = await _bytes_with_hash(source.file if source else None, offset, length, manifest.hash_of(index), seed)
    if data is not None:
        await file.write(data, offset)
    return data is not None


async def _bytes_with_hash(
    file: ShareFile | None, offset: int, length: int, wanted: bytes, seed: int
) -> bytearray | None:
    """A chunk of a file, if it has this hash."""
    buffer = bytearray(length)
    if file is None or await file.read_into(buffer, offset) != length or hash_chunk(buffer, seed) != wanted:
        return None
    return buffer


async def _is_sound(file: ShareFile, manifest: Manifest, index: int, seed: int) -> bool:
    length = chunk_length(index, manifest.size_bytes, manifest.chunk_bytes)
    return await read_hash(file, index * manifest.chunk_bytes, length, seed) == manifest.hash_of(index)


async def mend_undo_log(
    replica: Replica,
    path: str,
    reference: UndoReference,
    chunks: tuple[int, ...],
    disk_path: str | None,
    find_source: FindSource,
) -> str:
    """Write old bytes of a committed log anew, where the disk as it is now (at `disk_path`) or the source has the very
    same in the same place, and zeros where only those that fill the last block are wrong; '' or why not."""
    if not chunks:
        return NOWHERE_ELSE  # a header of the log is damaged, or all of it is gone
    source, wanted, left = await find_source(), frozenset(chunks), 0
    async with AsyncExitStack() as files:
        log = await files.enter_async_context(await replica.share.open(path, OpenMode.WRITE))
        places = [(log, True)]
        if disk_path is not None and await exists(replica.share, disk_path):
            disk = await files.enter_async_context(await replica.share.open(disk_path, OpenMode.READ))
            places.append((disk, False))
        if source is not None:
            places.append((source.file, False))
        index = await index_undo_log(log, path, reference)
        for place, chunk in enumerate(index.chunks):
            if chunk not in wanted:
                continue
            length = chunk_length(chunk, index.header.previous_size_bytes, index.header.chunk_bytes)
            position, old_hash = index.positions[place], index.hash_at(place)
            for file, is_log in places:
                offset = position if is_log else chunk * index.header.chunk_bytes
                data = await _bytes_with_hash(file, offset, length, old_hash, replica.seed)
                if data is not None:
                    await log.write(data + bytes(-length % BLOCK_BYTES), position)
                    break
            else:
                left += 1
        await log.flush()
    return f"of {left} of these chunks {NOWHERE_ELSE}" if left else ""
