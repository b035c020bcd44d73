"""How long something is tried again while nothing gets on. Pure: the caller says what time it is."""

from __future__ import annotations

from dataclasses import dataclass

_MOST_DOUBLINGS = 32


@dataclass(frozen=True, slots=True)
class Patience:
    """Pauses double from `first_pause_s` to `longest_pause_s`.

    It ends after `failures` failures in a row, but not before `seconds` seconds have passed since the first of them:
    tries that fail at once get the time, and tries that take long get the number.
    """

    first_pause_s: float
    longest_pause_s: float
    failures: int
    seconds: float

    def pause_s(self, failures: int, elapsed_s: float) -> float | None:
        """How long to wait after that many failures in a row, the first of them `elapsed_s` ago; None: give up."""
        pause_s = min(self.first_pause_s * (1 << min(failures - 1, _MOST_DOUBLINGS)), self.longest_pause_s)
        if failures < self.failures:
            return pause_s
        left_s = self.seconds - elapsed_s
        return min(pause_s, left_s) if left_s > 0 else None


class Failures:
    """Failures in a row: since the last time that anything got on."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._since_s = 0.0
        self.count = 0

    def another(self, now_s: float) -> float | None:
        """One more, at `now_s` of a steady clock: the pause before the next try, or None to give up."""
        if self.count == 0:
            self._since_s = now_s
        self.count += 1
        return self._patience.pause_s(self.count, now_s - self._since_s)

    def forget(self) -> None:
        """Something got on."""
        self.count = 0
