"""After a switch that was cut short: finding out which copies are the machine's disks, and going on from that."""

from __future__ import annotations

from dataclasses import replace

from replicad.model.errors import BusyError, ConflictError
from replicad.model.moves import Course, FileState, Looked, MovedFile, MovePhase, MoveRecord, Side, courses_of
from replicad.model.names import path_on
from replicad.storage.port import OpenMode, Share

from .context import Context
from .move_copying import seed_of
from .move_cutover import confirm_switch, replaced, switched
from .move_journal import incoming
from .move_names import flush_names, found, give_names, take_names_back
from .move_parts import MoveParts, relocations
from .move_transfer import FileTransfer

NOBODY = Side.NOBODY


async def settle_switch(record: MoveRecord, parts: MoveParts, ctx: Context) -> MoveRecord:
    """From SWITCHING, whoever died then, to SWITCHED; or to PRECOPY with the files that the machine went on with at the
    source.

    Unless it is seen where the machine uses its disks they are held for as long as it takes to read both copies.
    ConflictError, with nothing touched, if both copies of a disk were written since.
    """
    files = [file for file in record.files if not file.is_switched]
    sides = await parts.user.sides(relocations(record, files))
    if all(side is Side.DESTINATION for side in sides.values()):
        await flush_names(record, files, parts)
        return await confirm_switch(record, files, parts)
    # What the machine does not use is read while it runs: it may be much.
    looked = {f.path: await _look(record, f, sides[f.path], parts, ctx) for f in files if sides[f.path] is not NOBODY}
    async with parts.user.still(relocations(record, files)) as still:
        if await parts.user.sides(relocations(record, files)) != sides:
            raise BusyError("go on with", f"the move of {record.vm}", "it was switched meanwhile", "Try again.")
        looked |= {f.path: await _look(record, f, NOBODY, parts, ctx) for f in files if sides[f.path] is NOBODY}
        courses = courses_of(looked)
        if unclear := sorted(path for path, course in courses.items() if course is Course.ASK):
            raise _unclear(record, unclear[0])
        await still.check()
        back = [file for file in files if courses[file.path] is Course.BACK]
        forward = [file for file in files if courses[file.path] is Course.FORWARD]
        await take_names_back(record, back, parts)
        await give_names(record, forward, parts)
        await flush_names(record, forward, parts)
        to_switch = [file for file in forward if sides[file.path] is not Side.DESTINATION]
        if to_switch:
            # What was written there since must not be left behind, whatever this comes to.
            is_used = any(sides[f.path] is Side.DESTINATION or looked[f.path].destination_changed for f in forward)
            await still.switch(relocations(record, to_switch), may_go_back=not is_used)
    if not back:
        return await confirm_switch(record, forward, parts)
    if forward:
        record = await switched(record, forward, parts)
    # One record says both: with the first half alone the source would be put away.
    copied_on = [replace(file, sealed=None) for file in back]
    return await parts.journal.write(replace(record, phase=MovePhase.PRECOPY, files=replaced(record.files, copied_on)))


async def doubt_switch(record: MoveRecord, parts: MoveParts) -> MoveRecord:
    """The record of SWITCHED, or, if the source is in use or was touched since, that of SWITCHING: somebody may have
    started the machine there again, and it is decided anew which copy is its disk."""
    files = [file for file in record.files if file.sealed is not None]
    if any([await found(parts.source, file.path) is None for file in files if not file.is_shared]):
        return record  # some are put away already; of one that is written later that is told before it is deleted
    sides = await parts.user.sides(relocations(record, files))
    touched = [await _is_touched(parts.source, file) for file in files]
    if not any(touched) and Side.SOURCE not in sides.values():
        return record
    doubted = tuple(replace(file, is_switched=False) for file in record.files)
    return await parts.journal.write(replace(record, phase=MovePhase.SWITCHING, files=doubted))


async def _is_touched(share: Share, file: MovedFile) -> bool:
    stat, sealed = await found(share, file.path), file.sealed
    if stat is None or sealed is None:
        return False
    return (stat.size_bytes, stat.write_time_ns) != (sealed.source.size_bytes, sealed.source.write_time_ns)


def _unclear(record: MoveRecord, path: str) -> ConflictError:
    return ConflictError(
        "go on with", f"the move of {record.vm}",
        f"{path} was written both at {record.source} and at its destination since they were the same, or it can't be "
        "told at which of them",
        "Find out which one the machine is to have, and move the other one away; nothing was touched.",
    )  # fmt: skip


async def _look(record: MoveRecord, file: MovedFile, side: Side, parts: MoveParts, ctx: Context) -> Looked:
    """What is at the sides that the machine does not use, by its bytes where they are known: times prove little."""
    if file.sealed is None:
        raise ValueError(f"{file.path} was not sealed before the switch")
    place, target, seed = parts.place_of(file), incoming(record, file.number), seed_of(record)
    # As long as the copy lies there, what has its final name is somebody else's.
    if await found(place, target) is None:
        target = file.target
    if side is Side.NOBODY and not (file.sealed.source.digest and file.sealed.destination.digest):
        return await _compared(parts.source, file.path, place, target, seed, ctx)
    source_changed = destination_changed = None
    if side is not Side.SOURCE:
        source_changed = await _changed(parts.source, file.path, file.sealed.source, seed, ctx)
    if side is not Side.DESTINATION:
        destination_changed = await _changed(place, target, file.sealed.destination, seed, ctx)
    return Looked(side, source_changed, destination_changed)


async def is_changed(share: Share, path: str, state: FileState, seed: int, ctx: Context) -> bool | None:
    """Whether a file that nobody has open for writing has been changed since a state; None if it is not there.

    The time of a last write says so, but it also moves when whoever wrote before that state closes the file.
    """
    stat = await found(share, path)
    if stat is not None and (stat.size_bytes, stat.write_time_ns) == (state.size_bytes, state.write_time_ns):
        return False
    return await _changed(share, path, state, seed, ctx)


async def _compared(
    source: Share, path: str, place: Share, target: str, seed: int, ctx: Context
) -> Looked:  # fmt: skip
    """Of a file that nobody uses, and that was not read when it was sealed: if both copies still are the same neither
    counts as changed; if not, nobody knows which one was."""
    digests = [await _digest(source, path, seed, ctx), await _digest(place, target, seed, ctx)]
    differ = digests[0] != digests[1]
    return Looked(Side.NOBODY, *(None if digest is None else differ for digest in digests))


async def _digest(share: Share, path: str, seed: int, ctx: Context) -> str | None:
    """Of what a file holds; None if it is not there."""
    if await found(share, path) is None:
        return None
    async with await share.open(path, OpenMode.READ) as file:
        transfer = FileTransfer(file, path_on(share.name, path), seed, ctx)
        await transfer.learn()
        return transfer.digest


async def _changed(share: Share, path: str, state: FileState, seed: int, ctx: Context) -> bool | None:
    """Whether the bytes of a file differ from a state; None if it is not there. What was not read when it was sealed
    can't be compared: then its times have to do."""
    stat = await found(share, path)
    if stat is None:
        return None
    if stat.size_bytes != state.size_bytes:
        return True
    if not state.digest:
        return stat.write_time_ns != state.write_time_ns
    return await _digest(share, path, seed, ctx) != state.digest
