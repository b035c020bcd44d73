"""The moves that this host knows of, in the catalog. Blocking, each within the caller's transaction.

A record is kept as JSON, since it is read as a whole; what a list of moves is looked through by has its columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection

from pydantic import TypeAdapter, ValidationError

from replicad.model.known_moves import KnownMove, MoveOrder
from replicad.model.moves import MoveRecord

from .rows import SenselessRowError, as_optional_time, as_text, optional_microseconds, storable, to_microseconds

_COLUMNS = ("id", "vm", "phase", "priority", "due_at", "began_at", "ended_at", "error", "record", "ordered")
_READ = "SELECT due_at, ended_at, error, record, ordered FROM move ORDER BY began_at, id"
_SAVE = f"INSERT OR REPLACE INTO move ({', '.join(_COLUMNS)}) VALUES (?{', ?' * (len(_COLUMNS) - 1)})"  # noqa: S608 - our own columns
_FORGET = """
    DELETE FROM move WHERE ended_at IS NOT NULL AND id NOT IN (
        SELECT id FROM move WHERE ended_at IS NOT NULL ORDER BY ended_at DESC, id LIMIT ?
    )
"""
_RECORDS: TypeAdapter[MoveRecord] = TypeAdapter(MoveRecord)
_ORDERS: TypeAdapter[MoveOrder] = TypeAdapter(MoveOrder)


def read_moves(connection: Connection) -> tuple[KnownMove, ...]:
    """All of them, the oldest first. SenselessRowError."""
    return tuple(_move_of(row) for row in connection.execute(_READ))


def save(connection: Connection, move: KnownMove, most_ended: int) -> None:
    """Put it in the place of the one there was. Of those that have ended `most_ended` stay, the latest."""
    record = move.record
    connection.execute(
        _SAVE,
        (
            record.id, storable(record.vm), record.phase, record.options.priority, optional_microseconds(move.due),
            to_microseconds(record.began), optional_microseconds(move.ended),
            None if move.error is None else storable(move.error),
            _RECORDS.dump_json(record).decode(), _ORDERS.dump_json(move.order).decode(),
        ),
    )  # fmt: skip
    if move.ended is not None:
        connection.execute(_FORGET, (most_ended,))


def _move_of(row: Sequence[object]) -> KnownMove:
    due, ended, error, record, ordered = row
    try:
        return KnownMove(
            _RECORDS.validate_json(as_text(record)),
            _ORDERS.validate_json(as_text(ordered)),
            as_optional_time(due),
            as_optional_time(ended),
            None if error is None else as_text(error),
        )
    except ValidationError:
        raise SenselessRowError("what must be the record of a move is none") from None
