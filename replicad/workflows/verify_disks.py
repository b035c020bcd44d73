"""Verifying the disks of a replica with their manifests and undo logs, from the latest point back to the oldest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from replicad.model.chunks import chunk_count, chunk_length
from replicad.model.errors import IntegrityError, NotFoundError
from replicad.model.manifest import HASH_BYTES, ZERO_HASH, Manifest
from replicad.model.names import join, path_on
from replicad.model.points import DiskState, RecoveryPoint, RemovedDisk
from replicad.model.progress import Advanced
from replicad.replica.manifest_file import manifest_digest, read_manifest
from replicad.replica.undo_log import UndoIndex, check_nothing_follows, index_undo_log, read_hash
from replicad.replica.view import find_removed_disk, manifest_before
from replicad.storage.documents import exists
from replicad.storage.port import OpenMode, ShareFile

from .context import Context
from .covered import Covered, FileCover
from .damage import Damage, Findings, Part, Verification
from .opening import OpenedReplica
from .point_structure import check_point_structure
from .reading import differing
from .scan import Block, Gap, Hashing, scan
from .undo_check import damaged_entries

Manifests = dict[str, Manifest | None]
"""On the way back from the latest point: each disk's manifest, by its id, at the point come to; None if it is lost."""


@dataclass(frozen=True, slots=True)
class Looking:
    """One verification under way; `covered` is what those before it, which were broken off, have read."""

    opened: OpenedReplica
    findings: Findings
    found: Verification
    ctx: Context
    covered: Covered = field(default_factory=Covered)

    def read(self, count_bytes: int) -> None:
        """So many bytes were read back."""
        self.found.read_bytes += count_bytes
        self.covered.read_bytes += count_bytes


async def verify_latest(looking: Looking, disk: DiskState) -> Manifest | None:
    """A disk of the latest point, all of its bytes and its structure; returns its manifest if that is sound."""
    replica, layout, pending = looking.opened.replica, looking.opened.replica.layout, looking.opened.numbers.pending
    number = looking.opened.point.number
    path = layout.manifest(disk.path, disk.manifest.point)
    try:
        manifest = await read_manifest(replica.share, path, replica.owner(disk.id), disk.manifest.digest)
    except (IntegrityError, NotFoundError) as error:
        damage = Damage(Part.MANIFEST, path, error.answer, f"all points of {disk.path} until it is mended")
        looking.findings.add_of_disk(damage, disk.id, number, None)
        return None
    if pending is not None and await exists(replica.share, layout.updating(disk.path)):
        await _verify_updating(looking, disk, manifest, pending)
        return manifest
    path, wanted = layout.disk(disk.path), _Wanted(Part.DISK, f"{disk.path} of point {number}", disk.id, number)
    for working in (layout.updating(disk.path), layout.initial(disk.path)):
        # Whoever can't take the lock finds them as a writer left them that died between commit and renaming.
        if (
            not looking.opened.writable
            and not await exists(replica.share, path)
            and await exists(replica.share, working)
        ):
            path = working
    cover = _cover_of(looking, disk)
    await _compare_file(looking, path, manifest, wanted, (looking.opened.point, disk), cover)
    return manifest


