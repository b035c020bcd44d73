"""Connecting to the Unix sockets of a running QEMU: its monitor, and its guest's agent."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

from replicad.model.errors import AccessDeniedError, BusyError, PermanentError, ReplicadError, UnreachableError
from replicad.storage.blocking import run_blocking

_MAX_PATH_BYTES = 107
_LOOK_UP_TIMEOUT_S = 10.0
_CREDENTIALS = struct.Struct("3i")


class MachineIsOffError(UnreachableError):
    """Nobody listens at the monitor's socket: no QEMU runs there."""


async def connect(executor: Executor, path: Path, what: str) -> socket.socket:
    """A connected, non-blocking socket; `what` names the other side.

    MachineIsOffError if nobody listens; BusyError if others are waiting to be let in already; AccessDeniedError.
    """
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # A local connection is made at once or not at all; waiting would be for a place in the queue.
        opened.setblocking(False)
        await run_blocking(
            executor, "connect to", f"{what} {path}", lambda: _connect(opened, path, what), _LOOK_UP_TIMEOUT_S
        )  # fmt: skip
    except BaseException:
        opened.close()
        raise
    return opened


def _connect(opened: socket.socket, path: Path, what: str) -> None:
    try:
        with _short(path) as name:
            opened.connect(name)
    except OSError as error:
        raise _translated(error, path, what) from error


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of the same socket that fits into its kind of address."""
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _translated(error: OSError, path: Path, what: str) -> ReplicadError:
    subject = f"{what} {path}"
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        answer = "nobody listens there" if isinstance(error, ConnectionRefusedError) else "there is no such socket"
        hint = "If the virtual machine is running, check the path; docs/qemu.md tells how it is set up."
        return MachineIsOffError("connect to", subject, answer, hint)
    if isinstance(error, BlockingIOError):
        return busy(subject, "others are waiting to be let in already")
    if isinstance(error, PermissionError):
        hint = "Run as the user who runs QEMU, or as root; docs/qemu.md tells which rights are needed."
        return AccessDeniedError("connect to", subject, "access was denied", hint)
    return PermanentError("connect to", subject, os.strerror(error.errno or 0))


def busy(subject: str, answer: str) -> BusyError:
    """Somebody else has the socket, which serves one client at a time."""
    hint = (
        "Such a socket serves one client at a time: give replicad one of its own, beside that of libvirt or others "
        "(docs/qemu.md)."
    )
    return BusyError("connect to", subject, answer, hint)


def peer_pid(connected: socket.socket) -> int:
    """The process that listens at the other end; 0 if it lives where its number means nothing here."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[0])
