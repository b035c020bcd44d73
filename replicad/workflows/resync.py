"""Resynchronisation: what the replica's disk really holds, read back from it."""

from __future__ import annotations

from replicad.model.manifest import Manifest, ManifestEdit
from replicad.model.progress import PhaseStarted, Warned
from replicad.replica.directory import Replica
from replicad.replica.disk_update import DiskUpdate
from replicad.storage.port import OpenMode, ShareFile

from .context import Context
from .scan import Block, Gap, Hashing, scan


async def learn_from_replica(replica: Replica, update: DiskUpdate, hashing: Hashing, ctx: Context) -> None:
    """Read the replica's disk as it is now and tell `update` what is in it; warns if that is not what it should be."""
    if not update.has_disk():
        return
    async with await replica.share.open(update.path, OpenMode.READ) as file:
        size_bytes = min((await file.identity()).size_bytes, update.known.limit_bytes)
        ctx.observe(PhaseStarted(f"reading the replica of {update.disk_path}", size_bytes))
        found = await hash_file(file, size_bytes, hashing)
    damaged = update.known.believe(found)
    if damaged:
        ctx.observe(Warned(f"{update.disk_path}: {damaged} chunks of the replica were not what its manifest says"))


async def hash_file(file: ShareFile, size_bytes: int, hashing: Hashing) -> Manifest:
    """The manifest of the first `size_bytes` of a file, from its content."""
    edit = ManifestEdit(Manifest(hashing.chunk_bytes, 0), size_bytes)

    async def take(piece: Block | Gap) -> None:
        if isinstance(piece, Block):
            edit.put(piece.first, piece.hashes)

    await scan(file, await file.allocated_extents(), size_bytes, hashing, take)
    return edit.finish()
