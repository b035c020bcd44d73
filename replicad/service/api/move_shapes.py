"""Moves as the API and the command line give them, as JSON. Times are in UTC."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from replicad.model.address import Address, parse_address
from replicad.model.errors import ConfigError
from replicad.model.known_moves import KnownMove
from replicad.model.moves import (
    MAX_FREEZE_S,
    MAX_ROUNDS,
    MoveOptions,
    MovePhase,
    NoConvergence,
    Proof,
    SourceAfter,
)
from replicad.model.points import FileKind
from replicad.service.moving.orders import Wanted
from replicad.service.moving.queue import MoveView
from replicad.settings.problems import WrongError
from replicad.settings.timetable import parse_timetable
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
            freeze_s=None if record.freeze_ms is None else round(record.freeze_ms / 1000, 4),
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


class MoveProgressShape(_Shape):
    """How far a move is in its phase."""

    phase: str
    done_bytes: int
    sent_bytes: int
    total_bytes: int | None


class MoveViewShape(_Shape):
    """A move, and what the daemon does with it now."""

    move: MoveShape
    progress: MoveProgressShape | None
    """Null while nobody works on it."""
    predicted_freeze_s: float | None
    """How long its machine would stand still if it were switched now."""
    retry_at: datetime | None
    """When it is tried again, after something that may go well later."""

    @classmethod
    def seen(cls, view: MoveView) -> MoveViewShape:
        """From what the queue shows."""
        p = view.progress
        return cls(
            move=MoveShape.of(view.move),
            progress=None
            if p is None
            else MoveProgressShape(
                phase=p.phase, done_bytes=p.done_bytes, sent_bytes=p.sent_bytes, total_bytes=p.total_bytes
            ),
            predicted_freeze_s=view.freeze_s,
            retry_at=view.retry_at,
        )


class MovesShape(_Shape):
    """Several moves."""

    moves: tuple[MoveViewShape, ...]


class MoveOrderShape(_Shape):
    """What is to be moved where."""

    source: str = Field(min_length=1, max_length=4096)
    """A machine's name, the address of its directory, or a pattern of either."""
    destination: str = Field(min_length=1, max_length=4096)
    """The machine's new directory; with a pattern each machine has one of its own below it."""
    disks: tuple[tuple[str, str], ...] = Field(default=(), max_length=100)
    """Patterns of disks, each with the directory for what fits."""
    max_freeze_s: float = Field(default=MAX_FREEZE_S, gt=0, le=600)
    max_rounds: int = Field(default=MAX_ROUNDS, ge=1, le=1000)
    on_no_convergence: NoConvergence = NoConvergence.ABORT
    source_after: SourceAfter = SourceAfter.DELETE
    grace_s: int = Field(default=0, ge=0, le=10 * 366 * 86_400)
    proof: Proof = Proof.ALL
    """What is read back, before the switch, of what a server copied by itself."""
    monitor: str | None = Field(default=None, max_length=4096)
    """The path of the machine's QMP socket, where the configuration does not say it."""
    bandwidth: str | None = Field(default=None, max_length=4096)
    """A timetable as in the configuration."""
    priority: int = Field(default=0, ge=-100, le=100)
    at: AwareDatetime | None = None
    """It is not begun before then."""

    @field_validator("at", mode="before")
    @classmethod
    def _is_written_out(cls, value: object) -> object:
        """A number would be taken for seconds since 1970."""
        if value is not None and (not isinstance(value, str) or "T" not in value.upper().replace(" ", "T")):
            raise ValueError("write a time such as 2026-11-30T01:00:00+01:00")
        return value

    def wanted(self, read: Callable[[str], Address]) -> Wanted:
        """As the queue takes it. ConfigError for what can't be read."""
        try:
            if self.bandwidth is not None:
                parse_timetable(self.bandwidth)
        except WrongError as error:
            raise ConfigError("take", "the bandwidth of a move", str(error)) from None
        options = MoveOptions(
            max_freeze_s=self.max_freeze_s,
            max_rounds=self.max_rounds,
            on_no_convergence=self.on_no_convergence,
            source_after=self.source_after,
            grace_s=self.grace_s,
            proof=self.proof,
            bandwidth=self.bandwidth,
            priority=self.priority,
        )
        disks = tuple((pattern, read(place)) for pattern, place in self.disks)
        return Wanted(read(self.destination), disks, options, self.monitor)
