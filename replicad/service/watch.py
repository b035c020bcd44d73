"""One cycle under way, as seen from outside: how far it is, and whether it still moves."""

from __future__ import annotations

from dataclasses import dataclass, field

from replicad.model.progress import Advanced, PhaseStarted, ProgressEvent, Warned
from replicad.storage.metered import Meter

STALLED_AFTER_S = 20 * 60.0
"""Longer than any single call may take (a flush of a share: 15 minutes): then nobody is at work on it any more."""
_MOST_WARNINGS = 20


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a cycle is in its phase. `total_bytes` is None where it is not known."""

    phase: str
    done_bytes: int
    sent_bytes: int
    total_bytes: int | None


@dataclass(slots=True)
class Watch:
    """Hears what a cycle tells, and counts its calls on shares in `meter`: it moves as long as either gets on."""

    moved_s: float
    """When it moved last, on a steady clock."""
    meter: Meter = field(default_factory=Meter)
    phase: str = "starting"
    done_bytes: int = 0
    sent_bytes: int = 0
    total_bytes: int | None = None
    warnings: list[str] = field(default_factory=list)
    _seen: tuple[int, int] = (0, 0)
    _heard: int = 0

    def hear(self, event: ProgressEvent) -> None:
        """Something was told; a warning is no movement, nor is what a program says."""
        match event:
            case PhaseStarted(name, total_bytes):
                self.phase, self.total_bytes, self.done_bytes, self.sent_bytes = name, total_bytes, 0, 0
                self._heard += 1
            case Advanced(done_bytes, sent_bytes):
                self.done_bytes += done_bytes
                self.sent_bytes += sent_bytes
                self._heard += 1
            case Warned(text):
                if len(self.warnings) < _MOST_WARNINGS and text not in self.warnings:
                    self.warnings.append(text)

    def stands_still_s(self, now_s: float) -> float:
        """For how long nothing has moved, as far as those saw who asked this before."""
        seen = (self._heard, self.meter.calls.total())
        if seen != self._seen:
            self._seen, self.moved_s = seen, now_s
        return now_s - self.moved_s

    def progress(self) -> Progress:
        """A picture of now."""
        return Progress(self.phase, self.done_bytes, self.sent_bytes, self.total_bytes)
