"""Reading a replica back and holding every byte against what was written down of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from replicad.model.errors import IntegrityError, NotFoundError
from replicad.model.manifest import PAGE_HASHES, Manifest
from replicad.model.points import DiskState, RecoveryPoint
from replicad.model.progress import Advanced, PhaseStarted
from replicad.replica.directory import Replica, read_cycle, read_point
from replicad.replica.manifest_file import manifest_digest, read_manifest
from replicad.replica.recovery_text import recovery_text
from replicad.replica.undo_log import index_undo_log
from replicad.replica.view import manifest_before, open_point_disk
from replicad.storage.documents import read_whole
from replicad.storage.port import OpenMode, Share

from .context import Context
from .opening import OpenedReplica, opened_replica
from .reading import ReadRun, read_point_disk
from .resync import hash_file
from .scan import Hashing
from .undo_check import damaged_entries

_MAX_TEXT_BYTES = 64 * 1024

Manifests = dict[str, Manifest | None]
"""On the way back from the latest point: each disk's manifest, by its id, at the point come to; None if it is lost."""


class Part(Enum):
    """What kind of thing is damaged."""

    RECORD = "record"
    TEXT = "text"
    MANIFEST = "manifest"
    DISK = "disk"
    UNDO_LOG = "undo log"
    REMOVED_DISK = "removed disk"


@dataclass(frozen=True, slots=True)
class Damage:
    """Something on the share that is not what it must be: where, what, and what it costs.

    `chunks` are those of the disk that are wrong. `repaired`: they were, and are no more.
    """

    part: Part
    file: str
    reason: str
    costs: str
    chunks: tuple[int, ...] = ()
    repaired: bool = False


@dataclass(slots=True)
class Verification:
    """What was checked and what was found. `read_bytes` are of disks and undo logs."""

    points: list[int] = field(default_factory=list)
    read_bytes: int = 0
    damages: list[Damage] = field(default_factory=list)


async def verify(share: Share, vm_dir: str, number: int | None, ctx: Context) -> Verification:
    """Read everything that the replica holds, or with `number` all that this one point needs, and compare.

    Damage is reported, not raised, except where it keeps the replica from being opened at all (IntegrityError).
    LockedError if somebody writes the replica now, BusyError if somebody did while the connection was lost.
    """
    async with opened_replica(share, vm_dir, number, ctx) as opened:
        found = await (_verify_point(opened, ctx) if number is not None else verify_opened(opened, ctx))
        if found.damages:
            await opened.still_ours()
    return found


async def verify_opened(opened: OpenedReplica, ctx: Context) -> Verification:
    """The same for a replica that is open at its latest point."""
    found = Verification()
    points = await _read_points(opened, found)
    await _check_texts(opened, found)
    undo_bytes = sum(d.undo.length_bytes for p in points for d in p.disks if d.undo)
    ctx.observe(PhaseStarted("verifying", sum(d.size_bytes for d in opened.point.disks) + undo_bytes))
    manifests: Manifests = {}
    for disk in opened.point.disks:
        manifests[disk.id] = await _verify_latest(opened, disk, found, ctx)
    for older, point in reversed(list(zip([None, *points], points, strict=False))):
        before = older if older is not None and older.number == point.previous else None
        await _verify_undo_logs(opened.replica, before, point, manifests, found, ctx)
        if before is not None:
            await _verify_removed(opened.replica, before, point, manifests, found, ctx)
    found.damages.sort(key=lambda damage: list(Part).index(damage.part))
    return found


async def _read_points(opened: OpenedReplica, found: Verification) -> list[RecoveryPoint]:
    points: list[RecoveryPoint] = []
    for number in opened.numbers.committed:
        try:
            points.append(await read_point(opened.replica, number))
        except (IntegrityError, NotFoundError) as error:
            path = opened.replica.layout.point_record(opened.replica.layout.point_dir(number))
            found.damages.append(Damage(Part.RECORD, path, error.answer, f"points up to {number}"))
    found.points = [p.number for p in points]
    return points


