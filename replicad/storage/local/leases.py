"""Hearing at once that somebody wants to write a file that we hold: who waits for a lease waits as long as we do.

The kernel tells it by a signal. That goes to one thread, which keeps it blocked and waits for it, so that neither the
rest of this process nor what it starts has anything to do with signals.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable

_IDLE_S = 1.0
# Ignored by default, if it ever goes astray. Those that are queued would become SIGIO, which ends the process, as soon
# as there are too many of them.
_SIGNAL = getattr(signal, "SIGURG", None)


class LeaseWatch:
    """Calls everybody who holds a lease when the kernel says that somebody waits for one. Its thread lives as long as
    there is anything to watch, and a second more."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._looks: set[Callable[[], None]] = set()
        self._users = 0
        self._thread_id: int | None = None

    def enter(self) -> int | None:
        """The thread that signals of leases are to be sent to from now on, until `leave`; None where there is none."""
        with self._guard:
            self._users += 1
            if self._thread_id is None and _SIGNAL is not None and hasattr(signal, "sigtimedwait"):
                told = threading.Event()
                thread = threading.Thread(target=self._run, args=(told,), name="local-leases", daemon=True)
                with contextlib.suppress(RuntimeError):  # no more threads are to be had: leases are looked at in turns
                    thread.start()
                    told.wait()
            return self._thread_id

    def leave(self) -> None:
        """As often as `enter`."""
        with self._guard:
            self._users -= 1

    def add(self, look: Callable[[], None]) -> None:
        """Have it called whenever a lease may be wanted, on the watching thread. It must be quick and never raise."""
        with self._guard:
            self._looks.add(look)

    def discard(self, look: Callable[[], None]) -> None:
        """Call it no more; once more, if that has begun already."""
        with self._guard:
            self._looks.discard(look)

    def _run(self, told: threading.Event) -> None:
        signals = {_SIGNAL} if _SIGNAL is not None else set()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        self._thread_id = threading.get_native_id()
        told.set()
        while True:
            found = signal.sigtimedwait(signals, _IDLE_S)
            with self._guard:
                if self._users == 0:
                    self._thread_id = None
                    return
                looks = list(self._looks) if found is not None else []
            for look in looks:
                look()


WATCH = LeaseWatch()
"""Of this process: signals are its business with the kernel, whichever share object leases were taken through."""
