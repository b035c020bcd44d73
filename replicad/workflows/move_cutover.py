"""The cutover of a move: the machine stands still, the last changes go over, and it goes on at the destination.

Before the record of SWITCHING is written, whatever fails leaves the machine at the source and nothing else to do. From
then on the destination is complete, and which of the two the machine uses is looked up, never remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from replicad.hypervisor.port import Still
from replicad.model.errors import BusyError, ConflictError, ReplicadError
from replicad.model.moves import FileState, MovedFile, MovePhase, MoveRecord, Sealed, Side, SourceAfter
from replicad.model.progress import Alarmed
from replicad.storage.port import Share
from replicad.storage.together import together
from replicad.storage.undisturbed import to_its_end, undisturbed

from .context import Context
from .move_copying import Copying
from .move_files import refuse_new_disks
from .move_journal import QuickJournal, incoming
from .move_names import flush_names, give_names, take_names_back
from .move_parts import MoveParts, relocations

_AT_ONCE = 8


async def cut_over(
    record: MoveRecord,
    files: Sequence[MovedFile],
    copies: Copying,
    parts: MoveParts,
    ctx: Context,
    max_freeze_s: float | None,
) -> MoveRecord:
    """Have the machine stand still, bring the last changes over, and switch it; the record of SWITCHED.

    BusyError if it did not come to the switch within `max_freeze_s` (None: as long as it takes), ConflictError if it
    has got another disk since the move was planned; then, and whatever else is raised, the machine goes on at the
    source, unless the record says SWITCHING: then `settle_switch` is next.
    """
    known = {file.path for file in record.files}
    await refuse_new_disks(parts.source, parts.takes, known)
    record = await parts.journal.write(replace(record, phase=MovePhase.CUTOVER))
    try:
        async with parts.journal.quick(record) as journal, parts.user.still(relocations(record, files)) as still:
            began_s = ctx.clock.monotonic_s()
            async with asyncio.timeout(max_freeze_s) as limit:
                await copies.round("cutover", is_last=True)
                at_source = copies.digests()
                await copies.rewrite_locators(record, files)
                await copies.close()
                sealed = await _sealed(record, files, at_source, copies.digests(), parts)
                await refuse_new_disks(parts.source, parts.takes, known)
                await still.check()
                limit.reschedule(None)
                record, cancelled = await to_its_end(switch(record, sealed, still, journal, parts))
    except TimeoutError:
        raise BusyError(
            "switch", record.vm, f"it would have stood still for longer than {max_freeze_s:g} s",
            "It goes on at the source. Try when it writes less, or allow a longer freeze.",
        ) from None  # fmt: skip
    if record.rounds:  # else nobody used it
        record = replace(record, freeze_ms=round((ctx.clock.monotonic_s() - began_s) * 1000, 1))
    # The machine is at the destination: to find that out anew would have it stand still once more.
    record = await undisturbed(_confirmed(record, files, parts, ctx))
    if cancelled is not None:
        raise cancelled
    return record


async def _confirmed(record: MoveRecord, files: Sequence[MovedFile], parts: MoveParts, ctx: Context) -> MoveRecord:
    await flush_names(record, files, parts)
    if record.rounds and await parts.user.has_ended():
        # It may not be able to run there, and somebody will want to know.
        record = replace(record, options=replace(record.options, source_after=SourceAfter.KEEP))
        ctx.observe(
            Alarmed(f"{record.vm} has ended right after it was switched: start it; its files at the source are kept")
        )
    return await confirm_switch(await _seen_again(record, parts), files, parts)


async def _seen_again(record: MoveRecord, parts: MoveParts) -> MoveRecord:
    """With the times that the sources have now where nothing but their times tells whether they are written later: on
    some servers a time moves when the machine closes the file."""

    async def see(file: MovedFile) -> MovedFile:
        sealed = file.sealed
        if sealed is None or sealed.source.digest:
            return file
        return replace(file, sealed=replace(sealed, source=await state_of(parts.source, file.path, "")))

    return replace(record, files=tuple(await together(see, record.files, _AT_ONCE)))


async def switch(
    record: MoveRecord, files: Sequence[MovedFile], still: Still, journal: QuickJournal, parts: MoveParts
) -> MoveRecord:
    """From the complete copies to the machine's disks. To be called while it stands still, and not to be disturbed.

    What fails is taken back, and is raised.
    """
    before = record
    record = await journal.write(replace(record, phase=MovePhase.SWITCHING, files=replaced(record.files, files)))
    is_asked = False
    try:
        await give_names(record, files, parts)
        is_asked = True
        await still.switch(relocations(record, files))
    except ReplicadError as error:
        if is_asked and isinstance(error, ConflictError):
            raise  # it may use some of them at the destination
        await take_names_back(record, files, parts)
        await parts.journal.write(before)
        raise
    return record


async def confirm_switch(record: MoveRecord, files: Sequence[MovedFile], parts: MoveParts) -> MoveRecord:
    """Write down that the machine goes on at the destination, once it is seen to. ConflictError if it is not."""
    return await parts.journal.write(replace(await switched(record, files, parts), phase=MovePhase.SWITCHED))


async def switched(record: MoveRecord, files: Sequence[MovedFile], parts: MoveParts) -> MoveRecord:
    """The record, still to be written, with these files switched, as the machine is seen to use them at the source no
    more. ConflictError if it does."""
    sides = await parts.user.sides(relocations(record, files))
    if elsewhere := sorted(path for path, side in sides.items() if side is Side.SOURCE):
        raise ConflictError(
            "switch", record.vm, f"it still uses {', '.join(elsewhere)} at the source",
            "Look what has become of it; nothing is deleted. The move is gone on with from what it uses.",
        )  # fmt: skip
    switched = {file.path for file in files}
    marked = tuple(replace(file, is_switched=file.is_switched or file.path in switched) for file in record.files)
    return replace(record, files=marked)


async def _sealed(
    record: MoveRecord,
    files: Sequence[MovedFile],
    at_source: Mapping[str, str],
    at_destination: Mapping[str, str],
    parts: MoveParts,
) -> list[MovedFile]:
    async def seal(file: MovedFile) -> MovedFile:
        place = parts.place_of(file)
        source, destination = await asyncio.gather(
            state_of(parts.source, file.path, at_source[file.path]),
            state_of(place, incoming(record, file.number), at_destination[file.path]),
        )
        return replace(file, sealed=Sealed(source, destination))

    return await together(seal, files, _AT_ONCE)


async def state_of(share: Share, path: str, digest: str) -> FileState:
    """What a file with this digest is now."""
    stat = await share.stat(path)
    return FileState(stat.size_bytes, stat.write_time_ns, digest)


def replaced(files: Sequence[MovedFile], others: Sequence[MovedFile]) -> tuple[MovedFile, ...]:
    """The files, with the others in place of those of the same path."""
    by_path = {file.path: file for file in others}
    return tuple(by_path.get(file.path, file) for file in files)