async def _check_texts(opened: OpenedReplica, found: Verification) -> None:
    replica = opened.replica
    path = replica.layout.recovery_text
    try:
        text = await read_whole(replica.share, path, _MAX_TEXT_BYTES)
    except (IntegrityError, NotFoundError) as error:
        found.damages.append(Damage(Part.TEXT, path, error.answer, "nothing but the instructions"))
    else:
        if text != recovery_text(replica.record).encode():
            found.damages.append(Damage(Part.TEXT, path, "its text was changed", "nothing but the instructions"))
    if opened.numbers.pending is not None:
        try:
            await read_cycle(replica, opened.numbers.pending)
        except IntegrityError as error:
            path = replica.layout.cycle_record(replica.layout.pending_dir(opened.numbers.pending))
            found.damages.append(Damage(Part.RECORD, path, error.answer, "the interrupted cycle only"))


async def _verify_latest(opened: OpenedReplica, disk: DiskState, found: Verification, ctx: Context) -> Manifest | None:
    """Returns the disk's manifest if that is sound."""
    replica, layout = opened.replica, opened.replica.layout
    manifest_path = layout.manifest(disk.path, disk.manifest.point)
    try:
        manifest = await read_manifest(replica.share, manifest_path, replica.owner(disk.id), disk.manifest.digest)
    except (IntegrityError, NotFoundError) as error:
        found.damages.append(
            Damage(Part.MANIFEST, manifest_path, error.answer, f"all points of {disk.path} until it is mended")
        )
        return None
    if opened.numbers.pending is not None:
        await _verify_seen_through_logs(opened, disk, found, ctx)
        return manifest
    path = layout.disk(disk.path)
    await _compare_file(replica, path, manifest, Part.DISK, f"{disk.path} of point {opened.point.number}", found, ctx)
    return manifest


async def _compare_file(
    replica: Replica, path: str, manifest: Manifest, part: Part, costs: str, found: Verification, ctx: Context
) -> None:
    """Hold a whole file against a manifest, what should be zeros too."""
    try:
        file = await replica.share.open(path, OpenMode.READ)
    except NotFoundError as error:
        found.damages.append(Damage(part, path, error.answer, costs))
        return
    async with file:
        size_bytes = (await file.identity()).size_bytes
        if size_bytes != manifest.size_bytes:
            reason = f"it is {size_bytes} bytes long instead of {manifest.size_bytes}"
            found.damages.append(Damage(part, path, reason, costs))
        hashing = Hashing(ctx.hashing, manifest.chunk_bytes, replica.seed)
        content = await hash_file(file, min(size_bytes, manifest.size_bytes), hashing)
    found.read_bytes += content.size_bytes
    ctx.observe(Advanced(content.size_bytes))
    chunks = _differences(manifest, content)
    if chunks:
        found.damages.append(Damage(part, path, _named(chunks, manifest), costs, chunks))


def _differences(wanted: Manifest, content: Manifest) -> tuple[int, ...]:
    pages = [n for n in {*wanted.pages, *content.pages} if wanted.pages.get(n) != content.pages.get(n)]
    return tuple(
        index
        for page in sorted(pages)
        for index in range(page * PAGE_HASHES, min((page + 1) * PAGE_HASHES, wanted.chunks))
        if wanted.hash_of(index) != content.hash_of(index)
    )


def _named(chunks: tuple[int, ...], manifest: Manifest) -> str:
    first = f"chunk {chunks[0]} (at byte {chunks[0] * manifest.chunk_bytes})"
    return f"{first} does not match the manifest" if len(chunks) == 1 else f"{len(chunks)} chunks differ, first {first}"


