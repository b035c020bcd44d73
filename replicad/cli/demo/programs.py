"""Running programs so that none outlives the demo, and ending the demo by a signal so that nothing is left behind."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from replicad.model.errors import PermanentError, TimedOutError

_TIMEOUT_S = 100.0
_END_TIMEOUT_S = 5.0


class Interruption:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, once, and never where that would lose something.

    After the first one no further signal keeps us from cleaning up, which takes seconds at most.
    """

    def __init__(self) -> None:
        self._deferring = False
        self._pending = False
        self._deaf = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals in this context. One that is ignored (as by nohup) stays so."""
        numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]  # Windows has no SIGHUP
        before = {n: signal.getsignal(n) for n in numbers if n is not None and signal.getsignal(n) != signal.SIG_IGN}
        for number in before:
            signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let what is made here be known to those who clean up, before an interruption is raised. Not to be nested."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self._pending:
            self._raise()

    def ignore(self) -> None:
        """From here on nothing is interrupted: it is cleaned up."""
        self._deaf = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._deferring:
            self._pending = True
        elif not self._deaf:
            self._raise()

    def _raise(self) -> None:
        self._deaf = True
        raise KeyboardInterrupt


def run_program(
    command: Sequence[str], interruption: Interruption, *, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and give what it said.

    PermanentError if it can't be started, TimedOutError after 100 seconds. It never outlives this call.
    """
    process: subprocess.Popen[str] | None = None
    try:
        with interruption.deferred():
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                cwd=cwd, env=env, encoding="utf-8", errors="replace",
            )  # fmt: skip
        out, err = process.communicate(timeout=_TIMEOUT_S)
    except OSError as error:
        raise PermanentError("start", command[0], error.strerror or type(error).__name__) from None
    except subprocess.TimeoutExpired:
        raise TimedOutError("run", command[0], f"it does not end within {_TIMEOUT_S:.0f} s") from None
    finally:
        if process is not None:
            _end(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _end(process: subprocess.Popen[str]) -> None:
    """Ask it to end, then kill it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
