"""One call under way on a thread, and the caller's buffer that is lent to it."""

from __future__ import annotations

import threading
from types import TracebackType

from .failures import ConnectionLostError


class Job:
    """One call under way on a thread. Whoever works in it looks at `abandoned` before each step."""

    __slots__ = ("_guard", "_returned", "abandoned")

    def __init__(self) -> None:
        self.abandoned = False
        self._returned = False
        self._guard = threading.Lock()

    def abandon(self) -> None:
        """Begin nothing more."""
        self.abandoned = True

    def lend(self) -> Loan:
        """The right to touch the caller's buffer, for what works on it."""
        return Loan(self, self._guard)

    def take_back(self) -> None:
        """On return the buffers are the caller's alone, whatever still runs. Waits at most for one piece to be
        copied. To be called only when nothing is under way, or on a connection that was given up."""
        with self._guard:
            self._returned = True

    @property
    def returned(self) -> bool:
        """Whether all buffers are the caller's again."""
        return self._returned


class Loan:
    """The caller's buffer is touched only inside `with loan`, and nothing inside waits for anybody.

    ConnectionLostError on entering, once the buffer is the caller's again. That happens with requests still under
    way only if their connection was given up, so whoever meets it may end the connection.
    """

    __slots__ = ("_ended", "_guard", "_job")

    def __init__(self, job: Job, guard: threading.Lock) -> None:
        self._job = job
        self._guard = guard
        self._ended = False

    def end(self) -> None:
        """Give the buffer back. On return nobody touches it any more."""
        with self._guard:
            self._ended = True

    def __enter__(self) -> None:
        self._guard.acquire()
        if self._ended or self._job.returned:
            self._guard.release()
            raise ConnectionLostError("the buffer was given back")

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guard.release()


class AbandonedError(Exception):
    """The call was cancelled; nobody waits for it any more."""
