"""Reading a replica back and holding every byte against what was written down of it."""

from __future__ import annotations

from replicad.model.errors import IntegrityError, NotFoundError
from replicad.model.points import DiskState
from replicad.model.progress import Advanced, PhaseStarted, Warned
from replicad.replica.view import open_point_disk
from replicad.storage.port import Share

from .context import Context
from .covered import Covered
from .damage import Damage, Findings, Part, Verification
from .opening import OpenedReplica, opened_replica
from .point_structure import PointBytes, check_point_structure
from .reading import ReadRun, read_point_disk
from .verify_disks import Looking, Manifests, named, verify_latest, verify_removed, verify_undo_logs
from .verify_files import check_records, check_texts, find_leftovers


async def verify(
    share: Share, vm_dir: str, number: int | None, ctx: Context, covered: Covered | None = None
) -> Verification:
    """Read everything that the replica holds, or with `number` all that this one point needs, and compare.

    A whole verification that is cancelled can be gone on with: `covered`, given to one after the other, remembers what
    was read. Cycles may run in between.

    Damage is reported, not raised, except where it keeps the replica from being opened at all (IntegrityError).
    LockedError if somebody writes the replica now, BusyError if somebody did while the connection was lost.
    """
    async with opened_replica(share, vm_dir, number, ctx) as opened:
        found = await (_verify_point(opened, ctx) if number is not None else verify_opened(opened, ctx, covered))
        if found.damages:
            await opened.still_ours()
    return found


async def verify_opened(opened: OpenedReplica, ctx: Context, covered: Covered | None = None) -> Verification:
    """The same for a replica that is open at its latest point."""
    looking = Looking(opened, Findings(), Verification(), ctx, covered or Covered())
    points = await check_records(looking)
    await check_texts(looking)
    undo_bytes = sum(undo.length_bytes for p in points for undo in p.undo_references())
    ctx.observe(PhaseStarted("verifying", sum(d.size_bytes for d in opened.point.disks) + undo_bytes))
    manifests: Manifests = {}
    for disk in opened.point.disks:
        manifests[disk.id] = await verify_latest(looking, disk)
    for older, point in reversed(list(zip([None, *points], points, strict=False))):
        before = older if older is not None and older.number == point.previous else None
        await verify_undo_logs(looking, before, point, manifests)
        await verify_removed(looking, before, point, manifests)
    found = looking.found
    found.read_bytes = looking.covered.read_bytes
    found.damages = looking.findings.damages()
    found.leftovers = await find_leftovers(opened, points)
    if found.leftovers:
        ctx.observe(Warned(_about_leftovers(found.leftovers)))
    return found


def _about_leftovers(paths: list[str]) -> str:
    if len(paths) == 1:
        return f"{paths[0]} belongs to no point; nothing needs it, and it is not checked"
    return f"{len(paths)} files belong to no point, {paths[0]} among them; nothing needs them, and they are not checked"


async def _verify_point(opened: OpenedReplica, ctx: Context) -> Verification:
    looking = Looking(opened, Findings(), Verification(points=[opened.point.number]), ctx)
    ctx.observe(PhaseStarted(f"verifying point {opened.point.number}", sum(d.size_bytes for d in opened.point.disks)))
    for disk in opened.point.disks:
        await _verify_seen_through_logs(looking, disk)
    looking.found.damages = looking.findings.damages()
    return looking.found


async def _verify_seen_through_logs(looking: Looking, state: DiskState) -> None:
    """Hold a disk of a point, wherever its chunks lie now, against the point's manifest; then look at its structure."""
    opened, ctx = looking.opened, looking.ctx
    number = opened.point.number
    costs = f"{state.path} of point {number}"
    try:
        disk = await open_point_disk(opened.replica, list(opened.points), state.id, opened.numbers.pending)
    except (IntegrityError, NotFoundError) as error:
        looking.findings.add(Damage(Part.UNDO_LOG, error.subject, error.answer, costs, points=(number,)))
        return
    done_bytes = 0
    by_file: dict[str, list[int]] = {}

    async def look(read: ReadRun) -> None:
        nonlocal done_bytes
        looking.read(len(read.data))
        if read.damaged:
            by_file.setdefault(read.run.file.path, []).extend(read.damaged)
        done_bytes += read.zeros_before_bytes + len(read.data)
        ctx.observe(Advanced(read.zeros_before_bytes + len(read.data)))

    async with disk:
        await read_point_disk(disk, ctx.hashing, look)
        ctx.observe(Advanced(state.size_bytes - done_bytes))
        if not by_file:
            await check_point_structure(looking.findings, opened.point, state, PointBytes(disk), state.path, ctx)
    for path, damaged in sorted(by_file.items(), key=lambda item: min(item[1])):
        chunks = tuple(sorted(damaged))
        looking.findings.add(Damage(Part.DISK, path, named(chunks, disk.manifest), costs, chunks, (number,)))
