"""This host's memory: what each VM has ahead, and the history of cycles. To lose it costs work, never a point."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection
from typing import TypeVar

from replicad.model import agenda as agendas
from replicad.model.agenda import Agenda
from replicad.model.errors import ConfigError, NotFoundError
from replicad.model.known_moves import KnownMove, shown_id, with_prefix
from replicad.model.moved_sources import MovedSource
from replicad.model.names import printable
from replicad.model.runs import Run
from replicad.model.statistics import Statistics
from replicad.model.verification import VerificationPlan

from . import agendas as agenda_table
from . import figures
from . import moved_sources as moved_source_table
from . import moves as move_table
from . import runs as run_table
from . import verifications as verification_table
from .file import OPEN, open_file
from .runs import BOUNDS, Bounds
from .schema import transaction
from .thread import CatalogThread

T = TypeVar("T")

Warn = Callable[[str], None]
"""Takes a sentence about what is not as it should be, yet stops nothing; called on the catalog's thread."""

_OPEN_TIMEOUT_S = 900.0
"""To look through a file of gigabytes."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Catalog:
    """An open catalog (`open_catalog`). Times are aware.

    Every call that changes anything is one transaction: done whole or not at all, also when it is cancelled, and then
    the catalog is still usable. What a call has returned from survives the death of this process; a power failure
    may take back the last of `begin_run`, `end_run`, `finish` and `interrupted_runs`, but nothing before the last
    `save_agenda`, `save_verification`, `save_move` or `forget`.

    OutOfSpaceError, BusyError (another process has been writing for 5 s), StuckError (the disk gives no answer), else
    PermanentError.
    """

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._subject = printable(str(path))
        self._bounds = bounds
        self._thread = CatalogThread(self._subject)
        self._connection: Connection | None = None  # touched on the thread only

    async def agendas(self) -> dict[str, Agenda]:
        """All that were saved and not forgotten, by VM."""
        return await self._run("read the due times in", agenda_table.read_agendas)

    async def save_agenda(self, *changed: Agenda) -> None:
        """Keep each in place of its VM's former one, all of them or none; on return they outlive a power failure, too,
        for the price of one."""

        def save(connection: Connection) -> None:
            with _kept_in_a_power_failure(connection), transaction(connection):
                for agenda in changed:
                    agenda_table.save(connection, agenda)

        await self._run("note a due time in", save)

    async def forget(self, *vms: str) -> None:
        """Drop the VMs' agendas, and what is known of verifications, durably as `save_agenda`; their history stays.
        Fine if there are none."""

        def forget(connection: Connection) -> None:
            with _kept_in_a_power_failure(connection), transaction(connection):
                for vm in vms:
                    agenda_table.remove(connection, vm)
                    verification_table.remove(connection, vm)

        await self._run("forget a VM in", forget)

    async def verifications(self) -> dict[str, VerificationPlan]:
        """All that were saved and not forgotten, by VM."""
        return await self._run("read what was verified in", verification_table.read_plans)

    async def save_verification(self, *changed: VerificationPlan) -> None:
        """Keep each in place of its VM's former one, all of them or none; on return they outlive a power failure, too,
        for the price of one."""

        def save(connection: Connection) -> None:
            with _kept_in_a_power_failure(connection), transaction(connection):
                for plan in changed:
                    verification_table.save(connection, plan)

        await self._run("note a verification in", save)

    async def moves(self) -> tuple[KnownMove, ...]:
        """All that are remembered, the oldest first."""
        return await self._run("read the moves in", move_table.read_moves)

    async def move(self, prefix: str) -> KnownMove:
        """The one whose id begins so. NotFoundError if none does, ConfigError if several do."""
        found = with_prefix(await self.moves(), prefix)
        if not found:
            raise NotFoundError(
                "find", f"move {printable(prefix)!r}", "there is none of that id", "'replicad move list' has them all."
            )
        if len(found) > 1:
            ids = ", ".join(sorted(shown_id(move.id) for move in found))
            raise ConfigError(
                "find", f"move {printable(prefix)!r}", f"several begin so: {ids}", "Give more of its digits."
            )
        return found[0]

    async def moved_sources(self) -> dict[str, MovedSource]:
        """Where machines are since they were moved, by VM."""
        return await self._run("read where machines were moved to in", moved_source_table.read_moved_sources)

    async def save_move(self, move: KnownMove, moved: MovedSource | None = None) -> None:
        """Keep it in place of what was known of it, durably as `save_agenda`; with where its machine is from now on, if
        that is given: both or none."""

        def save(connection: Connection) -> None:
            with _kept_in_a_power_failure(connection), transaction(connection):
                move_table.save(connection, move, self._bounds.ended_moves)
                if moved is not None:
                    moved_source_table.save(connection, moved)

        await self._run("note a move in", save)

    async def begin_run(self, run: Run) -> Run:
        """Note a cycle that begins; the same with its number, which is greater than all before it."""
        if run.number or run.outcome is not None or run.ended_at is not None:
            raise ValueError("a run that begins has no number and no end yet")
        begun: list[int] = []

        def begin(connection: Connection) -> Run:
            with transaction(connection):
                number = run_table.begin(connection, run)
            begun.append(number)
            return replace(run, number=number)

        def take_back(connection: Connection) -> None:
            with transaction(connection):
                run_table.remove(connection, begun[0])

        op = "note the beginning of a cycle in"
        try:
            return await self._run(op, begin)
        except asyncio.CancelledError:
            if begun:  # nobody knows its number, so nobody would ever end it
                await self._thread.run_whatever_comes(op, lambda: take_back(self._opened()))
            raise

    async def end_run(self, run: Run) -> None:
        """Note how a cycle ended. NotFoundError if no run has its number."""
        await self._end(run, None)

    async def finish(self, run: Run, agenda: Agenda) -> None:
        """`end_run` and `save_agenda` in one transaction, for the price of `end_run`."""
        if run.vm != agenda.vm:
            raise ValueError("the run and the agenda are of two VMs")
        await self._end(run, agenda)

    async def interrupted_runs(self, now: datetime) -> tuple[Run, ...]:
        """Close all runs that are under way as interrupted, and have their VMs go on with them at once; the runs as
        they are then, the oldest first.

        For a daemon that starts and has none itself: whoever keeps two daemons from using one catalog does so before.
        """

        def interrupt(connection: Connection) -> tuple[Run, ...]:
            with transaction(connection):
                closed = run_table.interrupt_all(connection, now)
                known = agenda_table.read_agendas(connection) if closed else {}
                for vm in {run.vm for run in closed} & known.keys():
                    agenda_table.save(connection, agendas.interrupted(known[vm], now))
                return closed

        return await self._run("close what a daemon left under way in", interrupt)

    async def runs(
        self, vm: str | None = None, since: datetime | None = None, limit: int = 100, before: int | None = None
    ) -> tuple[Run, ...]:
        """At most `limit` runs of one VM (None: of all) that started at `since` or later, the newest first; `before` is
        the number of the last one of the page before."""
        if limit < 1:
            raise ValueError("a page has at least one run")
        return await self._run(
            "read the history of cycles in",
            lambda connection: run_table.read_runs(connection, vm, since, limit, before),
        )

    async def statistics(self, vm: str, rpo_s: int | None, since: datetime, until: datetime) -> Statistics:
        """What the VM's cycles came to after `since` and not after `until`. `rpo_s` None: there is no objective."""
        return await self._run(
            "count the cycles in", lambda connection: figures.statistics(connection, vm, rpo_s, since, until)
        )

    async def _end(self, run: Run, agenda: Agenda | None) -> None:
        ended_at = run.ended_at
        if run.outcome is None or ended_at is None:
            raise ValueError("a run that ends has an outcome and a time")
        op = "note the end of a cycle in"

        def end(connection: Connection) -> None:
            with transaction(connection):
                if not run_table.end(connection, run, ended_at, self._bounds):
                    raise NotFoundError(op, self._subject, f"there is no cycle of number {run.number}")
                if agenda is not None:
                    agenda_table.save(connection, agenda)

        await self._run(op, end)

    async def _run(self, op: str, work: Callable[[Connection], T]) -> T:
        return await self._thread.run(op, lambda: work(self._opened()))

    def _opened(self) -> Connection:
        if self._connection is None:
            raise ValueError("the catalog is not open")
        return self._connection

    async def _open(self, path: Path, warn: Warn, now: Callable[[], datetime]) -> None:
        def opening() -> None:
            self._connection = open_file(path, warn, now)

        await self._thread.run(OPEN, opening, _OPEN_TIMEOUT_S)

    async def _close(self) -> None:
        def closing() -> None:
            if self._connection is not None:
                self._connection.close()

        await self._thread.close("close", closing)


@asynccontextmanager
async def open_catalog(
    path: Path, warn: Warn, *, bounds: Bounds = BOUNDS, now: Callable[[], datetime] = _utc_now
) -> AsyncIterator[Catalog]:
    """The catalog in the file `path`, for its owner alone; closed in the end, when what is under way has ended.

    The file, and the directories above it, are made where they are missing. One that is damaged, or no catalog, is
    put aside under a name with the time `now`, and a new one begun; `warn` is told. FormatVersionError if a newer
    replicad wrote it; it is left as it is then.
    """
    catalog = Catalog(path, bounds)
    try:
        await catalog._open(path, warn, now)
        yield catalog
    finally:
        await catalog._close()


@contextmanager
def _kept_in_a_power_failure(connection: Connection) -> Iterator[None]:
    """Transactions within are on the disk when they end, and all before them."""
    connection.execute("PRAGMA synchronous = FULL")
    try:
        yield
    finally:
        connection.execute("PRAGMA synchronous = NORMAL")
