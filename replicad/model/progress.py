"""What long work tells whoever watches it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """A new phase began. `total_bytes` is what its `Advanced` events will add up to, where known."""

    name: str
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Advanced:
    """`done_bytes` more of the phase are done, of which `sent_bytes` travelled to the other side."""

    done_bytes: int
    sent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that the user should know and that did not stop the work. One sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class Alarmed(Warned):
    """The same, and somebody should know at once: it is in the log wherever warnings go."""


@dataclass(frozen=True, slots=True)
class Said:
    """A line that a program of the user's printed for a machine, for the log. It is printable, and not too long."""

    vm: str
    program: str
    line: str


@dataclass(frozen=True, slots=True)
class FreezePredicted:
    """After so many rounds of a move: how long its machine would stand still if it were switched now, in seconds."""

    rounds: int
    freeze_s: float


ProgressEvent = PhaseStarted | Advanced | Warned | Said | FreezePredicted
Observer = Callable[[ProgressEvent], None]


def nobody(event: ProgressEvent) -> None:
    """The observer that looks away."""


def each_warning_once(observe: Observer) -> Observer:
    """For work that finds the same to warn of several times."""
    said: set[str] = set()

    def tell(event: ProgressEvent) -> None:
        if isinstance(event, Warned):
            if event.text in said:
                return
            said.add(event.text)
        observe(event)

    return tell


def warn_once(observe: Observer) -> Callable[[str], None]:
    """What takes sentences to warn of, and tells each of them once."""
    once = each_warning_once(observe)
    return lambda text: once(Warned(text))
