"""Between the model and the rows of the catalog. Pure.

Times are whole microseconds since 1970 UTC; words are kept by their values. A word that this version does not know
(a later one wrote it) is read as the one that claims least.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeVar

from replicad.model.agenda import Agenda, LatestPoint
from replicad.model.points import Consistency
from replicad.model.runs import Failure, Outcome, Run, Severity, Trigger
from replicad.model.tracking_words import TrackerMistake

Value = int | str | None
Word = TypeVar("Word", bound=StrEnum)

MOST_TEXT = 1000
"""Characters that are kept of a failure's sentence."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

FAILURE_COLUMNS = ("failure_text", "failure_error", "failure_severity", "failure_at")
RUN_COLUMNS = (
    "triggered_by", "due_at", "started_at", "missed", "ended_at", "outcome", "kind", "point", "scanned_bytes",
    "changed_bytes", "sent_bytes", *FAILURE_COLUMNS, "undo_bytes", "consistency", "point_time", "provenance",
    "resumed", "attempts", "tracking",
)  # fmt: skip
AGENDA_COLUMNS = (
    "due_at", "retry_at", "requested_at", "resync_requested", "failures", *FAILURE_COLUMNS, "paused_at",
    "latest_number", "latest_time", "latest_consistency", "left_at", "mistake_point", "mistake_at", "mistake_text",
    "checked_point", "tracking",
)  # fmt: skip


class SenselessRowError(ValueError):
    """A row that nobody can have written: it is damaged."""


def to_microseconds(time: datetime) -> int:
    """An aware time as the catalog keeps it."""
    return (time - _EPOCH) // _MICROSECOND


def run_values(run: Run) -> tuple[Value, ...]:
    """What `RUN_COLUMNS` hold."""
    return (
        run.trigger, to_microseconds(run.due_at), to_microseconds(run.started_at), run.missed,
        optional_microseconds(run.ended_at), run.outcome, run.kind, run.point, run.scanned_bytes, run.changed_bytes,
        run.sent_bytes, *_failure_values(run.failure), run.undo_bytes, run.consistency,
        optional_microseconds(run.point_time), run.provenance, int(run.resumed), run.attempts,
        storable("\n".join(run.tracking)),
    )  # fmt: skip


def run_of(number: object, vm: object, row: Sequence[object]) -> Run:
    """The run in a row of `RUN_COLUMNS`. SenselessRowError."""
    trigger, due_at, started_at, missed, ended_at, outcome, kind, point, scanned, changed, sent, *rest = row
    failure, made = rest[: len(FAILURE_COLUMNS)], rest[len(FAILURE_COLUMNS) :]
    undo_bytes, consistency, point_time, provenance, resumed, attempts, tracking = made
    return Run(
        vm=as_text(vm),
        trigger=as_word(Trigger, trigger, Trigger.SCHEDULE),
        due_at=as_time(due_at),
        started_at=as_time(started_at),
        missed=as_integer(missed),
        ended_at=as_optional_time(ended_at),
        outcome=None if outcome is None else as_word(Outcome, outcome, Outcome.FAILED),
        kind=None if kind is None else as_text(kind),
        point=None if point is None else as_integer(point),
        scanned_bytes=as_integer(scanned),
        changed_bytes=as_integer(changed),
        sent_bytes=as_integer(sent),
        failure=_failure_of(failure),
        undo_bytes=as_integer(undo_bytes),
        consistency=None if consistency is None else as_word(Consistency, consistency, Consistency.FUZZY),
        point_time=as_optional_time(point_time),
        provenance=None if provenance is None else as_text(provenance),
        resumed=bool(as_integer(resumed)),
        attempts=None if attempts is None else as_integer(attempts),
        tracking=tuple(as_text(tracking).splitlines()),
        number=as_integer(number),
    )


