"""Resynchronisation: what the replica's disk really holds, read back from it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from replicad.model.errors import IntegrityError, NeedsResyncError, NotFoundError
from replicad.model.manifest import Manifest, ManifestEdit
from replicad.model.names import path_on
from replicad.model.points import DiskState
from replicad.model.progress import PhaseStarted, Warned
from replicad.replica.directory import Replica
from replicad.replica.undo_log import index_undo_log
from replicad.storage.documents import exists
from replicad.storage.port import OpenMode, ShareFile

from .context import Context
from .scan import Block, Gap, Hashing, scan

if TYPE_CHECKING:
    from replicad.replica.disk_update import DiskUpdate

_RESYNC_HINT = "Run 'replicad sync --resync': it reads both sides and makes the replica right again."


async def manifest_from_replica(replica: Replica, disk: DiskState, pending: int | None, ctx: Context) -> Manifest:
    """What the replica itself says that the manifest of a disk at the latest point is: from the disk's bytes, and from
    the undo log of a cycle under way for those that it has overwritten. IntegrityError if the disk is missing."""
    share, layout = replica.share, replica.layout
    hashing = Hashing(ctx.hashing, disk.chunk_bytes, replica.seed)
    async with await _open_as_it_is(replica, disk) as file:
        size_bytes = (await file.identity()).size_bytes
        manifest = await hash_file(file, min(size_bytes, disk.size_bytes), hashing)
    log_path = layout.undo(layout.pending_dir(pending), disk.path) if pending is not None else None
    if log_path is None or not await exists(share, log_path):
        return manifest
    edit = ManifestEdit(manifest, disk.size_bytes)
    async with await share.open(log_path, OpenMode.READ) as log_file:
        if (await log_file.identity()).size_bytes > 0:
            index = await index_undo_log(log_file, f"undo log {path_on(share.name, log_path)}", None)
            for place, chunk in enumerate(index.chunks):
                edit.put(chunk, index.hash_at(place))
    return edit.finish()


async def _open_as_it_is(replica: Replica, disk: DiskState) -> ShareFile:
    """The disk under its own name, or the one that a cycle under way gave it."""
    for path in (replica.layout.updating(disk.path), replica.layout.disk(disk.path)):
        with suppress(NotFoundError):
            return await replica.share.open(path, OpenMode.READ)
    raise missing_disk(replica, disk)


async def check_replica_disk(replica: Replica, disk: DiskState) -> None:
    """IntegrityError if the replica's file of a disk is missing, or is not what the latest point can have left."""
    share, own = replica.share, replica.layout.disk(disk.path)
    try:
        there = await share.stat(own)
    except NotFoundError:
        if await exists(share, replica.layout.updating(disk.path)):
            return  # a cycle was interrupted; its undo log tells what it did
        raise missing_disk(replica, disk) from None
    if there.is_dir or there.is_link:
        kind = "a directory" if there.is_dir else "a link, and links are not followed"
        raise IntegrityError(
            "update", path_on(share.name, own), f"it is {kind}", f"Put the disk itself back ({disk.size_bytes} bytes)."
        )
    if there.size_bytes != disk.size_bytes:
        raise NeedsResyncError(
            "update", path_on(share.name, own),
            f"it is {there.size_bytes} bytes long and was {disk.size_bytes} at the latest point: "
            "somebody else changed it",
            _RESYNC_HINT,
        )  # fmt: skip


def missing_disk(replica: Replica, disk: DiskState) -> NeedsResyncError:
    """The error for a disk that a point has and its replica has not."""
    return NeedsResyncError(
        "read", path_on(replica.share.name, replica.layout.disk(disk.path)), "the file is missing from the replica",
        "Put it back if it was moved away; else run 'replicad sync --resync': it sends the whole disk again.",
    )  # fmt: skip


async def learn_from_replica(replica: Replica, update: DiskUpdate, hashing: Hashing, ctx: Context) -> None:
    """Read the replica's disk as it is now and tell `update` what is in it; warns if that is not what it should be."""
    if not update.has_disk():
        return
    try:
        opened = await replica.share.open(update.path, OpenMode.READ)
    except NotFoundError:
        update.learn(Manifest(update.known.chunk_bytes, 0), None)
        ctx.observe(Warned(f"{update.disk_path}: the replica's disk was missing; all of it is sent again"))
        return
    async with opened as file:
        whole_bytes = (await file.identity()).size_bytes
        size_bytes = min(whole_bytes, update.known.limit_bytes)
        ctx.observe(PhaseStarted(f"reading the replica of {update.disk_path}", size_bytes))
        found = await hash_file(file, size_bytes, hashing)
    damaged = update.learn(found, whole_bytes)
    if damaged:
        what = f"{damaged} chunks of the replica are not what its manifest says"
        ctx.observe(Warned(f"{update.disk_path}: {what}, and are sent again"))


async def hash_file(file: ShareFile, size_bytes: int, hashing: Hashing) -> Manifest:
    """The manifest of the first `size_bytes` of a file, from its content."""
    edit = ManifestEdit(Manifest(hashing.chunk_bytes, 0), size_bytes)

    async def take(piece: Block | Gap) -> None:
        if isinstance(piece, Block):
            edit.put(piece.first, piece.hashes)

    await scan(file, await file.allocated_extents(), size_bytes, hashing, take)
    return edit.finish()
