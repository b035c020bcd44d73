"""The ends of a move: its source out of the way, or all that it has brought to the destination."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from replicad.model.errors import (
    BusyError,
    ConflictError,
    LockedError,
    NotFoundError,
    UnsupportedError,
)
from replicad.model.moves import MovedFile, MovePhase, MoveRecord, Side, SourceAfter
from replicad.model.names import parent, path_on
from replicad.model.progress import Alarmed
from replicad.storage.port import OpenMode, Share

from .context import Context
from .locking import lock_again
from .move_copying import seed_of
from .move_journal import lock_at_source, lock_of
from .move_names import found, remove_directories, remove_made, retired_name
from .move_parts import MoveParts, relocations
from .move_settling import is_changed


async def written_down(record: MoveRecord, parts: MoveParts) -> MoveRecord:
    """The record as it was written last beside the files; `record` itself if nothing was, because it is to begin, or
    because all is done but for this host's own memory.

    ConflictError where something must have been written and is not there: what it said is not known any more.
    """
    found_there = await parts.journal.read(record.id)
    if found_there is not None:
        return found_there
    if record.phase is MovePhase.WAITING:
        return record
    if record.phase is MovePhase.RETIRED and (await _lost(record, parts) is None or not await _put_away(record, parts)):
        return record
    what_then = "what was put away at the source, as *.moved-…, is left"
    if record.phase.can_be_cancelled:
        what_then = "see that the machine uses its source, and run 'replicad move cancel'"
    raise ConflictError(
        "go on with", f"the move of {record.vm}", f"what it has written down at {parts.places[0].name} is not there",
        f"Mount what should be there. If it is lost, or was taken back elsewhere, {what_then}.",
    )  # fmt: skip


async def _put_away(record: MoveRecord, parts: MoveParts) -> list[str]:
    """The files of the source that are put away, and not deleted yet, by the names that they have now."""
    names = [retired_name(record, file.path) for file in _own(record)]
    return [name for name in names if await found(parts.source, name) is not None]


async def _lost(record: MoveRecord, parts: MoveParts) -> str | None:
    """A file that is not at the destination any more: then what is at the source may be all there is."""
    for file in record.files:
        place = parts.place_of(file)
        if await found(place, file.target) is None:
            return path_on(place.name, file.target)
    return None


async def retire_source(record: MoveRecord, parts: MoveParts, ctx: Context) -> MoveRecord:
    """Give the source's files other names, so that nobody takes them for the machine's; the record of RETIRED.

    What others share stays as it is. ConflictError if something else is in the way of such a name.
    """
    if (lost := await _lost(record, parts)) is not None:
        raise ConflictError(
            "put away", f"the source of {record.vm}", f"{lost} is not there any more",
            "Mount what should be there, or put it back; nothing is touched at the source.",
        )  # fmt: skip
    for file in _own(record):
        retired = retired_name(record, file.path)
        if await found(parts.source, file.path) is None:
            if await found(parts.source, retired) is None:
                raise ConflictError(
                    "put away", path_on(parts.source.name, file.path), "it is not there, by none of its names",
                    "Mount what should be there; if it was deleted by hand, put an empty file in its place.",
                )  # fmt: skip
            continue
        if await found(parts.source, retired) is not None:
            raise ConflictError(
                "rename", path_on(parts.source.name, file.path), f"there is a {retired} already",
                "Move one of them away; the machine uses the destination.",
            )  # fmt: skip
        await parts.source.rename(file.path, retired)
    for directory in sorted({parent(file.path) for file in record.files}):
        await parts.source.flush_directory(directory)
    return await parts.journal.write(replace(record, phase=MovePhase.RETIRED, retired=ctx.clock.now()))


async def clear_away(record: MoveRecord, parts: MoveParts, ctx: Context) -> MoveRecord:
    """From RETIRED to DONE, if the time has come: the source's files are deleted, where that is wanted, and so is what
    the move needed for itself. A file of the source that was written since the switch, or that somebody has open for
    writing, stays, and is told of; so do all if the destination lacks one."""
    if record.options.source_after is SourceAfter.DELETE:
        if ctx.clock.now() < deletion_due(record):
            return record
        if await _put_away(record, parts) and (lost := await _lost(record, parts)) is not None:
            ctx.observe(Alarmed(f"the source of {record.vm} is not deleted, as {lost} is not there any more"))
        else:
            for file in _own(record):
                await _delete(record, file, parts, ctx)
    await parts.changes(record.files).settle(record.id, {})
    await _sweep_lock(record, parts, ctx)
    await remove_directories(record, parts)
    return await parts.journal.remember(replace(record, phase=MovePhase.DONE))


async def take_back(record: MoveRecord, parts: MoveParts, ctx: Context) -> MoveRecord:
    """Remove all that the move has brought to the destination; the record of CANCELLED. The machine is at the source.

    ConflictError if it is too late: once the switch has begun there is no way back. LockedError while it is worked on.
    """
    try:
        lock = await parts.places[0].lock(lock_of(record.id), ctx.holder())
    except NotFoundError:
        # It has not begun, or is all but done; or its destination is lost.
        await _refuse_if_too_late(record, parts, is_known=False)
    else:
        async with lock:
            found_there = await parts.journal.read(record.id)
            await _refuse_if_too_late(found_there or record, parts, is_known=found_there is not None)
            if found_there is not None:
                # From here on nobody goes on with it, also when this process dies.
                taken_back = replace(found_there, phase=MovePhase.PREPARE, is_taken_back=True)
                record = await parts.journal.write(taken_back)
    await parts.changes(record.files).settle(record.id, {})
    await _sweep_lock(record, parts, ctx)
    await remove_directories(record, parts)
    await remove_made(record, parts)
    return await parts.journal.remember(replace(record, phase=MovePhase.CANCELLED))


async def _sweep_lock(record: MoveRecord, parts: MoveParts, ctx: Context) -> None:
    """Remove the lock at the source, which a process of ours that died may have left."""
    path = lock_at_source(record)
    if await found(parts.source, path) is not None:
        with suppress(LockedError, NotFoundError):  # another move's, or gone
            await (await lock_again(parts.source, path, ctx.holder())).release()


async def _refuse_if_too_late(record: MoveRecord, parts: MoveParts, *, is_known: bool) -> None:
    """`is_known`: it is what was written last. This host's memory lags behind by the beginning of the switch."""
    if record.phase is MovePhase.CUTOVER and not is_known:
        sides = await parts.user.sides(relocations(record, record.files))
        if Side.SOURCE not in sides.values() or Side.DESTINATION in sides.values():
            raise ConflictError(
                "cancel", f"the move of {record.vm}",
                f"it may be switched, and what it has written down at {parts.places[0].name} is not there",
                "Mount what should be there. If it is lost, start the machine at its source first.",
            )  # fmt: skip
    if not record.can_be_cancelled:
        raise ConflictError(
            "cancel", f"the move of {record.vm}", "the machine is switched, or being switched, already",
            "Let it come to its end, and move the machine back.",
        )  # fmt: skip