async def _verify_seen_through_logs(opened: OpenedReplica, state: DiskState, found: Verification, ctx: Context) -> None:
    """Hold a disk of a point, wherever its chunks lie now, against the point's manifest."""
    number = opened.point.number
    try:
        disk = await open_point_disk(opened.replica, list(opened.points), state.id, opened.numbers.pending)
    except (IntegrityError, NotFoundError) as error:
        found.damages.append(Damage(Part.UNDO_LOG, error.subject, error.answer, f"{state.path} of point {number}"))
        return
    done_bytes = 0
    by_file: dict[str, list[int]] = {}

    async def look(read: ReadRun) -> None:
        nonlocal done_bytes
        found.read_bytes += len(read.data)
        if read.damaged:
            by_file.setdefault(read.run.file.path, []).extend(read.damaged)
        done_bytes += read.zeros_before_bytes + len(read.data)
        ctx.observe(Advanced(read.zeros_before_bytes + len(read.data)))

    async with disk:
        await read_point_disk(disk, ctx.hashing, look)
    ctx.observe(Advanced(state.size_bytes - done_bytes))
    for path, damaged in sorted(by_file.items(), key=lambda item: min(item[1])):
        chunks = tuple(sorted(damaged))
        costs = f"{state.path} of point {number}"
        found.damages.append(Damage(Part.DISK, path, _named(chunks, disk.manifest), costs, chunks))


async def _verify_point(opened: OpenedReplica, ctx: Context) -> Verification:
    found = Verification(points=[opened.point.number])
    ctx.observe(PhaseStarted(f"verifying point {opened.point.number}", sum(d.size_bytes for d in opened.point.disks)))
    for disk in opened.point.disks:
        await _verify_seen_through_logs(opened, disk, found, ctx)
    return found


async def _verify_undo_logs(
    replica: Replica,
    older: RecoveryPoint | None,
    point: RecoveryPoint,
    manifests: Manifests,
    found: Verification,
    ctx: Context,
) -> None:
    """Every log of a point, its old bytes, and that it leads to what the point before says of the disk."""
    for disk in point.disks:
        before = older.disk(disk.id) if older is not None else None
        path = replica.layout.undo(replica.layout.point_dir(point.number), disk.path)
        costs = f"points before {point.number}"
        manifest = manifests.pop(disk.id, None)
        if disk.undo is not None:
            try:
                async with await replica.share.open(path, OpenMode.READ) as file:
                    index = await index_undo_log(file, path, disk.undo)
                    damaged = await damaged_entries(file, index, replica.seed, ctx.hashing)
                manifest = manifest_before(index, manifest, path) if manifest is not None else None
            except (IntegrityError, NotFoundError) as error:
                found.damages.append(Damage(Part.UNDO_LOG, path, error.answer, costs))
                continue
            found.read_bytes += disk.undo.length_bytes
            ctx.observe(Advanced(disk.undo.length_bytes))
            if damaged:
                reason = f"the old bytes of {len(damaged)} chunks are damaged, first of chunk {damaged[0]}"
                found.damages.append(Damage(Part.UNDO_LOG, path, reason, costs))
        if before is None or manifest is None:
            continue
        if manifest_digest(manifest, replica.owner(disk.id)) == before.manifest.digest:
            manifests[disk.id] = manifest
        else:
            reason = f"point {point.number} does not lead back to the manifest that point {point.previous} names"
            found.damages.append(Damage(Part.UNDO_LOG, path, reason, costs))


async def _verify_removed(
    replica: Replica,
    older: RecoveryPoint,
    point: RecoveryPoint,
    manifests: Manifests,
    found: Verification,
    ctx: Context,
) -> None:
    """The last content of disks that were gone from `point` on."""
    for removed in point.removed:
        disk = older.disk(removed.id)
        if disk is None:
            continue
        path = replica.layout.removed_manifest(point.number, removed.path)
        try:
            manifest = await read_manifest(replica.share, path, replica.owner(disk.id), disk.manifest.digest)
        except (IntegrityError, NotFoundError) as error:
            found.damages.append(
                Damage(Part.REMOVED_DISK, path, error.answer, f"{disk.path} before point {point.number}")
            )
            continue
        manifests[disk.id] = manifest
        content = replica.layout.removed(point.number, removed.path)
        costs = f"{disk.path} in points before {point.number}"
        await _compare_file(replica, content, manifest, Part.REMOVED_DISK, costs, found, ctx)
