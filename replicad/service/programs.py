"""Programs of the user's, each in a session of its own, so that it ends with whatever it has started."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

P = TypeVar("P", bound=asyncio.SubprocessProtocol)


class NotStartedError(Exception):
    """A program can't be started; the text is a clause that says why."""


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
