"""A token bucket: how long to wait before the next bytes may travel. Pure; time is passed in, in seconds."""

from __future__ import annotations

BURST_S = 0.25
"""So much of a second's worth may travel at once after a pause, and is the most that one piece should be."""
LEAST_PIECE_BYTES = 64 * 1024
"""Pieces need not be smaller than this, however low the rate."""

_SLACK_S = 1e-6


class TokenBucket:
    """Lets bytes through at a rate, which is None for no limit.

    Whoever has waited `wait_s` takes what it needs, all at once, even if that is more than the bucket holds: the bytes
    are then owed, and the next one waits for longer. So in any stretch of time, at one rate, what is taken is at most
    that rate times its length, a burst of 0.25 s and one piece; from the beginning on, without the burst. The bucket is
    empty when a limit begins. `now_s` never runs backwards.
    """

    __slots__ = ("_as_of_s", "_balance_bytes", "_rate_bytes_per_s")

    def __init__(self, rate_bytes_per_s: int | None, now_s: float) -> None:
        self._rate_bytes_per_s = rate_bytes_per_s
        self._balance_bytes = 0.0
        self._as_of_s = now_s

    @property
    def rate_bytes_per_s(self) -> int | None:
        """The rate now."""
        return self._rate_bytes_per_s

    @property
    def piece_bytes(self) -> int | None:
        """The most to take at a time for the traffic to be smooth; None without a limit."""
        if self._rate_bytes_per_s is None:
            return None
        return max(LEAST_PIECE_BYTES, int(self._rate_bytes_per_s * BURST_S))

    def set_rate(self, rate_bytes_per_s: int | None, now_s: float) -> None:
        """Another rate, from now on and also for what is owed, which never takes longer than it would have."""
        before = self._rate_bytes_per_s
        if rate_bytes_per_s == before:
            return
        self._fill(now_s)
        self._rate_bytes_per_s = rate_bytes_per_s
        if before is None or rate_bytes_per_s is None:
            self._balance_bytes = 0.0
        elif self._balance_bytes < 0:
            self._balance_bytes *= min(1.0, rate_bytes_per_s / before)
        else:
            self._balance_bytes = min(self._balance_bytes, rate_bytes_per_s * BURST_S)

    def wait_s(self, now_s: float) -> float:
        """How long to wait before `take`; 0 for not at all."""
        self._fill(now_s)
        if self._rate_bytes_per_s is None or self._balance_bytes >= 0:
            return 0.0
        # A little more, or rounding could leave a part of a byte to wait for, again and again.
        return -self._balance_bytes / self._rate_bytes_per_s + _SLACK_S

    def take(self, count_bytes: int, now_s: float) -> None:
        """Take so many bytes, when there is nothing to wait for."""
        self._fill(now_s)
        if self._rate_bytes_per_s is not None:
            self._balance_bytes -= count_bytes

    def give_back(self, count_bytes: int) -> None:
        """So many of the bytes that were taken did not travel after all."""
        if self._rate_bytes_per_s is not None:
            self._balance_bytes = min(self._balance_bytes + count_bytes, self._rate_bytes_per_s * BURST_S)

    def _fill(self, now_s: float) -> None:
        if self._rate_bytes_per_s is not None:
            earned = (now_s - self._as_of_s) * self._rate_bytes_per_s
            self._balance_bytes = min(self._balance_bytes + earned, self._rate_bytes_per_s * BURST_S)
        self._as_of_s = now_s
