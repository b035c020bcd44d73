"""Writing a point's files somewhere else, every byte checked on the way."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from replicad.model.errors import AlreadyExistsError, NotFoundError, OutOfSpaceError, ReplicadError
from replicad.model.names import parent, path_on
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

    Nothing at the target is overwritten: AlreadyExistsError before a byte is written. A file gets its own name when it
    is whole, proven and durable; until then it ends in `.restoring`. IntegrityError names the chunk that is damaged.
    """
    async with opened_replica(share, vm_dir, number, ctx) as opened:
        await _check_target(opened.point, target)
        ctx.observe(PhaseStarted("restoring", sum(d.size_bytes for d in opened.point.disks)))
        disks = [await _restore_disk(opened, disk, target, ctx) for disk in opened.point.disks]
    return RestoreReport(opened.point, tuple(disks))


async def _check_target(point: RecoveryPoint, target: Share) -> None:
    for disk in point.disks:
        if await exists(target, disk.path):
            raise AlreadyExistsError(
                "restore", path_on(target.name, disk.path), "there is a file of that name already",
                "Restore to an empty directory; nothing was written.",
            )  # fmt: skip


async def _restore_disk(opened: OpenedReplica, state: DiskState, target: Share, ctx: Context) -> RestoredDisk:
    partial = state.path + PARTIAL_SUFFIX
    async with await open_point_disk(opened.replica, list(opened.points), state.id, opened.numbers.pending) as disk:
        await make_durable_dir(target, parent(state.path))
        await _remove_if_there(target, partial)
        try:
            async with await target.open(partial, OpenMode.CREATE) as file:
                await file.set_size(state.size_bytes)
                written_bytes = await _copy(opened, disk, file, ctx)
                await file.flush()
        except ReplicadError as error:
            with suppress(ReplicadError):  # what went wrong first is what is told
                await _remove_if_there(target, partial)
            if isinstance(error, OutOfSpaceError):
                hint = "Make room there, or restore to another place."
                raise OutOfSpaceError(error.op, error.subject, error.answer, hint) from None
            raise
    await target.rename(partial, state.path)
    await target.flush_directory(parent(state.path))
    return RestoredDisk(state.path, state.size_bytes, written_bytes)


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
