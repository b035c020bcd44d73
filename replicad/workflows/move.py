"""A move, from the order to the last file that is out of the way. It can be begun again after whatever happened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from replicad.hypervisor.port import Usage
from replicad.model.convergence import Judgement, RoundFigures, Verdict, judge
from replicad.model.errors import ConflictError, NoConvergenceError
from replicad.model.moves import MovePhase, MoveRecord, NoConvergence
from replicad.model.progress import FreezePredicted, PhaseStarted
from replicad.replica.directory import make_durable_dir

from .context import Context
from .locking import lock_again
from .move_copying import Round, copying
from .move_cutover import cut_over
from .move_journal import directory_of, lock_at_source, lock_of
from .move_names import make_directories, missing_directories
from .move_parts import MoveParts, relocations
from .move_retiring import clear_away, retire_source, written_down
from .move_settling import doubt_switch, settle_switch

MIB = 1024 * 1024


async def move(record: MoveRecord, parts: MoveParts, ctx: Context) -> MoveRecord:
    """Take the files of `record`, which are planned, to their places; what is left is in the record that comes back:
    nothing (DONE), or RETIRED, until the time for the source has come.

    Whatever is raised before SWITCHING, the machine is at the source and nothing of it was touched; from then on it is
    where it is seen to be. The next call goes on from there, with the options that it is given. LockedError if another
    process works on this move, or on another one of the same disks.
    """
    if (latest := parts.journal.latest) is not None:
        if latest.phase.has_ended:
            return latest  # only the answer of the last attempt was lost
        record = replace(latest, options=record.options)
    await written_down(record, parts)  # before any directory is made, where something may not be mounted
    async with _locked(record, parts, ctx):
        record = replace(await written_down(record, parts), options=record.options)
        if record.is_taken_back:
            raise ConflictError(
                "go on with", f"the move of {record.vm}", "it was cancelled, and that has not come to its end",
                "Run 'replicad move cancel' again, and then start it anew.",
            )  # fmt: skip
        if record.phase is MovePhase.SWITCHED:
            record = await doubt_switch(record, parts)
        if record.phase is MovePhase.SWITCHING:
            ctx.observe(PhaseStarted("settling the switch"))
            record = await settle_switch(record, parts, ctx)
        if record.phase.can_be_cancelled:
            record = await _copied_and_switched(record, parts, ctx)
        if record.phase is MovePhase.SWITCHED:
            ctx.observe(PhaseStarted("putting the source away"))
            record = await retire_source(record, parts, ctx)
    if record.phase is MovePhase.RETIRED:
        record = await clear_away(record, parts, ctx)
    return record


@asynccontextmanager
async def _locked(record: MoveRecord, parts: MoveParts, ctx: Context) -> AsyncIterator[None]:
    """The lock of the move, in its own directory; and, until the source is out of the way, that of the machine, so that
    no other move takes it elsewhere at the same time, from whichever host."""
    await make_durable_dir(parts.places[0], directory_of(record.id))
    async with AsyncExitStack() as held:
        await held.enter_async_context(await lock_again(parts.places[0], lock_of(record.id), ctx.holder()))
        if record.phase is not MovePhase.RETIRED:
            await held.enter_async_context(await lock_again(parts.source, lock_at_source(record), ctx.holder()))
        yield


async def _copied_and_switched(record: MoveRecord, parts: MoveParts, ctx: Context) -> MoveRecord:
    files = [file for file in record.files if not file.is_switched]
    if record.phase is MovePhase.WAITING:
        missing = await missing_directories(record, parts)
        record = await parts.journal.write(replace(record, phase=MovePhase.PREPARE, made=missing))
    await make_directories(record, parts)
    async with copying(record, files, parts, ctx) as copies:
        if await parts.user.usage(relocations(record, files)) is Usage.IDLE:
            # Nobody waits for it: one pass is enough.
            record = replace(record, rounds=0)
            return await cut_over(record, files, copies, parts, ctx, None)
        record = await parts.journal.write(replace(record, phase=MovePhase.BULK))
        rounds = [await copies.round("copying")]
        record = await parts.journal.write(replace(record, phase=MovePhase.PRECOPY, rounds=1))
        while (judgement := _judge(record, rounds)).verdict is Verdict.AGAIN:
            ctx.observe(FreezePredicted(len(rounds), judgement.freeze_s))
            rounds.append(await copies.round(f"round {len(rounds) + 1}"))
            record = replace(record, rounds=len(rounds))
        return await cut_over(record, files, copies, parts, ctx, _allowed_s(record, judgement))


def _judge(record: MoveRecord, rounds: Sequence[Round]) -> Judgement:
    options = record.options
    # How fast a server copies says nothing of how fast the last changes can be sent.
    figures = [RoundFigures(one.sent_bytes - one.copied_bytes, one.duration_s) for one in rounds]
    return judge(figures, options.max_freeze_s, options.max_rounds)


def _allowed_s(record: MoveRecord, judgement: Judgement) -> float | None:
    """How long the machine may stand still; BusyError if it writes too much for that, and nobody allowed more."""
    if judgement.verdict is Verdict.GO:
        return record.options.max_freeze_s
    if record.options.on_no_convergence is NoConvergence.FREEZE:
        return None
    written, sent = judgement.written_bytes_per_s / MIB, judgement.sent_bytes_per_s / MIB
    raise NoConvergenceError(
        "move", record.vm,
        f"it writes {written:.1f} MiB/s, and {sent:.1f} MiB/s go to its destination: it would have to stand still "
        f"for {judgement.freeze_s:.1f} s, and {record.options.max_freeze_s:g} s are allowed",
        "It goes on at the source. Move it when it writes less, raise --max-freeze, or say --on-no-convergence freeze.",
    )  # fmt: skip
