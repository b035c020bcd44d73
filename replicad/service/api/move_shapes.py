"""Moves as the API and the command line give them, as JSON. Times are in UTC."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from replicad.model.address import parse_address
from replicad.model.known_moves import KnownMove
from replicad.model.moves import MovePhase, SourceAfter
from replicad.model.points import FileKind
from replicad.workflows.move_retiring import deletion_due


class _Shape(BaseModel):
    """Immutable, and without keys that are not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class MovedFileShape(_Shape):
    """One file of a move."""

    path: str
    """Below the source."""
    to: str
    """Where it is, or will be, at the destination."""
    kind: FileKind
    size_bytes: int
    is_shared: bool
    """Others may need it at the source as well: it is copied, and stays there."""


class MoveShape(_Shape):
    """A move, as far as it is."""

    id: str
    """32 hexadecimal digits; any first ones that no other move has do as well."""
    vm: str
    source: str
    places: tuple[str, ...]
    """The directories that files go to; the first one has the machine's directory."""
    phase: MovePhase
    priority: int
    began: datetime
    due: datetime | None
    """It is not begun before then."""
    ended: datetime | None
    rounds: int
    """How often the disks were gone through before the machine stood still."""
    freeze_s: float | None
    """How long the machine stood still."""
    source_after: SourceAfter
    source_deleted_after: datetime | None
    """The source's files have other names until then; null where they are not to be deleted, or were."""
    error: str | None
    """What the last attempt at it ended with."""
    files: tuple[MovedFileShape, ...]

    @classmethod
    def of(cls, move: KnownMove) -> MoveShape:
        """From what this host remembers."""
        record = move.record
        places = [parse_address(place) for place in record.places]
        waits = record.phase is MovePhase.RETIRED and record.options.source_after is SourceAfter.DELETE
        return cls(
            id=record.id,
            vm=record.vm,
            source=record.source,
            places=record.places,
            phase=record.phase,
            priority=record.options.priority,
            began=record.began,
            due=move.due,
            ended=move.ended,
            rounds=record.rounds,
            freeze_s=None if record.freeze_ms is None else record.freeze_ms / 1000,
            source_after=record.options.source_after,
            source_deleted_after=deletion_due(record) if waits else None,
            error=move.error,
            files=tuple(
                MovedFileShape(
                    path=file.path,
                    to=str(places[file.place].child(*file.target.split("/"))),
                    kind=file.kind,
                    size_bytes=file.size_bytes,
                    is_shared=file.is_shared,
                )
                for file in record.files
            ),
        )
