"""Bringing a replica's directory into order after a writer ended early. Call with the lock held.

Everything here can be interrupted and run again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from replicad.model.chunks import chunk_length
from replicad.model.errors import ConflictError, FormatVersionError, IntegrityError
from replicad.model.manifest import ZERO_HASH, Manifest
from replicad.model.names import join, last_part, parent, path_on
from replicad.model.points import FORMAT_VERSION, Change, CycleRecord, DiskState, RecoveryPoint
from replicad.storage.documents import exists
from replicad.storage.port import OpenMode, ShareFile

from .directory import Replica, list_numbers, read_cycle, read_finished_pending, read_point
from .hashing import hash_chunk
from .layout import disk_key, is_of_cycle, manifest_name, undo_path
from .manifest_file import read_manifest
from .undo_log import UndoIndex, index_undo_log, read_file_header, read_hash, resume_undo_log


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a replica stands once it is in order: its latest point, and the cycle that can be gone on with."""

    latest: RecoveryPoint | None
    pending: CycleRecord | None


async def recover(replica: Replica) -> Standing:
    """Finish what can be finished without the source.

    A cycle that ended in all but its name becomes a point; a committed point gets its disks' own names back; a cycle
    that had not touched anything yet is taken away. A cycle that had stays, to be gone on with or rolled back.
    """
    numbers = await list_numbers(replica)
    latest = await read_point(replica, numbers.latest) if numbers.latest else None
    if numbers.pending is None:
        if latest is not None:
            await settle(replica, latest, committed_durably=False)
        return Standing(latest, None)
    await _drop_what_came_back(replica, numbers.latest)
    finished = await read_finished_pending(replica, numbers.pending)
    # One of another generation was refused at its commit: its disks are gone on with, as if it had not been finished.
    if finished is not None and finished.generation == replica.record.generation:
        # Whoever wrote its record may have ended before the name of that was durable.
        await replica.share.flush_directory(replica.layout.pending_dir(finished.number))
        await publish(replica, finished)
        return Standing(finished, None)
    cycle = await _read_cycle_or_mend(replica, numbers.pending, latest)
    if not await _has_journal(replica, numbers.pending):
        await _drop_pending(replica, numbers.pending)
        return Standing(latest, None)
    return Standing(latest, cycle)


async def _has_journal(replica: Replica, pending: int) -> bool:
    """Whether a pending cycle has an undo log. It makes one before it touches anything."""
    entries = await replica.share.list(replica.layout.pending_dir(pending))
    return any(undo_path(entry.name) is not None for entry in entries)


async def _read_cycle_or_mend(replica: Replica, pending: int, latest: RecoveryPoint | None) -> CycleRecord:
    """The record of a pending cycle. If it is damaged or missing, what only it knew of, the new disks, is taken away;
    the undo logs are enough to go on with all others."""
    cycle = None
    try:
        cycle = await read_cycle(replica, pending)
    except FormatVersionError:
        raise
    except IntegrityError:
        pass  # as if it were missing
    if cycle is None:
        previous = latest.number if latest else None
        started = datetime.fromtimestamp(0, UTC)
        cycle = CycleRecord(FORMAT_VERSION, replica.record.replica_id, pending, previous, started, "", ())
        known = frozenset(d.path for d in latest.disks) if latest else frozenset[str]()
        await undo_all_but(replica, Standing(latest, cycle), known)
    return cycle


async def publish(replica: Replica, point: RecoveryPoint) -> None:
    """The commit: the pending directory gets the point's name, and then the disks get their own.

    Everything that the point names must be durable.
    """
    share, layout = replica.share, replica.layout
    await share.rename(layout.pending_dir(point.number), layout.point_dir(point.number))
    await share.flush_directory(layout.points_dir)
    await settle(replica, point)


