"""Where machines are since they were moved, in the catalog. Blocking, each within the caller's transaction."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from sqlite3 import Connection

from replicad.model.moved_sources import MovedSource

from .rows import as_text, as_time, to_microseconds

_READ = "SELECT vm, former, source, since FROM moved_source"
_SAVE = "INSERT OR REPLACE INTO moved_source (vm, former, source, since) VALUES (?, ?, ?, ?)"
_SEPARATOR = "\n"
"""In no address."""


def read_moved_sources(connection: Connection) -> dict[str, MovedSource]:
    """All of them, by VM. SenselessRowError."""
    rows = connection.execute(_READ).fetchall()
    found = [
        MovedSource(as_text(vm), tuple(as_text(former).split(_SEPARATOR)), as_text(source), as_time(since))
        for vm, former, source, since in rows
    ]
    return {one.vm: one for one in found}


def save(connection: Connection, moved: MovedSource) -> None:
    """Put it in the place of the one there was."""
    former = _SEPARATOR.join(moved.former)
    connection.execute(_SAVE, (moved.vm, former, moved.source, to_microseconds(moved.since)))


def moved_sources_in(path: Path) -> dict[str, MovedSource]:
    """Those in the catalog at `path`, which is not changed; none if it is not there, or is of before there were any.
    SenselessRowError, sqlite3.Error."""
    if not path.exists():
        return {}
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
        known = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'moved_source'").fetchone()[0]
        return read_moved_sources(connection) if known else {}
