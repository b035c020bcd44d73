"""Programs of the user's, each in a session of its own, so that it ends with whatever it has started."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

P = TypeVar("P", bound=asyncio.SubprocessProtocol)

_LAST_OUTPUT_S = 1.0
_KILLED_WITHIN_S = 5.0
"""A killed program ends at once, unless the kernel holds it: in a file system that stands still, or does not answer."""
MAX_VARIABLE_BYTES = 32 << 10
"""What is longer is cut."""
# They are neither the service that systemd started, nor to be told our passwords.
_NOT_FOR_THEM = (
    "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "LISTEN_PID", "LISTEN_FDS",
    "CREDENTIALS_DIRECTORY",
)  # fmt: skip
_KEPT = ("REPLICAD_CONFIG",)


class NotStartedError(Exception):
    """A program can't be started; the text is a clause that says why."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended. `status` is negative for a signal, and None if it was ended by us at its time limit.

    `held`: the kernel did not let go of it when it was killed, and it ends when that does.
    """

    status: int | None
    timeout_s: float
    held: bool = False

    @property
    def failure(self) -> str | None:
        """What went wrong, as a clause; None if it ended well."""
        if self.held:
            return (
                f"it did not end within {self.timeout_s:g} s, and can't be ended: it waits for a file system that "
                "stands still or does not answer"
            )
        if self.status is None:
            return f"it did not end within {self.timeout_s:g} s, and was ended"
        if self.status < 0:
            return f"it was ended by signal {-self.status}"
        return f"it ended with status {self.status}" if self.status else None


async def run_program(
    arguments: Sequence[str],
    *,
    stdin: bytes,
    environ: Mapping[str, str],
    timeout_s: float,
    hear: Callable[[int, bytes], None],
    stderr_apart: bool = False,
) -> Ended:
    """Run a program without a shell to its end, or to the end of its time. NotStartedError.

    `hear` gets what it prints, piece by piece, with 1 for stdout and 2 for stderr where that is wanted apart; it must
    neither block nor raise. The program and whatever it starts in its process group never outlive this call, also when
    that is cancelled; what has left the group on purpose (setsid) is not held by it, and what the kernel holds is
    killed, and ends when that lets go of it.
    """
    watched = _Watched(hear)
    transport, _ = await start_program(
        lambda: watched,
        arguments,
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE if stderr_apart else asyncio.subprocess.STDOUT,
        environ=environ,
    )
    in_time = True
    try:
        try:
            async with asyncio.timeout(timeout_s):
                _send(transport, stdin)
                await watched.exited.wait()
        except TimeoutError:
            in_time = False
        finally:
            await _end(transport, watched)
        if not watched.exited.is_set():
            return Ended(None, timeout_s, held=True)
        with suppress(TimeoutError):  # somebody outside of the group keeps the output open
            async with asyncio.timeout(_LAST_OUTPUT_S):
                await watched.output_ended.wait()
    finally:
        watched.deaf = True
        transport.close()
    return Ended(transport.get_returncode() if in_time else None, timeout_s)


async def start_program(
    protocol: Callable[[], P],
    arguments: Sequence[str],
    *,
    stdin: int,
    stderr: int,
    environ: Mapping[str, str] | None = None,
) -> tuple[asyncio.SubprocessTransport, P]:
    """Start it without a shell, its stdout piped, in our environment if none is given. NotStartedError."""
    try:
        return await asyncio.get_running_loop().subprocess_exec(
            protocol,
            *arguments,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=environ,
            start_new_session=os.name == "posix",
        )
    except (OSError, ValueError) as error:
        answer = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NotStartedError(f"can't be started ({answer})") from None


def kill_if_running(transport: asyncio.SubprocessTransport) -> None:
    """Kill a program that has not ended, with its group where the system has such."""
    if transport.get_returncode() is None:
        with suppress(ProcessLookupError):
            if os.name == "posix":
                os.killpg(transport.get_pid(), signal.SIGKILL)
            else:
                transport.kill()


def environment_for(variables: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Our environment for a program of the user's, with `variables` in place of what in it is ours alone."""
    ours = {
        name: text
        for name, text in environ.items()
        if name not in _NOT_FOR_THEM and (name in _KEPT or not name.startswith("REPLICAD_"))
    }
    return ours | {name: _fitting(text) for name, text in variables.items()}


def _fitting(text: str) -> str:
    """As the system takes it: no NUL, and not too long."""
    data = text.replace("\0", "�").encode("utf-8", "replace")
    return data[:MAX_VARIABLE_BYTES].decode("utf-8", "ignore")


class _Watched(asyncio.SubprocessProtocol):
    """Hands the output on, and ends what the program leaves behind in its group."""

    def __init__(self, hear: Callable[[int, bytes], None]) -> None:
        self.deaf = False
        self.exited = asyncio.Event()
        self.output_ended = asyncio.Event()
        self._hear = hear
        self._pid: int | None = None
        self._open = {1}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.SubprocessTransport):
            self._pid = transport.get_pid()
            self._open = {fd for fd in (1, 2) if transport.get_pipe_transport(fd) is not None}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if not self.deaf:
            self._hear(fd, data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open.discard(fd)
        if not self._open:
            self.output_ended.set()

    def process_exited(self) -> None:
        # At once: later the number could be that of another group.
        if os.name == "posix" and self._pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)
        self.exited.set()


def _send(transport: asyncio.SubprocessTransport, document: bytes) -> None:
    stdin = transport.get_pipe_transport(0)
    if isinstance(stdin, asyncio.WriteTransport):  # a program that does not read it only loses it
        stdin.write(document)
        stdin.close()


async def _end(transport: asyncio.SubprocessTransport, watched: _Watched) -> None:
    """Kill the group if its program still runs, and wait until that is gone; also when cancelled meanwhile. Not for
    ever: what it waits for may be what is to be undone when it has ended."""
    cancelled: asyncio.CancelledError | None = None
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _KILLED_WITHIN_S
    while not watched.exited.is_set() and loop.time() < deadline:
        kill_if_running(transport)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await watched.exited.wait()
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