def _cover_of(looking: Looking, disk: DiskState) -> FileCover:
    return looking.covered.of("disk", disk.id, str(disk.chunk_bytes))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a file must be: the content of a disk at a point (or None: between two), and what it costs if it is not."""

    part: Part
    costs: str
    disk_id: str
    number: int | None


async def _compare_file(
    looking: Looking,
    path: str,
    manifest: Manifest,
    wanted: _Wanted,
    structure: tuple[RecoveryPoint, DiskState] | None,
    cover: FileCover,
) -> None:
    """Hold a whole file against a manifest, what should be zeros too; then look at the structure of what it is."""
    replica, number = looking.opened.replica, wanted.number
    try:
        file = await replica.share.open(path, OpenMode.READ)
    except NotFoundError as error:
        damage = Damage(wanted.part, path, error.answer, wanted.costs)
        looking.findings.add_of_disk(damage, wanted.disk_id, number, None)
        return
    async with file:
        size_bytes = (await file.identity()).size_bytes
        if size_bytes != manifest.size_bytes:
            reason = f"it is {size_bytes} bytes long instead of {manifest.size_bytes}"
            looking.findings.add(Damage(wanted.part, path, reason, wanted.costs))
        chunks = await _differing_chunks(looking, file, manifest, cover)
        if chunks:
            damage = Damage(wanted.part, path, named(chunks, manifest), wanted.costs, chunks)
            looking.findings.add_of_disk(damage, wanted.disk_id, number, _not_zeros(chunks, manifest))
        elif size_bytes == manifest.size_bytes and structure is not None:
            point, disk = structure
            await check_point_structure(looking.findings, point, disk, file, path, looking.ctx)


async def _differing_chunks(looking: Looking, file: ShareFile, manifest: Manifest, cover: FileCover) -> tuple[int, ...]:
    """The chunks of a file that are not what a manifest says, ascending; beyond its end it counts as zeros."""
    hashing = Hashing(looking.ctx.hashing, manifest.chunk_bytes, looking.opened.replica.seed)
    size_bytes = min((await file.identity()).size_bytes, manifest.size_bytes)

    def note(first: int, end: int, bad: Iterator[int]) -> None:
        new = max(first, cover.upto)
        looking.read(_bytes_of(manifest, new, end))
        looking.covered.took(cover, first, end, list(bad))
        looking.ctx.observe(Advanced(_bytes_of(manifest, first, end)))

    async def take(piece: Block | Gap) -> None:
        if isinstance(piece, Gap):
            note(piece.first, piece.end, _bad_in_gap(manifest, cover, piece.first, piece.end))
            return
        first, count = piece.first, len(piece.hashes) // HASH_BYTES
        places = differing(piece.hashes, manifest.hashes(first, count))
        note(first, first + count, (first + place for place in places))

    wanted = cover.wanted(await file.allocated_extents(), manifest.chunk_bytes, size_bytes)
    await scan(file, wanted, size_bytes, hashing, take)
    there = chunk_count(size_bytes, manifest.chunk_bytes)
    if there < manifest.chunks:
        note(there, manifest.chunks, _bad_in_gap(manifest, cover, there, manifest.chunks))
    return tuple(sorted(chunk for chunk in cover.bad if chunk < manifest.chunks))


def _bad_in_gap(manifest: Manifest, cover: FileCover, first: int, end: int) -> Iterator[int]:
    """The chunks among [first, end), of which nothing was read, that are wanted and must not be zeros."""
    yield from (chunk for chunk in cover.bad if first <= chunk < end and manifest.hash_of(chunk) != ZERO_HASH)
    yield from manifest.nonzero_chunks(max(first, cover.upto), end)


def _bytes_of(manifest: Manifest, first: int, end: int) -> int:
    """How many bytes the chunks [first, end) have."""
    chunk_bytes = manifest.chunk_bytes
    return max(0, min(end * chunk_bytes, manifest.size_bytes) - first * chunk_bytes)


def _not_zeros(chunks: tuple[int, ...], manifest: Manifest) -> list[int]:
    return [chunk for chunk in chunks if manifest.hash_of(chunk) != ZERO_HASH]


def named(chunks: tuple[int, ...], manifest: Manifest) -> str:
    """A clause that tells of damaged chunks."""
    first = f"chunk {chunks[0]} (at byte {chunks[0] * manifest.chunk_bytes})"
    return f"{first} does not match the manifest" if len(chunks) == 1 else f"{len(chunks)} chunks differ, first {first}"


async def _verify_updating(looking: Looking, disk: DiskState, manifest: Manifest, pending: int) -> None:
    """A disk that a cycle under way was writing: what the cycle has saved is in its undo log, the rest is in place.

    What the cycle wrote is of no point yet, and is not looked at: it can't be told from what it wrote in part.
    """
    replica, layout = looking.opened.replica, looking.opened.replica.layout
    path, log_path = layout.updating(disk.path), layout.undo(layout.pending_dir(pending), disk.path)
    number, costs = looking.opened.point.number, f"{disk.path} of point {looking.opened.point.number}"
    async with await replica.share.open(path, OpenMode.READ) as file:
        try:
            async with await replica.share.open(log_path, OpenMode.READ) as log:
                index = await index_undo_log(log, log_path, None)
                await check_nothing_follows(log, index.end_bytes, log_path)
                lost = await _lost_old_bytes(looking, file, log, index)
                tail_bytes = (await log.identity()).size_bytes - index.end_bytes
        except (IntegrityError, NotFoundError) as error:
            damage = Damage(Part.UNDO_LOG, log_path, error.answer, costs)
            looking.findings.add_of_disk(damage, disk.id, number, None)
            return
        differ = await _differing_chunks(looking, file, manifest, _cover_of(looking, disk))
    looking.read(index.end_bytes)
    if lost:
        damage = Damage(Part.UNDO_LOG, log_path, _old_bytes(lost), costs, lost)
        looking.findings.add_of_disk(damage, disk.id, number, lost)
    saved = set(index.chunks)
    chunks = tuple(chunk for chunk in differ if chunk not in saved)
    if chunks:
        damage = Damage(Part.DISK, path, named(chunks, manifest), costs, chunks)
        looking.findings.add_of_disk(damage, disk.id, number, _not_zeros(chunks, manifest))
    if chunks and tail_bytes:
        # Either may be what was damaged: a batch whose header is not sound may have saved these very chunks.
        reason = f"what is in it from byte {index.end_bytes} on is no whole batch, and chunks of the disk differ"
        looking.findings.add_of_disk(
            Damage(Part.UNDO_LOG, log_path, reason, costs), disk.id, number, _not_zeros(chunks, manifest)
        )


async def _lost_old_bytes(looking: Looking, disk: ShareFile, log: ShareFile, index: UndoIndex) -> tuple[int, ...]:
    """The chunks whose old bytes a cycle's log has not as they were, and that are not untouched on the disk either."""
    seed, header = looking.opened.replica.seed, index.header
    lost: list[int] = []
    for chunk in await damaged_entries(log, index, seed, looking.ctx.hashing, Covered(), FileCover()):
        length = chunk_length(chunk, header.previous_size_bytes, header.chunk_bytes)
        on_disk = await read_hash(disk, chunk * header.chunk_bytes, length, seed)
        if on_disk != index.hash_at(index.chunks.index(chunk)):
            lost.append(chunk)
    return tuple(lost)


