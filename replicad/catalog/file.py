"""The catalog's file: made, opened, looked through, put aside if it is damaged. Blocking."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from sqlite3 import Connection

from replicad.model.errors import FormatVersionError
from replicad.model.names import printable

from .agendas import read_agendas
from .failures import code_of
from .moved_sources import read_moved_sources
from .moves import read_moves
from .rows import SenselessRowError
from .runs import read_runs
from .schema import APPLICATION_ID, MIGRATIONS, migrate, version_of
from .verifications import read_plans

OPEN = "open the catalog"
BUSY_TIMEOUT_S = 5.0
_JOURNAL_LIMIT_BYTES = 16 << 20
_BESIDE = ("-wal", "-shm")
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class _DamagedError(Exception):
    """What is there is not a catalog, or not a whole one."""


def open_file(path: Path, warn: Callable[[str], None], now: Callable[[], datetime]) -> Connection:
    """A connection to the catalog at `path`, which is made if it is not there.

    What is damaged there, or something else, is put aside, `warn` is told, and a new one begun.
    FormatVersionError if a newer replicad wrote it; sqlite3.Error, OSError.
    """
    # Not by `parents`, which takes no mode for them.
    for directory in reversed(path.parents):
        directory.mkdir(exist_ok=True, mode=0o700)
    try:
        return _opened(path)
    except _DamagedError as error:
        aside = _put_aside(path, now())
        warn(
            f"the catalog {printable(str(path))} was damaged ({error}) and has been put aside as "
            f"{printable(aside.name)}; a new one is begun: due times, pauses and the history of cycles are lost"
        )
    return _opened(path)


def _opened(path: Path) -> Connection:
    try:
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        # Never by opening and closing it: that would take away the locks of another connection of this process.
        if path.is_file() and path.stat().st_mode & 0o077:
            path.chmod(0o600)
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        _prepare(connection, printable(str(path)))
    except BaseException as error:
        connection.close()
        if isinstance(error, SenselessRowError) or (
            isinstance(error, sqlite3.DatabaseError) and code_of(error) in _DAMAGED
        ):
            raise _DamagedError(str(error)) from error
        raise
    return connection


def _prepare(connection: Connection, subject: str) -> None:
    version = version_of(connection)
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    is_new = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if is_new:
        # Before the first table: without it a file never gets smaller.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    elif application_id != APPLICATION_ID:
        raise _DamagedError("it is another program's database")
    if version > len(MIGRATIONS):
        answer = f"a newer replicad wrote it (version {version}, and {len(MIGRATIONS)} is the latest known here)"
        hint = "Use that replicad, or move the file away: due times, pauses and the history of cycles are lost then."
        raise FormatVersionError(OPEN, subject, answer, hint)
    connection.execute("PRAGMA foreign_keys = ON")
    if not is_new:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _DamagedError(" ".join(str(verdict).split()))
    _log_ahead(connection)
    connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_LIMIT_BYTES}")
    # No transaction is lost when a process dies, and the file is whole after a power failure, too; that may only take
    # back the last transactions, which then costs a cycle more, or an end in the history. What people were told
    # is done must not be taken back: see `kept_in_a_power_failure`.
    connection.execute("PRAGMA synchronous = NORMAL")
    migrate(connection)
    try:
        read_agendas(connection)
        read_runs(connection, None, None, 1, None)
        read_plans(connection)
        read_moves(connection)
        read_moved_sources(connection)
    except sqlite3.OperationalError as error:
        if code_of(error) == sqlite3.SQLITE_ERROR:  # no such table or column
            raise _DamagedError(str(error)) from error
        raise


def _log_ahead(connection: Connection) -> None:
    """Turn on write-ahead logging. SQLite does not wait for others by itself here, as it does elsewhere."""
    give_up_at = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
        except sqlite3.OperationalError as error:
            if code_of(error) != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)
        else:
            return


def _put_aside(path: Path, at: datetime) -> Path:
    name = f"{path.name}.damaged-{at:%Y%m%dT%H%M%SZ}"
    aside, number = path.with_name(name), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{name}-{number}")
    # The log first: one that is left alone must not be taken for that of the new file.
    for suffix in (*_BESIDE, ""):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    return aside
