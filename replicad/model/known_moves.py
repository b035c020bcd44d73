"""Moves as this host remembers them: with what was ordered beside the record, and what became of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from .moves import MovePhase, MoveRecord

SHOWN_DIGITS = 8


@dataclass(frozen=True, slots=True)
class MoveOrder:
    """What can't be seen in a record that is not planned yet: which files go to which of its places, and who uses the
    disks where the configuration does not say so."""

    elsewhere: tuple[tuple[str, int], ...] = ()
    """Patterns, each with the number of the place that what fits goes to."""
    monitor: str | None = None
    """The path of the machine's QMP socket, where it was typed."""
    is_configured: bool = False
    """`vm` of the record is a machine of the configuration, and `source` is its source."""


@dataclass(frozen=True, slots=True)
class KnownMove:
    """A move that this host began, or is to begin, not before `due`; `error` is what its last attempt ended with."""

    record: MoveRecord
    order: MoveOrder = MoveOrder()
    due: datetime | None = None
    ended: datetime | None = None
    error: str | None = None

    @property
    def id(self) -> str:
        """That of the record."""
        return self.record.id

    @property
    def vm(self) -> str:
        """That of the record."""
        return self.record.vm

    @property
    def phase(self) -> MovePhase:
        """That of the record."""
        return self.record.phase


def as_wanted(move: KnownMove, wanted: KnownMove) -> KnownMove:
    """A move as far as it is, in the way that it is wanted now: with those options, that order, and not before then."""
    return replace(move, record=replace(move.record, options=wanted.record.options), order=wanted.order, due=wanted.due)


def shown_id(move_id: str) -> str:
    """What people see, and type, of a move's id."""
    return move_id[:SHOWN_DIGITS]


def with_prefix(moves: Iterable[KnownMove], prefix: str) -> Sequence[KnownMove]:
    """Those whose ids begin so, without regard to case; of an empty prefix none."""
    return [move for move in moves if prefix and move.id.startswith(prefix.lower())]
