"""The history of cycles in the catalog, and its bounds. Blocking, each within the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from sqlite3 import Connection

from replicad.model.runs import Outcome, Run

from .agendas import drop_unused_vms, vm_id
from .rows import RUN_COLUMNS, run_of, run_values, to_microseconds

_COLUMNS = ", ".join(RUN_COLUMNS)
_BEGIN = f"INSERT INTO run (vm_id, {_COLUMNS}) VALUES (?{', ?' * len(RUN_COLUMNS)})"  # noqa: S608 - our own columns
_END = f"UPDATE run SET {', '.join(f'{column} = ?' for column in RUN_COLUMNS)} WHERE number = ?"  # noqa: S608 - as above
# CROSS JOIN: in this order, so that rows come by number and nothing is sorted.
_READ = f"SELECT run.number, vm.name, {_COLUMNS} FROM run CROSS JOIN vm ON vm.id = run.vm_id"  # noqa: S608 - as above

_PRUNED_AT_ONCE = 64
"""Runs that go for one reason when one ends, at most: more than come, and few enough not to be felt."""
_FREED_AT_ONCE = 64
"""Pages, likewise."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much history is kept. With many VMs each keeps its share of `runs`, `least_of_vm` of its own at least.
    `spare_bytes` of the file may lie unused before it is made smaller. Of moves those that have ended are counted."""

    age: timedelta = timedelta(days=90)
    runs_of_vm: int = 20_000
    runs: int = 2_000_000
    least_of_vm: int = 100
    spare_bytes: int = 4 << 20
    ended_moves: int = 500


BOUNDS = Bounds()


def begin(connection: Connection, run: Run) -> int:
    """Its number."""
    connection.execute(_BEGIN, (vm_id(connection, run.vm), *run_values(run)))
    return int(connection.execute("SELECT last_insert_rowid()").fetchone()[0])


def end(connection: Connection, run: Run, ended_at: datetime, bounds: Bounds) -> bool:
    """Replace it, and remove some of what is out of bounds; False if there is no such run."""
    if connection.execute(_END, (*run_values(run), run.number)).rowcount == 0:
        return False
    _prune(connection, run.vm, ended_at - bounds.age, bounds)
    return True


def remove(connection: Connection, number: int) -> None:
    """Fine if it is not there."""
    connection.execute("DELETE FROM run WHERE number = ?", (number,))


def interrupt_all(connection: Connection, now: datetime) -> tuple[Run, ...]:
    """Close all runs under way; as they are then, the oldest first."""
    rows = connection.execute(f"{_READ} WHERE outcome IS NULL ORDER BY run.number").fetchall()
    runs = [run_of(number, vm, row) for number, vm, *row in rows]
    # A clock that was set back must not make them end before they began.
    closed = tuple(replace(run, outcome=Outcome.INTERRUPTED, ended_at=max(now, run.started_at)) for run in runs)
    connection.executemany(_END, [(*run_values(run), run.number) for run in closed])
    return closed


def read_runs(
    connection: Connection, vm: str | None, since: datetime | None, limit: int, before: int | None
) -> tuple[Run, ...]:
    """The newest `limit` by number; SenselessRowError."""
    conditions: list[str] = []
    values: list[str | int] = []
    if vm is not None:
        conditions.append("run.vm_id = (SELECT id FROM vm WHERE name = ?)")
        values.append(vm)
    if before is not None:
        conditions.append("run.number < ?")
        values.append(before)
    if since is not None:
        conditions.append("run.started_at >= ?")
        values.append(to_microseconds(since))
        if vm is None:
            # Numbers follow the time but for clocks that were set: this is where to stop looking.
            conditions.append("run.number >= (SELECT min(number) FROM run WHERE started_at >= ?)")
            values.append(to_microseconds(since))
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = connection.execute(f"{_READ}{where} ORDER BY run.number DESC LIMIT ?", (*values, limit))
    return tuple(run_of(number, name, row) for number, name, *row in rows)


def _prune(connection: Connection, vm: str, too_old: datetime, bounds: Bounds) -> None:
    number, runs = connection.execute("SELECT id, runs FROM vm WHERE name = ?", (vm,)).fetchone()
    (vms,) = connection.execute("SELECT count(*) FROM vm").fetchone()
    most = max(bounds.least_of_vm, min(bounds.runs_of_vm, bounds.runs // vms))
    if runs > most:
        connection.execute(
            "DELETE FROM run WHERE number IN (SELECT number FROM run WHERE vm_id = ? AND outcome IS NOT NULL"
            " ORDER BY number LIMIT ?)",
            (number, min(runs - most, _PRUNED_AT_ONCE)),
        )
    # Of all VMs: those that nobody replicates any more have no end of a run to do it.
    if connection.execute(
        "DELETE FROM run WHERE number IN (SELECT number FROM run WHERE started_at < ? AND outcome IS NOT NULL"
        " ORDER BY started_at LIMIT ?)",
        (to_microseconds(too_old), _PRUNED_AT_ONCE),
    ).rowcount:
        drop_unused_vms(connection)
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    (spare,) = connection.execute("PRAGMA freelist_count").fetchone()
    if spare * page_bytes > bounds.spare_bytes:
        # One by one: it takes a step of the statement for each page, and the sqlite3 module makes one only.
        for _ in range(min(spare, _FREED_AT_ONCE)):
            connection.execute("PRAGMA incremental_vacuum(1)")
