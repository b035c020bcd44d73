"""What the API takes and gives, as JSON. Times are in UTC; the texts below keys become the descriptions of OpenAPI."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from replicad.model.health import Health, State
from replicad.model.points import Change, Consistency, CycleKind, DiskState, FileKind, Provenance, RecoveryPoint
from replicad.model.retention import Keep, PointFacts, judge
from replicad.model.runs import Outcome, Run, Severity, Trigger
from replicad.model.statistics import Statistics
from replicad.model.tracking_words import TrackerMistake, trust_facts
from replicad.model.verification import VerificationOutcome, VerificationResult
from replicad.service.control import MachineView
from replicad.service.kept_clones import KeptRoom
from replicad.service.point_lists import KnownPoints
from replicad.service.watch import Progress


class Shape(BaseModel):
    """Immutable, and without keys that are not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ErrorShape(Shape):
    """Why something was not done."""

    kind: str
    """The name of the error's class."""
    text: str
    """A sentence; for a configuration one line for each thing that is wrong."""
    exit_code: int
    """What the command line ends with."""


class ErrorBody(Shape):
    """Any answer that is not the one that was wanted."""

    error: ErrorShape


class PointShape(Shape):
    """The latest recovery point, as the daemon knows it."""

    number: int
    time: datetime
    consistency: Consistency


class ProgressShape(Shape):
    """How far a cycle is in its phase."""

    phase: str
    done_bytes: int
    sent_bytes: int
    total_bytes: int | None
    """null: not known."""


class RunBegunShape(Shape):
    """A cycle that is under way."""

    number: int
    """0 as long as it is not written down."""
    trigger: Trigger
    started_at: datetime
    due_at: datetime
    missed: int
    """How many due times it stands for beside its own."""


class StatisticsShape(Shape):
    """What cycles came to since a moment. Averages are null if no cycle was done."""

    since: datetime
    done: int
    failed: int
    interrupted: int
    missed: int
    average_sent_bytes: int | None
    largest_sent_bytes: int
    average_duration_s: float | None
    longest_duration_s: float | None
    rpo_kept_percent: float | None
    """In how much of the time the latest point was no older than the objective; null without one."""


class VerificationShape(Shape):
    """What the last verification of the replica came to."""

    at: datetime
    """When it ended."""
    outcome: VerificationOutcome
    """`failed`: it could not be done."""
    text: str | None
    """What was found, or what failed; null: nothing to say."""


class VerifiedShape(VerificationShape):
    """The same, of a machine."""

    vm: str


class MistakeShape(Shape):
    """A tracker of changes was found wrong."""

    point: int
    """In the cycle of this point, which is right."""
    at: datetime
    text: str
    """About which disk, and what."""


class KeptClonesShape(Shape):
    """What the clones take that are kept at a source."""

    bytes: int
    """That no other file has a share in: what their removal gives back, at least."""
    at: datetime
    """When that was looked at."""


class MachineShape(Shape):
    """One virtual machine as it stands now."""

    vm: str
    state: State
    health: Health
    reasons: list[str]
    """What keeps health from being normal, the worst first."""
    last_point: PointShape | None
    lag_s: int | None
    """The latest point's age."""
    rpo_s: int | None
    """How old it may become; null: no objective."""
    progress: ProgressShape | None
    """Of the cycle under way."""
    next_run: datetime | None
    """In the past if a cycle waits for a place; null: none will begin by itself."""
    paused_since: datetime | None
    run: RunBegunShape | None
    """The cycle under way."""
    warnings: list[str]
    """Of the cycle under way, or of the last one."""
    statistics: StatisticsShape
    """Of the last day."""
    verification: VerificationShape | None
    """The last one; null: there was none yet."""
    verifying: ProgressShape | None
    """Of the verification that has begun."""
    next_verification: datetime | None
    """In the past if one waits for its turn; null: none will begin by itself."""
    tracking: list[str]
    """How the last cycle that was done knew what had changed, and how far that was checked."""
    mistake: MistakeShape | None
    """The last one that nobody has acknowledged; null: there is none."""
    kept_clones: KeptClonesShape | None
    """null: there can be none, or it is not known."""


