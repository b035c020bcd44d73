"""Running the command of a hook."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

from .hook_result import MAX_OUTPUT_BYTES, HookResult
from .programs import NotStartedError, kill_if_running, start_program

_LAST_OUTPUT_S = 1.0
_MAX_VARIABLE_BYTES = 32 << 10
# A hook is neither the service that systemd started, nor to be told our passwords.
_NOT_FOR_HOOKS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "LISTEN_PID", "LISTEN_FDS")
_KEPT = ("REPLICAD_CONFIG",)


async def run_command(
    arguments: Sequence[str],
    document: bytes,
    variables: Mapping[str, str],
    timeout_s: float,
    environ: Mapping[str, str] = os.environ,
) -> HookResult:
    """Run a program without a shell, with `document` on its stdin and `variables` in its environment.

    It goes well if the program ends with status 0 within `timeout_s`. Stdout and stderr are read to their end, and the
    first 4 KiB kept. The program and whatever it starts in its process group never outlive this call; what
    has left the group on purpose is not held by it.
    """
    watched = _Watched()
    try:
        transport, _ = await start_program(
            lambda: watched,
            arguments,
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            environ=_environment(variables, environ),
        )
    except NotStartedError as error:
        return HookResult(f"it {error}")
    failure: str | None = None
    try:
        try:
            async with asyncio.timeout(timeout_s):
                _send(transport, document)
                await watched.exited.wait()
        except TimeoutError:
            failure = f"it did not end within {timeout_s:g} s, and was ended"
        finally:
            await _end(transport, watched)
        with suppress(TimeoutError):  # somebody outside of the group keeps the output open
            async with asyncio.timeout(_LAST_OUTPUT_S):
                await watched.output_ended.wait()
    finally:
        transport.close()
    return HookResult(failure or _failure_of(transport.get_returncode()), watched.output.decode("utf-8", "replace"))


class _Watched(asyncio.SubprocessProtocol):
    """Keeps the beginning of the output, and ends what the program leaves behind in its group."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.exited = asyncio.Event()
        self.output_ended = asyncio.Event()
        self._pid: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.SubprocessTransport):
            self._pid = transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.output += data[: MAX_OUTPUT_BYTES - len(self.output)]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
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
    """Kill the group if its program still runs, and wait until that is gone; also when cancelled meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not watched.exited.is_set():
        kill_if_running(transport)
        try:
            await watched.exited.wait()
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _environment(variables: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    ours = {
        name: text
        for name, text in environ.items()
        if name not in _NOT_FOR_HOOKS and (name in _KEPT or not name.startswith("REPLICAD_"))
    }
    return ours | {name: _fitting(text) for name, text in variables.items()}


def _fitting(text: str) -> str:
    """As the system takes it: no NUL, and not too long."""
    data = text.replace("\0", "�").encode("utf-8", "replace")
    return data[:_MAX_VARIABLE_BYTES].decode("utf-8", "ignore")


def _failure_of(status: int | None) -> str | None:
    if status == 0:
        return None
    return (
        f"it was ended by signal {-status}" if status is not None and status < 0 else f"it ended with status {status}"
    )
