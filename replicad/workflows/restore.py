"""Writing a point's files somewhere else, every byte checked on the way."""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass

from replicad.model.errors import AlreadyExistsError, BusyError, NotFoundError, OutOfSpaceError, ReplicadError
from replicad.model.names import folded, parent, path_on
from replicad.model.points import DiskState, RecoveryPoint
from replicad.model.progress import Advanced, PhaseStarted
from replicad.replica.directory import make_durable_dir
from replicad.replica.view import PointDisk, open_point_disk
from replicad.storage.documents import exists
from replicad.storage.port import OpenMode, Share, ShareFile

from .context import Context
from .opening import OpenedReplica, opened_replica
from .reading import ReadRun, damage_error, read_point_disk

PARTIAL_SUFFIX = ".restoring"


@dataclass(frozen=True, slots=True)
class RestoredDisk:
    """One file that was written: its path below the target, its size, and the bytes that were not zeros."""

    path: str
    size_bytes: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored."""

    point: RecoveryPoint
    disks: tuple[RestoredDisk, ...]


async def restore(share: Share, vm_dir: str, number: int | None, target: Share, ctx: Context) -> RestoreReport:
    """Write all files of a point (None: the latest) below the root of `target`, which must exist.

    Nothing at the target is overwritten: AlreadyExistsError before a byte is written; OutOfSpaceError before that, too,
    if there is not room for all of it. A file gets its own name when it is whole, proven and durable; until then it
    ends in `.restoring`. IntegrityError names the chunk that is damaged.
    """
    async with opened_replica(share, vm_dir, number, ctx) as opened:
        await _check_target(opened.point, target)
        await _check_room(opened, target)
        ctx.observe(PhaseStarted("restoring", sum(d.size_bytes for d in opened.point.disks)))
        taken = {folded(disk.path) for disk in opened.point.disks}
        disks = [await _restore_disk(opened, disk, target, taken, ctx) for disk in opened.point.disks]
    return RestoreReport(opened.point, tuple(disks))


async def _check_target(point: RecoveryPoint, target: Share) -> None:
    for disk in point.disks:
        if await exists(target, disk.path):
            raise AlreadyExistsError(
                "restore", path_on(target.name, disk.path), "there is a file of that name already",
                "Restore to an empty directory; nothing was written.",
            )  # fmt: skip


async def _check_room(opened: OpenedReplica, target: Share) -> None:
    needed_bytes = 0
    for state in opened.point.disks:
        # Opened once more for restoring: the manifests of all disks at a time might not fit into memory.
        async with await _open_disk(opened, state) as disk:
            needed_bytes += _nonzero_bytes(disk)
        with suppress(NotFoundError):  # what a restore that was interrupted left there makes way for this one
            needed_bytes -= (await target.stat(state.path + PARTIAL_SUFFIX)).allocated_bytes
    free_bytes = await target.free_bytes()
    if needed_bytes > free_bytes:
        raise OutOfSpaceError(
            "restore to", target.name, f"{needed_bytes} bytes are needed and {free_bytes} are free",
            f"Make room for {needed_bytes - free_bytes} bytes more, or restore to another place; nothing was written.",
            missing_bytes=needed_bytes - free_bytes,
        )  # fmt: skip


async def _open_disk(opened: OpenedReplica, state: DiskState) -> PointDisk:
    return await open_point_disk(opened.replica, list(opened.points), state.id, opened.numbers.pending)


def _nonzero_bytes(disk: PointDisk) -> int:
    return sum(disk.run_bytes(run) for run in disk.runs(disk.manifest.size_bytes))


async def _restore_disk(
    opened: OpenedReplica, state: DiskState, target: Share, taken: Container[str], ctx: Context
) -> RestoredDisk:
    partial = state.path + PARTIAL_SUFFIX
    while folded(partial) in taken:  # by another disk of the point
        partial += PARTIAL_SUFFIX
    async with await _open_disk(opened, state) as disk:
        await make_durable_dir(target, parent(state.path))
        await _remove_if_there(target, partial)
        try:
            async with await target.open(partial, OpenMode.CREATE) as file:
                await file.set_size(state.size_bytes)
                written_bytes = await _copy(opened, disk, file, ctx)
                await file.flush()
                still_named = await _has_name(target, partial, file)
        except ReplicadError as error:
            with suppress(ReplicadError):  # what went wrong first is what is told
                await _remove_if_there(target, partial)
            if isinstance(error, OutOfSpaceError):
                raise await _room_taken(error, _nonzero_bytes(disk), target) from None
            raise
    if not still_named:
        raise BusyError(
            "restore to", path_on(target.name, partial), "something else has taken the file's place meanwhile",
            "If another restore is running there, give each one a directory of its own.",
        )  # fmt: skip
    await target.rename(partial, state.path)
    await target.flush_directory(parent(state.path))
    return RestoredDisk(state.path, state.size_bytes, written_bytes)


async def _has_name(target: Share, path: str, file: ShareFile) -> bool:
    """Whether it is still this open file that bears the name: another restore takes one for left behind."""
    try:
        async with await target.open(path, OpenMode.READ) as there:
            return (await there.identity()).file_id == (await file.identity()).file_id
    except NotFoundError:
        return False


async def _room_taken(error: OutOfSpaceError, needed_bytes: int, target: Share) -> OutOfSpaceError:
    """There was room when it began."""
    answer, missing_bytes = error.answer, 0
    with suppress(ReplicadError):  # then it stays at what is known
        free_bytes = await target.free_bytes()
        answer = f"{answer}: this file needs {needed_bytes} bytes, and {free_bytes} are free"
        missing_bytes = max(0, needed_bytes - free_bytes)
    room = f"room for {missing_bytes} bytes more" if missing_bytes else "room"
    hint = f"Make {room} there, or restore to another place; the files that are there already are whole."
    return OutOfSpaceError(error.op, error.subject, answer, hint, missing_bytes=missing_bytes)


async def _remove_if_there(target: Share, path: str) -> None:
    with suppress(NotFoundError):
        await target.remove(path)


async def _copy(opened: OpenedReplica, disk: PointDisk, file: ShareFile, ctx: Context) -> int:
    done_bytes = written_bytes = 0

    async def write(read: ReadRun) -> None:
        nonlocal done_bytes, written_bytes
        if read.damaged:
            raise damage_error(disk, read.run, read.damaged[0], opened.point.number)
        await file.write(read.data, read.run.first * disk.manifest.chunk_bytes)
        written_bytes += len(read.data)
        done_bytes += read.zeros_before_bytes + len(read.data)
        ctx.observe(Advanced(read.zeros_before_bytes + len(read.data), len(read.data)))

    await read_point_disk(disk, ctx.hashing, write)
    ctx.observe(Advanced(disk.state.size_bytes - done_bytes))
    return written_bytes
