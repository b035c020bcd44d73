"""The tables of the catalog, and how an older catalog becomes one of today."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from sqlite3 import Connection

APPLICATION_ID = int.from_bytes(b"rpld", "big")
"""Tells a catalog from other SQLite databases (`PRAGMA application_id`)."""

Migration = Sequence[str]
"""The statements that bring a catalog from one version to the next."""

_VERSION_1: Migration = (
    # `runs` counts the rows of `run`, so that nobody has to.
    """
    CREATE TABLE vm (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        runs INTEGER NOT NULL DEFAULT 0
    )
    """,
    """
    CREATE TABLE agenda (
        vm_id INTEGER PRIMARY KEY REFERENCES vm (id),
        due_at INTEGER,
        retry_at INTEGER,
        requested_at INTEGER,
        resync_requested INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        failure_text TEXT,
        failure_error TEXT,
        failure_severity TEXT,
        failure_at INTEGER,
        paused_at INTEGER,
        latest_number INTEGER,
        latest_time INTEGER,
        latest_consistency TEXT
    )
    """,
    # AUTOINCREMENT: the number of a run that was removed is never given again.
    """
    CREATE TABLE run (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        vm_id INTEGER NOT NULL REFERENCES vm (id),
        triggered_by TEXT NOT NULL,
        due_at INTEGER NOT NULL,
        started_at INTEGER NOT NULL,
        missed INTEGER NOT NULL,
        ended_at INTEGER,
        outcome TEXT,
        kind TEXT,
        point INTEGER,
        scanned_bytes INTEGER NOT NULL,
        changed_bytes INTEGER NOT NULL,
        sent_bytes INTEGER NOT NULL,
        failure_text TEXT,
        failure_error TEXT,
        failure_severity TEXT,
        failure_at INTEGER
    )
    """,
    # With the time, so that what began too early is passed over without a look at the table.
    "CREATE INDEX run_of_vm ON run (vm_id, number, started_at)",
    "CREATE INDEX run_by_start ON run (started_at)",
    "CREATE INDEX run_under_way ON run (number) WHERE outcome IS NULL",
    """
    CREATE TRIGGER run_added AFTER INSERT ON run BEGIN
        UPDATE vm SET runs = runs + 1 WHERE id = NEW.vm_id;
    END
    """,
    """
    CREATE TRIGGER run_removed AFTER DELETE ON run BEGIN
        UPDATE vm SET runs = runs - 1 WHERE id = OLD.vm_id;
    END
    """,
)

_VERSION_2: Migration = (
    # Since when the machine is not in the configuration any more.
    "ALTER TABLE agenda ADD COLUMN left_at INTEGER",
    "ALTER TABLE run ADD COLUMN undo_bytes INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE run ADD COLUMN consistency TEXT",
    "ALTER TABLE run ADD COLUMN point_time INTEGER",
    "ALTER TABLE run ADD COLUMN provenance TEXT",
    "ALTER TABLE run ADD COLUMN resumed INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE run ADD COLUMN attempts INTEGER",
    # All that statistics are counted from: with many VMs each run is on a page of its own, and this is five times as
    # fast as to fetch them.
    "CREATE INDEX run_figures ON run (vm_id, started_at, ended_at, outcome, missed, sent_bytes)",
)

_VERSION_3: Migration = (
    # By name, as what it says outlives the agenda and the history of a VM.
    """
    CREATE TABLE verification (
        vm TEXT PRIMARY KEY,
        due_at INTEGER,
        retry_at INTEGER,
        requested_at INTEGER,
        repair_requested INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        sound_at INTEGER,
        last_at INTEGER,
        last_outcome TEXT,
        last_text TEXT,
        last_damaged_chunks INTEGER,
        last_read_bytes INTEGER,
        last_duration_us INTEGER,
        damage_at INTEGER,
        damage_text TEXT,
        damage_chunks INTEGER,
        damage_read_bytes INTEGER,
        damage_duration_us INTEGER
    ) WITHOUT ROWID
    """,
)

_VERSION_4: Migration = (
    # What a tracker was wrong about, until somebody has seen it; up to which point that was looked for; and how the
    # last cycle knew what had changed, a line each.
    "ALTER TABLE agenda ADD COLUMN mistake_point INTEGER",
    "ALTER TABLE agenda ADD COLUMN mistake_at INTEGER",
    "ALTER TABLE agenda ADD COLUMN mistake_text TEXT",
    "ALTER TABLE agenda ADD COLUMN checked_point INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE agenda ADD COLUMN tracking TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE run ADD COLUMN tracking TEXT NOT NULL DEFAULT ''",
)

_VERSION_5: Migration = (
    # `record` and `ordered` are JSON.
    """
    CREATE TABLE move (
        id TEXT PRIMARY KEY,
        vm TEXT NOT NULL,
        phase TEXT NOT NULL,
        priority INTEGER NOT NULL,
        due_at INTEGER,
        began_at INTEGER NOT NULL,
        ended_at INTEGER,
        error TEXT,
        record TEXT NOT NULL,
        ordered TEXT NOT NULL
    ) WITHOUT ROWID
    """,
)

_VERSION_6: Migration = (
    # `former` are addresses, a line each.
    """
    CREATE TABLE moved_source (
        vm TEXT PRIMARY KEY,
        former TEXT NOT NULL,
        source TEXT NOT NULL,
        since INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
)

MIGRATIONS: Sequence[Migration] = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5, _VERSION_6)
"""The nth leads from version n to n + 1; version 0 is an empty file. Those that were released never change."""


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """All that is written within, or nothing. The right to write is taken at once, within the busy timeout: who first
    reads and then wants to write may find that somebody else wrote in between."""
    if connection.in_transaction:  # one that could not even be rolled back, on a failing disk
        connection.rollback()
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back after some errors
            connection.rollback()
        raise


def version_of(connection: Connection) -> int:
    """The version of the schema; 0: there is none yet."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring a catalog of any earlier version to the latest, in one transaction: after an error it is as it was."""
    if version_of(connection) == len(migrations):
        return
    with transaction(connection):
        # Read again: another process may have done it in the meantime.
        for migration in migrations[version_of(connection) :]:
            for statement in migration:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
