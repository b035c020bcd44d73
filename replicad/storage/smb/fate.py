"""What ends one of several connections ends all of them: at once, with one reason."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Fate:
    """Whether connections that stand or fall together are still of use. For any number of threads.

    It is decided once, by the first reason, and in one step for all of them: whoever learns that one is lost can be
    sure that no other one takes a request any more.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._reason = ""
        self._endings: tuple[Callable[[], None], ...] = ()

    @property
    def reason(self) -> str:
        """A clause that says why they are of no more use; empty while they are."""
        return self._reason

    def seal(self, reason: str) -> None:
        """Let nobody use them again. Never blocks."""
        with self._guard:
            self._reason = self._reason or reason
            endings = self._endings
        for end in endings:
            end()

    def join(self, end: Callable[[], None]) -> None:
        """One connection more. `end` wakes whoever waits on it; it must never block, and may be called often."""
        with self._guard:
            self._endings = (*self._endings, end)
            sealed = bool(self._reason)
        if sealed:
            end()