async def settle(replica: Replica, latest: RecoveryPoint, *, committed_durably: bool = True) -> None:
    """Give all disks of the latest committed point their own names, and put away what it has no more use for.

    No cycle may be pending. `committed_durably`: the name of the point's directory is known to be durable.
    """
    share, layout = replica.share, replica.layout
    is_settled = not await exists(share, layout.cycle_record(layout.point_dir(latest.number)))
    if not is_settled and not committed_durably:
        # Whoever committed it may have ended before that was durable. It must be before a disk has its own name: else
        # the server could forget the one and keep the other, and nobody would look for the undo log of such a disk.
        await share.flush_directory(layout.points_dir)
    # Of disks that were gone before, nothing lies there; one of their name is another disk.
    newly_gone = [r for r in latest.removed if r.since == latest.number]
    paths = [*(d.path for d in latest.disks), *(r.path for r in newly_gone)]
    there = await _names_beside(replica, paths)
    renames: list[tuple[str, str]] = []
    # Removed disks go first: a new one may have the same name but for its case, and the share may not tell them apart.
    for removed in newly_gone:
        if layout.disk(removed.path) in there:
            renames.append((layout.disk(removed.path), layout.removed(latest.number, removed.path, removed.since)))
        manifest = layout.manifest(removed.path, removed.manifest.point)
        if manifest in there:
            renames.append((manifest, layout.removed_manifest(latest.number, removed.path, removed.since)))
    for disk in latest.disks:
        own = layout.disk(disk.path)
        working = [layout.updating(disk.path), *([layout.initial(disk.path)] if disk.change is Change.INITIAL else [])]
        renames += [(path, own) for path in working if path in there]
    for source, target in renames:
        if target in there:
            raise ConflictError(
                "give its own name to", path_on(share.name, source), f"'{last_part(target)}' is there as well",
                "Move the one that is not replicad's away, then run the same command again.",
            )  # fmt: skip
        await share.rename(source, target)
    directories = {parent(path) for rename in renames for path in rename}
    if not is_settled:
        # Whoever began may have ended before what it had renamed was durable.
        directories |= {layout.points_dir, layout.point_dir(latest.number), layout.manifests_dir}
        directories |= {parent(layout.disk(path)) for path in paths}
    for directory in sorted(directories):
        await share.flush_directory(directory)
    await _drop_old_manifests(replica, latest)
    await _drop_journals(replica, latest)
    await _drop_what_came_back(replica, latest.previous)


async def _drop_journals(replica: Replica, point: RecoveryPoint) -> None:
    """What only an interrupted cycle needs: the logs of disks that had no state before, and its record, which goes
    last: as long as it is there, this is done again."""
    share, layout, directory = replica.share, replica.layout, replica.layout.point_dir(point.number)
    wanted = {join(directory, undo.file) for undo in point.undo_references()}
    names = {entry.name: join(directory, entry.name) for entry in await share.list(directory)}
    journals = [path for name, path in names.items() if undo_path(name) and path not in wanted]
    for path in journals:
        await share.remove(path)
    if journals:
        await share.flush_directory(directory)
    if layout.cycle_record(directory) in names.values():
        await share.remove(layout.cycle_record(directory))


async def _drop_what_came_back(replica: Replica, number: int | None) -> None:
    """Put the journals of a point away once more, if the server forgot that it had removed them."""
    if number is not None and await exists(
        replica.share, replica.layout.cycle_record(replica.layout.point_dir(number))
    ):
        await _drop_journals(replica, await read_point(replica, number))


async def _names_beside(replica: Replica, paths: list[str]) -> set[str]:
    """The paths of everything in the directories of these disks, and in that of the manifests."""
    directories = {replica.layout.manifests_dir, *(parent(replica.layout.disk(path)) for path in paths)}
    return {join(d, entry.name) for d in directories for entry in await replica.share.list(d)}


async def _drop_old_manifests(replica: Replica, latest: RecoveryPoint) -> None:
    wanted = {(disk_key(d.path), d.manifest.point) for d in latest.disks}
    for entry in await replica.share.list(replica.layout.manifests_dir):
        found = manifest_name(entry.name)
        if found is not None and found not in wanted and found[1] <= latest.number and not entry.is_dir:
            await replica.share.remove(join(replica.layout.manifests_dir, entry.name))


async def roll_back(replica: Replica, standing: Standing) -> None:
    """Bring the disks back to the latest committed point with the undo logs of the cycle that did not end.

    IntegrityError if old bytes are damaged in the log and gone from the disk; what could be brought back was, the disk
    keeps its `.updating` name, and the cycle can still be gone on with.
    """
    if standing.pending is not None:
        await undo_all_but(replica, standing, frozenset())
        await _drop_pending(replica, standing.pending.number)


