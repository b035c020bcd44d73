"""What is heard of the daemon's work, told on as if it were done here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replicad.model.progress import Advanced, Observer, PhaseStarted, Warned


class Heard:
    """Tells `observe`; `warnings` are all that were heard."""

    def __init__(self, observe: Observer) -> None:
        self.warnings: list[str] = []
        self._observe = observe
        self._phase: tuple[str, int | None] | None = None
        self._done_bytes = self._sent_bytes = 0

    def warning(self, text: str) -> None:
        """A sentence."""
        self.warnings.append(text)
        self._observe(Warned(text))

    def progress(self, progress: Mapping[str, Any]) -> None:
        """How far it is, which may be less than before: then it was begun again."""
        done, sent = progress["done_bytes"], progress["sent_bytes"]
        begun_again = done < self._done_bytes or sent < self._sent_bytes
        self.enter(progress["phase"], progress["total_bytes"], again=begun_again)
        if (done, sent) != (self._done_bytes, self._sent_bytes):
            self._observe(Advanced(done - self._done_bytes, sent - self._sent_bytes))
            self._done_bytes, self._sent_bytes = done, sent

    def enter(self, phase: str, total_bytes: int | None, *, again: bool = False) -> None:
        """It is in this phase."""
        if self._phase == (phase, total_bytes) and not again:
            return
        self._phase = phase, total_bytes
        self._done_bytes = self._sent_bytes = 0
        self._observe(PhaseStarted(phase, total_bytes))