def _old_bytes(chunks: tuple[int, ...]) -> str:
    return f"the old bytes of {len(chunks)} chunks are damaged, first of chunk {chunks[0]}"


async def verify_undo_logs(
    looking: Looking, older: RecoveryPoint | None, point: RecoveryPoint, manifests: Manifests
) -> None:
    """Every log of a point, its old bytes, and that it leads to what the point before (`older`) says of the disk."""
    for disk in point.disks:
        await _verify_undo_log(looking, older, point, disk, manifests)


async def _verify_undo_log(
    looking: Looking,
    older: RecoveryPoint | None,
    point: RecoveryPoint,
    disk: DiskState | RemovedDisk,
    manifests: Manifests,
) -> None:
    """The log of one disk beside a point's record, or of one that is gone at the point, from its last content back."""
    replica, findings = looking.opened.replica, looking.findings
    directory, costs = replica.layout.point_dir(point.number), f"points before {point.number}"
    path = join(directory, disk.undo.file) if disk.undo is not None else replica.layout.undo(directory, disk.path)
    before = older.disk(disk.id) if older is not None else None
    number = point.previous if point.previous is not None else point.number
    manifest = manifests.pop(disk.id, None)
    index: UndoIndex | None = None
    damaged: tuple[int, ...] = ()
    if disk.undo is not None:
        cover = looking.covered.of("undo", path, disk.undo.digest)
        try:
            async with await replica.share.open(path, OpenMode.READ) as file:
                index = await index_undo_log(file, path, disk.undo)
                damaged = tuple(
                    await damaged_entries(file, index, replica.seed, looking.ctx.hashing, looking.covered, cover)
                )
            manifest = manifest_before(index, manifest, path) if manifest is not None else None
        except (IntegrityError, NotFoundError) as error:
            findings.add_of_disk(Damage(Part.UNDO_LOG, path, error.answer, costs), disk.id, number, None)
            return
        looking.read(0 if cover.is_counted else disk.undo.length_bytes)
        cover.is_counted = True
        looking.ctx.observe(Advanced(disk.undo.length_bytes))
    if before is not None:
        findings.went_back(disk.id, index, number)
    if damaged:
        damage = Damage(Part.UNDO_LOG, path, _old_bytes(damaged), costs, damaged)
        findings.add_of_disk(damage, disk.id, number, damaged)
    if before is None or manifest is None:
        return
    if manifest_digest(manifest, replica.owner(disk.id)) == before.manifest.digest:
        manifests[disk.id] = manifest
    else:
        reason = f"point {point.number} does not lead back to the manifest that point {point.previous} names"
        findings.add_of_disk(Damage(Part.UNDO_LOG, path, reason, costs), disk.id, number, None)


async def verify_removed(
    looking: Looking, older: RecoveryPoint | None, point: RecoveryPoint, manifests: Manifests
) -> None:
    """The last content of disks that were gone from `point` on. `older` is the point before, which had them; it may be
    None though it is there, because its record is lost."""
    replica, layout = looking.opened.replica, looking.opened.replica.layout
    if point.previous is None or point.previous not in looking.opened.numbers.committed:
        return
    for removed in point.removed:
        disk = older.disk(removed.id) if older is not None else None
        lost = layout.removed(point.number, removed.path, removed.since)
        path = layout.removed_manifest(point.number, removed.path, removed.since)
        costs = f"{removed.path} in points before {point.number}"
        try:
            content, path = await find_removed_disk(replica, point.number, removed)
            manifest = await read_manifest(replica.share, path, replica.owner(removed.id), removed.manifest.digest)
        except (IntegrityError, NotFoundError) as error:
            # Either the content is missing, or its manifest is, or is damaged.
            file = lost if error.subject == path_on(replica.share.name, lost) else path
            damage = Damage(Part.REMOVED_DISK, file, error.answer, costs)
            looking.findings.add_of_disk(damage, removed.id, point.previous, None)
            continue
        manifests[removed.id] = manifest
        number = point.previous if removed.undo is None else None
        wanted = _Wanted(Part.REMOVED_DISK, costs, removed.id, number)
        structure = (older, disk) if older is not None and disk is not None and removed.undo is None else None
        cover = looking.covered.of("removed", content, removed.manifest.digest)
        await _compare_file(looking, content, manifest, wanted, structure, cover)
        if removed.undo is not None:
            await _verify_undo_log(looking, older, point, removed, manifests)
