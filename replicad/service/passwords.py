"""Where passwords come from: a file, or the output of a program. They are read when they are needed and never kept."""

from __future__ import annotations

import asyncio
import os
import select
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from replicad.model.errors import ConfigError, TimedOutError, TransientError
from replicad.storage.programs import NotStartedError, kill_if_running, start_program

Warn = Callable[[str], None]

TIMEOUT_S = 30.0
MAX_PASSWORD_BYTES = 64 << 10


class Secret(str):
    """A password. It is text like any other, but for what shows values by themselves: debuggers, asyncio's debug mode,
    test reports."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


async def from_file(path: Path, server: str, warn: Warn) -> Secret:
    """The password in a file, read on a thread of its own. Raises ConfigError, or TimedOutError after 30 seconds."""
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="replicad-password")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await asyncio.get_running_loop().run_in_executor(executor, read_file, path, server, warn)
    except TimeoutError:
        raise TimedOutError(
            "read", _subject(server), f"{path} gave nothing within {TIMEOUT_S:.0f} s", "Check the file system it is on."
        ) from None
    finally:
        executor.shutdown(wait=False)


def read_file(path: Path, server: str, warn: Warn) -> Secret:
    """As `read_secret`, for a server's password."""
    return read_secret(path, _subject(server), "password", warn)


def read_secret(path: Path, subject: str, what: str, warn: Warn) -> Secret:
    """The secret in a file, without one newline at its end. Warns if others could read it, or put another one there.

    `subject` and `what` (one word) say what it is. ConfigError if there is none to be had: missing, unreadable, empty,
    no text, or more than one line. TimedOutError.
    """
    try:
        # Without waiting: a pipe that nobody writes to would keep this thread, and with it the end of the process.
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            found = os.fstat(fd)
            data = _read(fd, subject, path, is_file=stat.S_ISREG(found.st_mode))
        finally:
            os.close(fd)
        if os.name == "posix" and stat.S_ISREG(found.st_mode):
            _warn_of_others(path, found, what, warn)
    except OSError as error:
        answer = f"{path} can't be read ({error.strerror})"
        raise ConfigError("read", subject, answer, "Check the path, its owner and its mode.") from None
    return _one_line(data, subject, str(path))


def _read(fd: int, subject: str, path: Path, *, is_file: bool) -> bytes:
    """Up to one byte more than a password may have, from a file or a pipe. TimedOutError after 30 seconds."""
    data, deadline_s = b"", time.monotonic() + TIMEOUT_S
    while len(data) <= MAX_PASSWORD_BYTES:
        if not is_file and not _is_ready(fd, deadline_s):
            raise TimedOutError(
                "read", subject, f"nobody wrote to {path} within {TIMEOUT_S:.0f} s", "Check who should."
            )
        try:
            piece = os.read(fd, MAX_PASSWORD_BYTES + 1 - len(data))
        except BlockingIOError:
            continue  # another reader was quicker
        if not piece:
            break
        data += piece
    return data


def _is_ready(fd: int, deadline_s: float) -> bool:
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0, deadline_s - time.monotonic()) * 1000))


def _warn_of_others(path: Path, found: os.stat_result, what: str, warn: Warn) -> None:
    """Warn of everybody else (but root) who can read the file, or decide what is read under its name."""
    if found.st_mode & 0o077:
        warn(
            f"the {what} file {path} is open to others than its owner (mode {stat.S_IMODE(found.st_mode):o}); "
            f"run: chmod 600 {path}"
        )
    if not _is_trusted(found.st_uid):
        warn(f"the {what} file {path} belongs to user {found.st_uid}; run: chown {os.geteuid()} {path}")
    link = path.lstat()
    if stat.S_ISLNK(link.st_mode) and not _is_trusted(link.st_uid):
        warn(f"the {what} file {path} is a link that belongs to user {link.st_uid}; name the file itself")
    # Where the name is, and where the file is that it leads to.
    for directory in dict.fromkeys((path.absolute().parent, path.resolve().parent)):
        above = directory.stat()
        if not _is_trusted(above.st_uid) or (above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX):
            warn(f"others can replace the {what} file {path}, because they can write in {directory}; move it")


def _is_trusted(user: int) -> bool:
    return user in (0, os.geteuid())


async def from_command(command: Sequence[str], server: str, timeout_s: float = TIMEOUT_S) -> Secret:
    """The password that a program prints, without one newline at its end.

    The program is started without a shell, with nothing on its stdin; neither its output nor what it says on stderr is
    shown or logged. Raises ConfigError if it can't be started or prints no password, TransientError if it fails,
    TimedOutError if it goes on for longer than `timeout_s`; it never outlives this call.
    """
    program = command[0]
    output = _Output()
    try:
        transport, _ = await start_program(
            lambda: output, command, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
    except NotStartedError as error:
        raise ConfigError("read", _subject(server), f"{program} {error}", "Check password_command.") from None
    try:
        async with asyncio.timeout(timeout_s):
            await output.complete.wait()
            if len(output.data) <= MAX_PASSWORD_BYTES:
                await output.exited.wait()
    except TimeoutError:
        raise TimedOutError(
            "read", _subject(server), f"{program} did not end within {timeout_s:g} s", "Run it by hand to see why."
        ) from None
    finally:
        await _end(transport, output)
    if len(output.data) <= MAX_PASSWORD_BYTES and (status := transport.get_returncode()) != 0:
        raise TransientError(
            "read", _subject(server), f"{program} ended with status {status}", "Run it by hand to see why."
        )
    return _one_line(bytes(output.data), _subject(server), f"the output of {program}")


class _Output(asyncio.SubprocessProtocol):
    """Gathers what a program prints. `complete` is set at the end of its output, or once that is too long."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.complete = asyncio.Event()
        self.exited = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if len(self.data) <= MAX_PASSWORD_BYTES:
            self.data += data
        else:
            self.complete.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.complete.set()

    def process_exited(self) -> None:
        self.exited.set()


async def _end(transport: asyncio.SubprocessTransport, output: _Output) -> None:
    """Kill what still runs, with whatever it has started in its session, and wait until it is gone."""
    try:
        if transport.get_returncode() is None:
            kill_if_running(transport)
            await output.exited.wait()
    finally:
        transport.close()


def _one_line(data: bytes, subject: str, where: str) -> Secret:
    def refuse(answer: str) -> ConfigError:
        return ConfigError("read", subject, answer, "It must hold the secret and nothing else.")

    if len(data) > MAX_PASSWORD_BYTES:
        raise refuse(f"{where} is longer than {MAX_PASSWORD_BYTES >> 10} KiB")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise refuse(f"{where} is not UTF-8") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise refuse(f"{where} is empty")
    if "\n" in text or "\0" in text:
        raise refuse(f"{where} has more than one line" if "\n" in text else f"{where} holds a NUL")
    return Secret(text)


def _subject(server: str) -> str:
    return f"the password for server {server}"