def agenda_values(agenda: Agenda) -> tuple[Value, ...]:
    """What `AGENDA_COLUMNS` hold."""
    latest = agenda.latest
    return (
        optional_microseconds(agenda.due_at), optional_microseconds(agenda.retry_at),
        optional_microseconds(agenda.requested_at), int(agenda.resync_requested), agenda.failures,
        *_failure_values(agenda.failure), optional_microseconds(agenda.paused_at),
        *((None,) * 3 if latest is None else (latest.number, to_microseconds(latest.time), latest.consistency)),
        optional_microseconds(agenda.left_at), *_mistake_values(agenda.mistake), agenda.checked_point,
        storable("\n".join(agenda.tracking)),
    )  # fmt: skip


def agenda_of(vm: object, row: Sequence[object]) -> Agenda:
    """The agenda in a row of `AGENDA_COLUMNS`. SenselessRowError."""
    due_at, retry_at, requested_at, resync_requested, failures, *rest = row
    paused_at, number, time, consistency, left_at, *tracking = rest[len(FAILURE_COLUMNS) :]
    *mistake, checked_point, lines = tracking
    return Agenda(
        vm=as_text(vm),
        due_at=as_optional_time(due_at),
        retry_at=as_optional_time(retry_at),
        requested_at=as_optional_time(requested_at),
        resync_requested=bool(as_integer(resync_requested)),
        failures=as_integer(failures),
        failure=_failure_of(rest[: len(FAILURE_COLUMNS)]),
        paused_at=as_optional_time(paused_at),
        latest=None
        if number is None
        else LatestPoint(as_integer(number), as_time(time), as_word(Consistency, consistency, Consistency.FUZZY)),
        left_at=as_optional_time(left_at),
        mistake=_mistake_of(mistake),
        checked_point=as_integer(checked_point),
        tracking=tuple(as_text(lines).splitlines()),
    )


def _mistake_values(mistake: TrackerMistake | None) -> tuple[Value, ...]:
    if mistake is None:
        return (None,) * 3
    return (mistake.point, to_microseconds(mistake.at), storable(mistake.text))


def _mistake_of(row: Sequence[object]) -> TrackerMistake | None:
    point, at, text = row
    return None if point is None else TrackerMistake(as_integer(point), as_time(at), as_text(text))


def _failure_values(failure: Failure | None) -> tuple[Value, ...]:
    if failure is None:
        return (None,) * len(FAILURE_COLUMNS)
    return (storable(failure.text), failure.error, failure.severity, to_microseconds(failure.at))


def _failure_of(row: Sequence[object]) -> Failure | None:
    text, error, severity, at = row
    if text is None:
        return None
    return Failure(as_text(text), as_text(error), as_word(Severity, severity, Severity.LASTING), as_time(at))


def storable(text: str) -> str:
    """What SQLite takes of a sentence, and no more than `MOST_TEXT` of it."""
    # Names of local files that are no UTF-8 come with lone surrogates, which SQLite refuses.
    whole = text.encode(errors="backslashreplace").decode()
    return whole if len(whole) <= MOST_TEXT else whole[: MOST_TEXT - 1] + "…"


def optional_microseconds(time: datetime | None) -> int | None:
    """The same, where there may be none."""
    return None if time is None else to_microseconds(time)


def as_optional_time(value: object) -> datetime | None:
    """As `as_time`, where there may be none."""
    return None if value is None else as_time(value)


def as_time(value: object) -> datetime:
    """A time that was read. SenselessRowError."""
    try:
        return _EPOCH + timedelta(microseconds=as_integer(value))
    except OverflowError:
        raise SenselessRowError(f"{value} is no time") from None


def as_integer(value: object) -> int:
    """A number that was read. SenselessRowError."""
    if not isinstance(value, int):
        raise SenselessRowError("what must be a number is none")
    return value


def as_text(value: object) -> str:
    """Text that was read. SenselessRowError."""
    if not isinstance(value, str):
        raise SenselessRowError("what must be text is none")
    return value


def as_word(kind: type[Word], value: object, unknown: Word) -> Word:
    """A word that was read, or `unknown` if this version does not know it. SenselessRowError."""
    try:
        return kind(as_text(value))
    except SenselessRowError:
        raise
    except ValueError:
        return unknown