def deletion_due(record: MoveRecord) -> datetime:
    """When the source's files are to be deleted, at the earliest."""
    return (record.retired or record.began) + timedelta(seconds=record.options.grace_s)


def _own(record: MoveRecord) -> Iterator[MovedFile]:
    return (file for file in record.files if not file.is_shared)


async def _delete(record: MoveRecord, file: MovedFile, parts: MoveParts, ctx: Context) -> None:
    retired = retired_name(record, file.path)
    if await found(parts.source, retired) is None:
        return
    where, user = path_on(parts.source.name, retired), await _writer(parts.source, retired)
    if user is not None:
        ctx.observe(Alarmed(f"{where} is not deleted, though the machine was switched to its copy: {user}"))
    elif file.sealed is None or await is_changed(parts.source, retired, file.sealed.source, seed_of(record), ctx):
        ctx.observe(Alarmed(f"{where} was written after the machine was switched to its copy: it is not deleted"))
    else:
        with suppress(NotFoundError):  # another process is at it, too
            await parts.source.remove(retired)


async def _writer(share: Share, path: str) -> str | None:
    """A clause on who has a file open for writing; None: nobody, as far as can be told."""
    try:
        async with await share.open(path, OpenMode.HOLD):
            return None
    except BusyError as error:
        return error.answer
    except UnsupportedError:
        return None