class FailureShape(Shape):
    """An error that a cycle ended with."""

    text: str
    error: str
    severity: Severity
    at: datetime


class RunShape(Shape):
    """A cycle. `ended_at` and `outcome` are null while it is under way; `kind`, `point` and what is told of it are of
    one that is done."""

    number: int
    vm: str
    trigger: Trigger
    due_at: datetime
    started_at: datetime
    ended_at: datetime | None
    outcome: Outcome | None
    missed: int
    kind: str | None
    point: int | None
    scanned_bytes: int
    changed_bytes: int
    sent_bytes: int
    undo_bytes: int
    consistency: Consistency | None
    """Of the point; null of cycles that an older version ran, as what follows."""
    point_time: datetime | None
    provenance: str | None
    """How it was known what may have changed."""
    resumed: bool
    """Whether it went on with an earlier one."""
    attempts: int | None
    """How often it was begun."""
    tracking: list[str]
    """The same in words, with what came of checking it."""
    failure: FailureShape | None


class RunsShape(Shape):
    """A page of the history, the newest first."""

    runs: list[RunShape]
    next_before: int | None
    """`before` of the next page; null: this is the last one."""


class TrustShape(Shape):
    """What came of looking at some of what a tracker called unchanged."""

    checked_chunks: int
    unchanged_chunks: int
    """How many there were to choose from."""
    wrong_chunks: int
    """How many of those that were checked had changed: then all of the disk was read."""
    tracker: Provenance | None
    """The one that was wrong."""


class DiskShape(Shape):
    """A disk, or a configuration file, as a point holds it."""

    path: str
    kind: FileKind
    size_bytes: int
    change: Change
    """What the point's cycle did to it."""
    provenance: Provenance
    """How it was known what may have changed."""
    note: str
    """Why no tracker of changes was believed; empty where that needs no word."""
    trust: TrustShape | None
    """null: no tracker was believed, or found wrong."""


class RecoveryPointShape(Shape):
    """A recovery point as the replica has it."""

    number: int
    time: datetime
    kind: CycleKind
    consistency: Consistency
    changed_bytes: int
    sent_bytes: int
    undo_bytes: int
    """How long the undo logs are that lead to the point before."""
    disks: list[DiskShape]
    removed: list[str]
    """Disks that the point before had."""
    kept_by: list[str]
    """What keeps it, in words; empty: the next cycle removes it."""
    warnings: list[str]


class PointsShape(Shape):
    """All recovery points, the oldest first."""

    points: list[RecoveryPointShape]
    pending: int | None
    """The number of a cycle that was under way or interrupted."""
    read_at: datetime
    """When the replica was looked at."""


def machine_shape(view: MachineView) -> MachineShape:
    """A machine as it is told."""
    latest, run, stands = view.agenda.latest, view.run, view.standing
    return MachineShape(
        vm=view.vm,
        state=stands.state,
        health=stands.health,
        reasons=list(stands.reasons),
        last_point=PointShape(number=latest.number, time=latest.time, consistency=latest.consistency)
        if latest
        else None,
        lag_s=stands.lag_s,
        rpo_s=view.rpo_s,
        progress=progress_shape(view.progress) if view.progress else None,
        next_run=view.next_run,
        paused_since=view.agenda.paused_at,
        run=RunBegunShape(
            number=run.number, trigger=run.trigger, started_at=run.started_at, due_at=run.due_at, missed=run.missed
        )
        if run
        else None,
        warnings=list(view.warnings),
        statistics=_statistics_shape(view.statistics),
        verification=verification_shape(view.verification.last) if view.verification.last else None,
        verifying=progress_shape(view.verifying) if view.verifying else None,
        next_verification=view.verification.wanted_at if view.agenda.paused_at is None else None,
        tracking=list(view.agenda.tracking),
        mistake=_mistake_shape(view.agenda.mistake),
        kept_clones=_kept_clones_shape(view.kept_clones),
    )


def _kept_clones_shape(kept: KeptRoom | None) -> KeptClonesShape | None:
    return None if kept is None else KeptClonesShape(bytes=kept.kept_bytes, at=kept.at)


