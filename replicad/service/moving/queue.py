"""The moves of a daemon: whose turn it is, so many at once, at most one a machine, and what becomes of them.

What has to be remembered is in the catalog: a daemon that dies goes on with what it had begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from replicad.model.clock import Clock
from replicad.model.errors import BusyError, ConflictError, LockedError, ReplicadError, TransientError
from replicad.model.known_moves import KnownMove, as_wanted, shown_id
from replicad.model.moves import MovePhase
from replicad.model.progress import FreezePredicted, ProgressEvent
from replicad.service.events import MoveBegan, MoveStopped
from replicad.service.watch import Progress, Watch
from replicad.workflows.move_retiring import deletion_due

_FIRST_PAUSE_S = 30.0
_LONGEST_PAUSE_S = 3600.0
_MOST_DOUBLINGS = 16
_TICK_S = 5.0
"""How long at most until a clock that was set is noticed."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("moves")


class Memory(Protocol):
    """What outlives the daemon; `replicad.catalog` is one."""

    async def moves(self) -> tuple[KnownMove, ...]:
        """All that are remembered."""

    async def save_move(self, move: KnownMove) -> None:
        """In place of what was known of it."""


@dataclass(slots=True)
class MoveWatch(Watch):
    """One move under way. `freeze_s` is how long its machine would stand still if it were switched now."""

    freeze_s: float | None = None

    def hear(self, event: ProgressEvent) -> None:
        """As `Watch.hear`."""
        if isinstance(event, FreezePredicted):
            self.freeze_s = event.freeze_s
        Watch.hear(self, event)


class Work(Protocol):
    """How moves are carried out."""

    async def carry_out(self, move: KnownMove, watch: MoveWatch) -> KnownMove:
        """As `Mover.carry_out`."""

    async def cancel(self, move: KnownMove) -> KnownMove:
        """As `Mover.cancel`."""

    def give_up(self) -> None:
        """Have what is under way wait for no server any more."""


@dataclass(frozen=True, slots=True)
class MoveView:
    """A move as it stands now; `progress` while it is worked on. `retry_at`: when it is tried again."""

    move: KnownMove
    progress: Progress | None = None
    freeze_s: float | None = None
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class MoveCounts:
    """How many moves are worked on, wait (for a place, a time, or to be tried again), and were stopped by an error that
    only a person can mend. Those whose sources wait to be deleted are none of these."""

    running: int = 0
    waiting: int = 0
    stopped: int = 0


@dataclass(slots=True)
class _Entry:
    move: KnownMove
    failures: int = 0
    retry_at: datetime | None = None
    is_stopped: bool = False
    """An error that only a person can mend."""
    task: asyncio.Task[None] | None = None
    watch: MoveWatch | None = None
    cancelling: bool = False

    def wanted(self) -> datetime | None:
        """When it is to be worked on; None: not as it stands."""
        if self.task is not None or self.is_stopped or self.cancelling or self.move.phase.has_ended:
            return None
        times = [self.move.record.began]
        times += [time for time in (self.retry_at, self.move.due) if time is not None]
        if self.move.phase is MovePhase.RETIRED:
            times.append(deletion_due(self.move.record))
        return max(times)


