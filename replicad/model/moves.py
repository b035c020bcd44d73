"""Moves: what is asked for, what is written down at each step, and what a crash leaves to be done. Pure.

A move takes the files of one virtual machine to other places. Until the switch is written down the source is what the
machine uses, and nothing at it is touched; from then on it is the destination, unless the source shows that the machine
went on there. Which of the two it is never depends on what somebody remembers alone: it is looked up (`course_of`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from .points import FileKind

FORMAT_VERSION = 1
MAX_FREEZE_S = 5.0
MAX_ROUNDS = 30


class MovePhase(StrEnum):
    """How far a move is. What is written down is the phase that has begun."""

    WAITING = "waiting"
    """In the queue, or for the time that it was put off to."""
    PREPARE = "prepare"
    """Everything that can be known beforehand is looked at; nothing is written but the move's own directory."""
    BULK = "bulk"
    PRECOPY = "precopy"
    CUTOVER = "cutover"
    """The machine is about to stand still, or does; the destination may lack the last changes."""
    SWITCHING = "switching"
    """The destination is complete, verified and durable, and is given its names; the machine is switched to it."""
    SWITCHED = "switched"
    """The machine uses the destination. What is left is to have the source out of the way."""
    RETIRED = "retired"
    """The source bears other names, and is kept until its time is over."""
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to be done."""
        return self in (MovePhase.DONE, MovePhase.CANCELLED, MovePhase.FAILED)

    @property
    def can_be_cancelled(self) -> bool:
        """Whether it is before the switch."""
        return self in _BEFORE_THE_SWITCH


_BEFORE_THE_SWITCH = frozenset(
    {MovePhase.WAITING, MovePhase.PREPARE, MovePhase.BULK, MovePhase.PRECOPY, MovePhase.CUTOVER}
)


class NoConvergence(StrEnum):
    """What to do when the machine writes faster than its changes can be sent."""

    ABORT = "abort"
    """Give the move up; the machine goes on at the source."""
    FREEZE = "freeze"
    """Let the machine stand still for as long as it takes."""


class SourceAfter(StrEnum):
    """What becomes of the source's files."""

    DELETE = "delete"
    KEEP = "keep"
    """They are renamed, and stay."""


class Proof(StrEnum):
    """What is read at both sides before the machine is switched, beside what travelled through us, which always is."""

    ALL = "all"
    SAMPLE = "sample"
    """Of what a server copied by itself, a random sample; all of it where one chunk of that differs."""


@dataclass(frozen=True, slots=True)
class MoveOptions:
    """How a move is to be done. `grace_s`: how long the renamed source stays before it is deleted."""

    max_freeze_s: float = MAX_FREEZE_S
    max_rounds: int = MAX_ROUNDS
    on_no_convergence: NoConvergence = NoConvergence.ABORT
    source_after: SourceAfter = SourceAfter.DELETE
    grace_s: int = 0
    proof: Proof = Proof.ALL
    bandwidth: str | None = None
    """A timetable as people type it, in bytes per second; for this move, beside what else holds."""
    priority: int = 0
    """Of those that wait the highest goes first, and of equals the oldest."""


@dataclass(frozen=True, slots=True)
class FileState:
    """What a file was at a moment: its size, the time that its share shows, and the digest of its manifest ("" where
    not all of it was read).

    Times prove nothing where a writer may have the file open (DESIGN §5). A file that differs in one has been touched;
    whether one that does not is the same, its bytes tell.
    """

    size_bytes: int
    write_time_ns: int
    digest: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """A file at the moment of the switch, at both sides. Their digests differ where a parent locator was rewritten."""

    source: FileState
    destination: FileState