async def undo_all_but(
    replica: Replica, standing: Standing, kept: frozenset[str], *, accept_loss: bool = False
) -> tuple[str, ...]:
    """Undo what the pending cycle did to the disks that are not `kept`; it stays pending.

    Raises as `roll_back` does. With `accept_loss` it goes on in that case, and returns sentences that tell what is
    lost: the disk is gone from the source, so nothing else could ever bring its last state back.
    """
    if standing.pending is None:
        return ()
    losses: list[str] = []
    share, layout = replica.share, replica.layout
    pending = layout.pending_dir(standing.pending.number)
    known = {d.path: d for d in standing.latest.disks} if standing.latest else {}
    for entry in await share.list(pending):
        path = undo_path(entry.name)
        if path is None or path in kept:
            continue
        if path in known:
            lost = await _roll_back_disk(replica, pending, known[path], accept_loss=accept_loss)
            if lost:
                losses.append(f"{path}: {len(lost)} damaged chunks of its last state could not be brought back")
        elif await exists(share, layout.initial(path)):
            await share.remove(layout.initial(path))
            await share.flush_directory(parent(layout.initial(path)))
        await share.remove(layout.undo(pending, path))
    return tuple(losses)


async def _drop_pending(replica: Replica, number: int) -> None:
    """The directory stays if anything is in it that no cycle puts there, and the next cycle takes it over."""
    share, directory = replica.share, replica.layout.pending_dir(number)
    entries = await share.list(directory)
    ours = [entry.name for entry in entries if is_of_cycle(entry.name) and not entry.is_dir]
    for name in ours:
        await share.remove(join(directory, name))
    if len(ours) == len(entries):
        await share.remove(directory)
        await share.flush_directory(replica.layout.points_dir)


async def _roll_back_disk(replica: Replica, pending: str, state: DiskState, *, accept_loss: bool) -> list[int]:
    """Returns the chunks whose old bytes are damaged in the log and gone from the disk.

    IntegrityError if there are any, unless `accept_loss`.
    """
    share, layout, path = replica.share, replica.layout, state.path
    own, working, log_path = layout.disk(path), layout.updating(path), layout.undo(pending, path)
    if not await exists(share, working):
        # Not touched yet, or rolled back already: it gets its own name back last. The log may go once that is durable.
        await share.flush_directory(parent(own))
        return []
    lost: list[int] = []
    subject = f"undo log {path_on(share.name, log_path)}"

    async def load_previous() -> Manifest:
        manifest = layout.manifest(path, state.manifest.point)
        return await read_manifest(share, manifest, replica.owner(state.id), state.manifest.digest)

    async with (
        await share.open(log_path, OpenMode.WRITE) as log_file,
        await share.open(working, OpenMode.WRITE) as disk,
    ):
        if (await log_file.identity()).size_bytes > 0:
            header, _ = await read_file_header(log_file, subject)
            if resumed := await resume_undo_log(log_file, header, disk, load_previous, replica.seed, subject):
                # If this is interrupted, and the disk is there again, the next cycle goes on from what is left of it.
                await resumed.log.distrust(disk)
                lost += resumed.lost
            index = await index_undo_log(log_file, subject, None)
            lost += await _write_old_bytes(disk, log_file, index, replica.seed)
            await disk.flush()
    if lost and not accept_loss:
        raise IntegrityError(
            "roll back with", subject, f"the old bytes of {len(lost)} chunks are damaged, the first is chunk {lost[0]}",
            "Run 'replicad sync': it goes on with the interrupted cycle instead.",
        )  # fmt: skip
    await share.rename(working, own)
    await share.flush_directory(parent(own))
    return lost


async def _write_old_bytes(disk: ShareFile, log: ShareFile, index: UndoIndex, seed: int) -> list[int]:
    header = index.header
    if (await disk.identity()).size_bytes != header.previous_size_bytes:
        await disk.set_size(header.previous_size_bytes)
    lost: list[int] = []
    for place, chunk in enumerate(index.chunks):
        length = chunk_length(chunk, header.previous_size_bytes, header.chunk_bytes)
        offset, old_hash = chunk * header.chunk_bytes, index.hash_at(place)
        if old_hash == ZERO_HASH:
            await disk.zero(offset, length)
            continue
        buffer = bytearray(length)
        whole = await log.read_into(buffer, index.positions[place]) == length
        if whole and hash_chunk(buffer, seed) == old_hash:
            await disk.write(buffer, offset)
        elif await read_hash(disk, offset, length, seed) != old_hash:
            lost.append(chunk)
    return lost