class MoveQueue:
    """Works on moves while `run` runs. For one event loop.

    `hold` keeps everything else away from a machine for as long as it is entered.
    """

    def __init__(
        self,
        work: Work,
        memory: Memory,
        clock: Clock,
        most_at_once: int,
        hold: Callable[[str, Watch], AbstractAsyncContextManager[None]],
        tell: Callable[[MoveBegan | MoveStopped], None],
    ) -> None:
        self._work = work
        self._memory = memory
        self._clock = clock
        self._most_at_once = most_at_once
        self._hold = hold
        self._tell = tell
        self._entries: dict[str, _Entry] = {}
        self._changed = asyncio.Event()

    async def keep(self) -> None:
        """Go on with all moves that have not ended; for the beginning."""
        for move in await self._memory.moves():
            if move.ended is None:
                self._entries[move.id] = _Entry(move)
        self._changed.set()

    def apply(self, most_at_once: int) -> None:
        """So many at once from now on; those under way go on."""
        self._most_at_once = most_at_once
        self._changed.set()

    async def order(self, moves: Iterable[KnownMove]) -> None:
        """Have these carried out when it is their turn. One that is here already gets another chance, with what is
        wanted of it now; one that has ended since somebody looked does not begin again.

        Raises as `refuse_twins`; ConflictError for one that is under way, and that now is wanted in another way.
        """
        for move in moves:
            latest = await self._latest(move)
            entry = self._entries.get(move.id)
            if entry is None and latest.ended is None:
                # Here before it is written down, so that another order of the same machine finds it.
                self.refuse_twins([latest])
                self._entries[move.id] = _Entry(latest)
                try:
                    await self._memory.save_move(latest)
                except BaseException:
                    self._entries.pop(move.id, None)
                    raise
            elif entry is not None and entry.task is None and not entry.cancelling:
                # What it ended with before is not how it stands any more.
                entry.move = replace(as_wanted(latest, move), error=None)
                entry.failures, entry.retry_at, entry.is_stopped = 0, None, False
                await self._memory.save_move(entry.move)
            elif entry is not None and entry.move.record.options != move.record.options:
                raise ConflictError(
                    "move", move.vm, f"its move {shown_id(move.id)} is under way, as it was wanted before",
                    f"Let it come to its end, or run 'replicad move cancel {shown_id(move.id)}' first.",
                )  # fmt: skip
        self._changed.set()

    async def resume(self, move: KnownMove) -> None:
        """Go on with one that was stopped by an error, or waits to be tried again. ConflictError if it has ended."""
        if move.phase.has_ended:
            raise ConflictError("go on with", f"move {shown_id(move.id)} of {move.vm}", f"it is {move.phase}")
        await self.order([move])

    async def cancel(self, move: KnownMove) -> KnownMove:
        """Stop the move, and take back what it has brought; the same, ended. Raises as `Mover.cancel`."""
        entry = self._entries.get(move.id)
        if entry is None:
            return self._told(await self._work.cancel(move))
        if entry.cancelling:
            raise BusyError("cancel", f"move {shown_id(move.id)} of {move.vm}", "it is being cancelled already")
        if not entry.move.record.can_be_cancelled:
            return await self._work.cancel(entry.move)  # which says why not
        entry.cancelling = True
        try:
            if entry.task is not None:
                entry.task.cancel()
                await asyncio.wait([entry.task])
            entry.move = await self._work.cancel(await self._latest(entry.move))
            self._entries.pop(move.id, None)
            return self._told(entry.move)
        finally:
            entry.cancelling = False
            self._changed.set()

    def look(self, move: KnownMove) -> MoveView:
        """How a move that the catalog knows stands now."""
        entry = self._entries.get(move.id)
        if entry is None:
            return MoveView(move)
        if entry.watch is None:
            return MoveView(move, retry_at=entry.retry_at)
        return MoveView(move, entry.watch.progress(), entry.watch.freeze_s)

    def counts(self) -> MoveCounts:
        """How many there are now."""
        left = [entry for entry in self._entries.values() if entry.move.phase is not MovePhase.RETIRED]
        running, stopped = sum(e.task is not None for e in left), sum(e.is_stopped for e in left)
        return MoveCounts(running, len(left) - running - stopped, stopped)

    def is_moving(self, vm: str) -> bool:
        """Whether a move of this machine is worked on now."""
        return any(entry.task is not None and entry.move.vm == vm for entry in self._entries.values())

    def refuse_twins(self, moves: Iterable[KnownMove]) -> None:
        """ConflictError if a machine among them is in another move that has not ended."""
        for move in moves:
            for entry in self._entries.values():
                if entry.move.vm == move.vm and entry.move.id != move.id and entry.move.phase is not MovePhase.RETIRED:
                    raise ConflictError(
                        "move", move.vm, f"its move {shown_id(entry.move.id)} has not ended",
                        f"Wait for it, or run 'replicad move cancel {shown_id(entry.move.id)}'.",
                    )  # fmt: skip

    async def run(self) -> None:
        """Work until cancelled; then stop what is under way, which a later daemon goes on with."""
        async with asyncio.TaskGroup() as group:
            try:
                while True:
                    self._changed.clear()
                    for entry in self._next_ones():
                        self._begin(entry, group)
                    await self._until_changed()
            finally:
                self._work.give_up()

    def _next_ones(self) -> list[_Entry]:
        under_way = [entry for entry in self._entries.values() if entry.task is not None]
        room, now = self._most_at_once - len(under_way), self._clock.now()
        taken = {entry.move.vm for entry in under_way}
        sources = {entry.move.record.source for entry in under_way}
        waiting = [
            entry for entry in self._entries.values() if (wanted := entry.wanted()) is not None and wanted <= now
        ]
        waiting.sort(key=lambda e: (-e.move.record.options.priority, e.move.record.began, e.move.id))
        chosen: list[_Entry] = []
        for entry in waiting:
            vm, source = entry.move.vm, entry.move.record.source
            if len(chosen) < room and vm not in taken and source not in sources:
                taken.add(vm)
                sources.add(source)  # whoever moves anything away from there has its lock
                chosen.append(entry)
        return chosen

    async def _until_changed(self) -> None:
        now = self._clock.now()
        times = [wanted for entry in self._entries.values() if (wanted := entry.wanted()) is not None and wanted > now]
        pause_s = min(_TICK_S, (min(times) - now).total_seconds()) if times else _TICK_S
        try:
            async with asyncio.timeout(pause_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _begin(self, entry: _Entry, group: asyncio.TaskGroup) -> None:
        entry.watch = MoveWatch(self._clock.monotonic_s())
        entry.task = group.create_task(self._turn(entry, entry.watch), name=f"move of {entry.move.vm}")
        entry.task.add_done_callback(lambda _: self._leave(entry))

    def _leave(self, entry: _Entry) -> None:
        entry.task = entry.watch = None
        if entry.move.phase.has_ended:
            self._entries.pop(entry.move.id, None)
        self._changed.set()

    async def _turn(self, entry: _Entry, watch: MoveWatch) -> None:
        move = entry.move
        try:
            async with self._hold(move.vm, watch):
                self._tell(MoveBegan(move))
                entry.move = await self._work.carry_out(move, watch)
            entry.failures, entry.retry_at = 0, None
            self._tell(MoveStopped(entry.move))
        except ReplicadError as error:
            await self._failed(entry, error)
        except Exception:  # noqa: BLE001  a defect that one move meets must not end the service for all
            entry.is_stopped = True
            entry.move = replace(entry.move, error="it met a defect of this program: see the daemon's log")
            self._tell(MoveStopped(entry.move))
            _log.exception("the move met a defect of this program", vm=move.vm, move=shown_id(move.id))

    async def _failed(self, entry: _Entry, error: ReplicadError) -> None:
        try:
            entry.move = await self._latest(entry.move)
        except ReplicadError as unread:
            _log.warning("how far a move is can't be read", vm=entry.move.vm, error=str(unread))
        entry.move = replace(entry.move, error=str(error))
        entry.failures, entry.retry_at = entry.failures + 1, None
        if isinstance(error, TransientError | LockedError):
            doublings = min(entry.failures - 1, _MOST_DOUBLINGS)
            pause_s = min(_FIRST_PAUSE_S * (1 << doublings), _LONGEST_PAUSE_S)
            entry.retry_at = self._clock.now() + timedelta(seconds=pause_s)
        elif not entry.move.record.files:
            # Nothing was there yet, and nothing is to be gone on with.
            record = replace(entry.move.record, phase=MovePhase.FAILED)
            entry.move = replace(entry.move, record=record, ended=self._clock.now())
        else:
            entry.is_stopped = not entry.move.phase.has_ended
        self._tell(MoveStopped(entry.move, is_tried_again=entry.retry_at is not None))
        try:
            await self._memory.save_move(entry.move)
        except ReplicadError as unsaved:  # it is known here, and a later daemon begins with what was written before
            _log.warning("what became of a move can't be written down", vm=entry.move.vm, error=str(unsaved))

    def _told(self, move: KnownMove) -> KnownMove:
        self._tell(MoveStopped(move))
        return move

    async def _latest(self, move: KnownMove) -> KnownMove:
        return next((one for one in await self._memory.moves() if one.id == move.id), move)
