"""Credits: how many requests a server lets a client have under way (MS-SMB2 §3.2.4.1.2)."""

from __future__ import annotations

import threading
from collections import deque


class CreditWindow(dict[str, int]):
    """smbprotocol's `sequence_window`, at which threads can wait for credits (MS-SMB2 §3.2.4.1.2).

    smbprotocol raises `high` as the server grants credits and `low` as requests use them, and raises an error if a
    request needs more than there are. Here a request reserves its credits first; raising `low` uses the reservation.
    """

    def __init__(self) -> None:
        super().__init__(low=0, high=1)
        self._changed = threading.Condition()
        self.waiting: deque[object] = deque()
        """Who waits, the first one first."""
        self._reserved = 0
        self._closed = False

    def __setitem__(self, key: str, value: int) -> None:
        with self._changed:
            if key == "low":
                self._reserved = max(0, self._reserved - (value - self["low"]))
            super().__setitem__(key, value)
            self._changed.notify_all()

    @property
    def available(self) -> int:
        """The credits that nobody has used or reserved."""
        return self["high"] - self["low"] - self._reserved

    def reserve(self, count: int, timeout_s: float) -> bool:
        """Wait for `count` credits and reserve them; False if they do not come in time or the connection ended.

        First come, first served: small requests must not keep large ones waiting for ever.
        """
        ticket = object()
        with self._changed:
            self.waiting.append(ticket)
            try:
                came = self._changed.wait_for(
                    lambda: self._closed or (self.waiting[0] is ticket and self.available >= count), timeout_s
                )
                if not came or self._closed:
                    return False
                self._reserved += count
                return True
            finally:
                self.waiting.remove(ticket)
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
