"""Mending a replica: a disk from the source if that still has its bytes, a manifest from the disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from replicad.model.chunks import chunk_length
from replicad.model.errors import ReplicadError
from replicad.model.manifest import ZERO_HASH, Manifest
from replicad.model.names import parent
from replicad.model.points import DiskState
from replicad.model.progress import PhaseStarted, Warned
from replicad.replica.directory import Replica
from replicad.replica.hashing import hash_chunk
from replicad.replica.manifest_file import manifest_digest, read_manifest, write_manifest
from replicad.replica.recovery_text import recovery_text
from replicad.storage.documents import replace_whole
from replicad.storage.port import OpenMode, Share, ShareFile
from replicad.tracking.port import ChangeSource, SnapshotFile

from .context import Context
from .opening import OpenedReplica, opened_replica
from .resync import manifest_from_replica
from .verify import Damage, Part, Verification, verify_opened


async def verify_and_repair(share: Share, vm_dir: str, source: ChangeSource, ctx: Context) -> Verification:
    """Verify the whole replica, then mend what can be mended; the rest stays in the report as not repaired.

    Raises as `verify` does. A source that can't be held now is a warning, and mends nothing.
    """
    async with opened_replica(share, vm_dir, None, ctx) as opened:
        found = await verify_opened(opened, ctx)
        if not found.damages:
            return found
        if not opened.writable:
            ctx.observe(Warned("nothing is repaired, because the share can't be written"))
            return found
        if opened.numbers.pending is not None:
            ctx.observe(Warned("a cycle was interrupted: disks are repaired only after the next 'replicad sync'"))
        ctx.observe(PhaseStarted("repairing"))
        mended: list[Damage] = []
        async with _source_files(source, found, ctx) as files:
            for damage in found.damages:
                await opened.still_ours()
                repaired = await _repair(opened, damage, files, ctx)
                mended.append(replace(damage, repaired=repaired))
        found.damages = mended
    return found


@asynccontextmanager
async def _source_files(
    source: ChangeSource, found: Verification, ctx: Context
) -> AsyncIterator[Mapping[str, SnapshotFile]]:
    """The source's files by path, held; none if they are not needed or can't be had."""
    files: dict[str, SnapshotFile] = {}
    async with AsyncExitStack() as stack:
        if any(d.part is Part.DISK and d.chunks for d in found.damages):
            try:
                snapshot = await stack.enter_async_context(source.snapshot())
                files = {f.path: f for f in snapshot.files}
            except ReplicadError as error:
                ctx.observe(Warned(f"the source can't help: {error}"))
        yield files


async def _repair(opened: OpenedReplica, damage: Damage, files: Mapping[str, SnapshotFile], ctx: Context) -> bool:
    replica = opened.replica
    if damage.part is Part.TEXT:
        await replace_whole(replica.share, damage.file, recovery_text(replica.record).encode())
        return True
    for disk in opened.point.disks:
        if damage.part is Part.MANIFEST and damage.file == replica.layout.manifest(disk.path, disk.manifest.point):
            return await _make_manifest_anew(opened, disk, ctx)
        if opened.numbers.pending is not None:
            continue
        if damage.part is Part.DISK and damage.file == replica.layout.disk(disk.path) and damage.chunks:
            return await _repair_disk(replica, disk, damage.chunks, files.get(disk.path), ctx)
    return False


async def _make_manifest_anew(opened: OpenedReplica, disk: DiskState, ctx: Context) -> bool:
    """From the replica's disk; the digest that the point names tells whether both are what they must be."""
    replica = opened.replica
    manifest = await manifest_from_replica(replica, disk, opened.numbers.pending, ctx)
    if manifest_digest(manifest, replica.owner(disk.id)) != disk.manifest.digest:
        ctx.observe(
            Warned(
                f"{disk.path}: manifest and disk are both damaged; 'replicad sync --resync' makes the next point sound"
            )
        )
        return False
    path = replica.layout.manifest(disk.path, disk.manifest.point)
    await write_manifest(replica.share, path, manifest, replica.owner(disk.id))
    await replica.share.flush_directory(replica.layout.manifests_dir)
    return True


async def _repair_disk(
    replica: Replica, state: DiskState, chunks: tuple[int, ...], file: SnapshotFile | None, ctx: Context
) -> bool:
    """Write the chunks that the source still has as they were; True if those were all.

    The disk has its working name meanwhile; an interruption is mended by `settle`, and the damage found again.
    """
    share, layout = replica.share, replica.layout
    path = layout.manifest(state.path, state.manifest.point)
    manifest = await read_manifest(share, path, replica.owner(state.id), state.manifest.digest)
    own, working = layout.disk(state.path), layout.updating(state.path)
    await share.rename(own, working)
    await share.flush_directory(parent(own))
    mended = 0
    async with await share.open(working, OpenMode.WRITE) as disk:
        for index in chunks:
            mended += await _repair_chunk(disk, manifest, index, file, replica.seed)
        await disk.flush()
    await share.rename(working, own)
    await share.flush_directory(parent(own))
    if mended < len(chunks):
        ctx.observe(Warned(f"{state.path}: the source no longer has {len(chunks) - mended} of the damaged chunks"))
    return mended == len(chunks)


async def _repair_chunk(disk: ShareFile, manifest: Manifest, index: int, file: SnapshotFile | None, seed: int) -> bool:
    offset = index * manifest.chunk_bytes
    length = chunk_length(index, manifest.size_bytes, manifest.chunk_bytes)
    if manifest.hash_of(index) == ZERO_HASH:
        await disk.zero(offset, length)
        return True
    if file is None:
        return False
    buffer = bytearray(length)
    if await file.file.read_into(buffer, offset) != length or hash_chunk(buffer, seed) != manifest.hash_of(index):
        return False
    await disk.write(buffer, offset)
    return True