def _mistake_shape(mistake: TrackerMistake | None) -> MistakeShape | None:
    return None if mistake is None else MistakeShape(point=mistake.point, at=mistake.at, text=mistake.text)


def verification_shape(result: VerificationResult) -> VerificationShape:
    """What a verification came to, as it is told."""
    return VerificationShape(at=result.at, outcome=result.outcome, text=result.text)


def progress_shape(progress: Progress) -> ProgressShape:
    """The progress of a cycle as it is told."""
    return ProgressShape(
        phase=progress.phase,
        done_bytes=progress.done_bytes,
        sent_bytes=progress.sent_bytes,
        total_bytes=progress.total_bytes,
    )


def run_shape(run: Run) -> RunShape:
    """A cycle as it is told."""
    failure = run.failure
    return RunShape(
        number=run.number,
        vm=run.vm,
        trigger=run.trigger,
        due_at=run.due_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
        outcome=run.outcome,
        missed=run.missed,
        kind=run.kind,
        point=run.point,
        scanned_bytes=run.scanned_bytes,
        changed_bytes=run.changed_bytes,
        sent_bytes=run.sent_bytes,
        undo_bytes=run.undo_bytes,
        consistency=run.consistency,
        point_time=run.point_time,
        provenance=run.provenance,
        resumed=run.resumed,
        attempts=run.attempts,
        tracking=list(run.tracking),
        failure=FailureShape(text=failure.text, error=failure.error, severity=failure.severity, at=failure.at)
        if failure
        else None,
    )


def points_shape(known: KnownPoints, keep: Keep | None) -> PointsShape:
    """The points as they are told, with what the rules `keep` of each one."""
    verdicts = judge([PointFacts(p.number, p.time, p.pinned) for p in known.points], keep)
    return PointsShape(
        points=[_point_shape(point, verdict.kept_by) for point, verdict in zip(known.points, verdicts, strict=True)],
        pending=known.pending,
        read_at=known.read_at,
    )


def _point_shape(point: RecoveryPoint, kept_by: tuple[str, ...]) -> RecoveryPointShape:
    counted = point.statistics
    return RecoveryPointShape(
        number=point.number,
        time=point.time,
        kind=point.kind,
        consistency=point.consistency,
        changed_bytes=counted.changed_bytes,
        sent_bytes=counted.sent_bytes,
        undo_bytes=counted.undo_bytes,
        disks=[_disk_shape(disk) for disk in point.disks],
        removed=[removed.path for removed in point.removed],
        kept_by=list(kept_by),
        warnings=list(point.warnings),
    )


def _disk_shape(disk: DiskState) -> DiskShape:
    return DiskShape(
        path=disk.path,
        kind=disk.kind,
        size_bytes=disk.size_bytes,
        change=disk.change,
        provenance=disk.provenance,
        note=disk.note,
        trust=None if disk.trust is None else TrustShape(**trust_facts(disk.trust)),
    )


def _statistics_shape(counted: Statistics) -> StatisticsShape:
    return StatisticsShape(
        since=counted.since,
        done=counted.done,
        failed=counted.failed,
        interrupted=counted.interrupted,
        missed=counted.missed,
        average_sent_bytes=counted.average_sent_bytes,
        largest_sent_bytes=counted.largest_sent_bytes,
        average_duration_s=counted.average_duration_s,
        longest_duration_s=counted.longest_duration_s,
        rpo_kept_percent=counted.rpo_kept_percent,
    )


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What else than the wanted answer there may be, for OpenAPI."""
    return {status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in statuses}


_MEANINGS = {
    400: "What was asked, or the configuration, is wrong.",
    401: "The token is missing or wrong (TCP only).",
    403: "It was asked under another name, or by a page of another origin.",
    404: "There is no such machine.",
    405: "Not by this method.",
    409: "It does not go with how the machine stands.",
    411: "A body without its length.",
    413: "The body is too long.",
    422: "A value is not what it must be.",
    500: "A defect; the log has the details.",
    502: "The replica can't be read.",
    503: "The daemon is stopping, busy, or its catalog can't be read just now.",
}
