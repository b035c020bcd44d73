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


ProgressEvent = PhaseStarted | Advanced | Warned
Observer = Callable[[ProgressEvent], None]


def nobody(event: ProgressEvent) -> None:
    """The observer that looks away."""