@dataclass(frozen=True, slots=True)
class MovedFile:
    """One file of a move: `path` below the source, `target` below the place with the number `place`.

    Until the switch it lies in the move's own directory there, under its `number`. `is_shared`: others may use it (the
    parent of disks that stay): it is copied, and never touched at the source. `parent` is the path of the disk that its
    parent locator is to name afterwards, as it names it now. `sealed` is there from SWITCHING on. `is_switched`: the
    machine uses this one at the destination for good, whatever becomes of the others after a crash.
    """

    number: int
    path: str
    kind: FileKind
    place: int
    target: str
    size_bytes: int
    is_shared: bool = False
    parent: str | None = None
    sealed: Sealed | None = None
    is_switched: bool = False


@dataclass(frozen=True, slots=True)
class MoveRecord:
    """All that has to be known to go on with a move, or to take it back.

    `source` and `places` are addresses as people write them; the first place has the move's journal beside its files.
    `vm` is the name that the machine has here: that of the configuration, else the last part of its source.
    """

    id: str
    vm: str
    source: str
    places: tuple[str, ...]
    began: datetime
    options: MoveOptions = field(default_factory=MoveOptions)
    phase: MovePhase = MovePhase.WAITING
    files: tuple[MovedFile, ...] = ()
    made: tuple[tuple[int, str], ...] = ()
    """The directories that were missing at the destination: the number of the place, and the path below it."""
    made_places: tuple[int, ...] = ()
    """The numbers of the places that were missing themselves."""
    is_taken_back: bool = False
    """It was cancelled, and what it has brought is being removed: nobody goes on with it any more."""
    rounds: int = 0
    freeze_ms: float | None = None
    """How long the machine stood still, once it did."""
    retired: datetime | None = None
    """When the source was out of the way."""
    step: int = 0
    """How often it was written down: of two records the one with more is the later one."""
    format: int = FORMAT_VERSION

    @property
    def can_be_cancelled(self) -> bool:
        """Whether all of its files are still used at the source, and the switch has not begun."""
        return self.phase.can_be_cancelled and not any(file.is_switched for file in self.files)


class Side(StrEnum):
    """Where the machine uses one of its disks now."""

    SOURCE = "source"
    DESTINATION = "destination"
    NOBODY = "nobody"
    """Nobody uses it at either place, as far as can be told."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found of one sealed file after a crash. Each of the two says whether the bytes there may have changed
    since they were sealed; None: there is no such file."""

    side: Side
    source_changed: bool | None
    destination_changed: bool | None


class Course(StrEnum):
    """What to do with a sealed file after a crash."""

    FORWARD = "forward"
    """The destination is the machine's disk: finish the switch."""
    BACK = "back"
    """The source is: take the destination's name away again, and copy on."""
    ASK = "ask"
    """Somebody else did something that can't be told apart from a loss: nothing is touched."""


def course_of(looked: Looked) -> Course:
    """Which of two copies is the machine's disk, when a switch was cut short.

    Both were the same bytes when they were sealed, and the machine stood still. So the one that changed since, or is in
    use, is the one; if neither did either will do, and the destination is chosen. If both did, nobody knows.
    """
    source_changed, destination_changed = looked.source_changed, looked.destination_changed
    if looked.side is Side.SOURCE:
        return Course.ASK if destination_changed else Course.BACK
    if looked.side is Side.DESTINATION:
        return Course.ASK if source_changed else Course.FORWARD
    if destination_changed is None:
        return Course.ASK if source_changed is None else Course.BACK
    if source_changed:
        return Course.ASK if destination_changed else Course.BACK
    return Course.FORWARD


def courses_of(looked: Mapping[str, Looked]) -> dict[str, Course]:
    """The course of each file of a machine that nobody lets write meanwhile.

    Where the machine went on at the source with one disk it did with all that it has not written elsewhere since: those
    go back as well, so that they stay together.
    """
    courses = {path: course_of(one) for path, one in looked.items()}
    if Course.BACK in courses.values():
        for path, one in looked.items():
            undecided = one.side is Side.NOBODY and not one.destination_changed
            if courses[path] is Course.FORWARD and undecided and one.source_changed is not None:
                courses[path] = Course.BACK
    return courses
