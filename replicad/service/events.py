"""What happens in the daemon, for all who want to hear of it: logs, hooks, figures, whoever watches. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from replicad.model.agenda import Agenda
from replicad.model.known_moves import KnownMove
from replicad.model.runs import Run
from replicad.model.verification import VerificationResult


@dataclass(frozen=True, slots=True)
class CycleBegan:
    """A cycle is under way."""

    run: Run


@dataclass(frozen=True, slots=True)
class CycleEnded:
    """A cycle came to its end, and left this agenda."""

    run: Run
    agenda: Agenda


@dataclass(frozen=True, slots=True)
class VerificationBegan:
    """A machine's replica is being read back."""

    vm: str


@dataclass(frozen=True, slots=True)
class VerificationEnded:
    """What came of that."""

    vm: str
    result: VerificationResult


@dataclass(frozen=True, slots=True)
class MachineChanged:
    """A machine was paused, resumed, acknowledged, added, removed, or got another schedule."""

    vm: str


@dataclass(frozen=True, slots=True)
class MoveBegan:
    """A move is worked on."""

    move: KnownMove


@dataclass(frozen=True, slots=True)
class MoveStopped:
    """A move came to its end, or as far as it comes now: its phase and its error say how. `is_tried_again`: after that
    error, by itself."""

    move: KnownMove
    is_tried_again: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that an administrator should know, in a sentence, and lines of details for a log; of one machine, or of
    the daemon as a whole."""

    vm: str | None
    text: str
    details: str = ""


Event = (
    CycleBegan | CycleEnded | VerificationBegan | VerificationEnded | MachineChanged | MoveBegan | MoveStopped | Trouble
)
