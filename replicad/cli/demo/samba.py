"""A private SMB server on loopback, from the machine's own smbd: for the demonstration, the tests and measurements.

It has its own configuration, password database and state under one directory, listens on 127.0.0.1 and a free port
only, and knows nothing of a Samba that may run on the machine as a service. It ends with the process that started it,
however that process ends: smbd watches its standard input, a pipe of ours.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from replicad.model.errors import ConfigError, NotFoundError, TimedOutError, UnreachableError, UnsupportedError

HOST = "127.0.0.1"
USERNAME = "replicad"
"""The SMB user of every private server; it stands for the user who started it."""

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 5.0
_POLL_S = 0.02
_PORT_ATTEMPTS = 5
_MAX_DIRECTORY_LENGTH = 70
"""smbd makes Unix sockets below its directories, whose paths hold 107 bytes at most."""


@dataclass(frozen=True, slots=True)
class SambaShare:
    """A directory to be shared. `settings` are further lines of its smb.conf section."""

    directory: Path
    read_only: bool = False
    encryption_required: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)

    def lines(self, name: str) -> list[str]:
        """Its section of smb.conf."""
        settings = {
            "path": str(self.directory),
            "read only": "yes" if self.read_only else "no",
            "server smb encrypt": "required" if self.encryption_required else "default",
            **self.settings,
        }
        return [f"[{name}]", *(f"{key} = {value}" for key, value in settings.items())]


class PrivateSamba:
    """One smbd and its children. All methods block for a bounded time.

    `start` raises NotFoundError where smbd is not installed, UnsupportedError where it can't run as this user,
    UnreachableError if it dies (with the last lines of its log) and TimedOutError if it does not answer.
    """

    def __init__(
        self,
        directory: Path,
        shares: Mapping[str, SambaShare],
        *,
        min_protocol: str = "SMB3_00",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.host = HOST
        self.port = 0
        self.username = USERNAME
        self.password = secrets.token_urlsafe(18)
        self._directory = directory.resolve()
        self._shares = dict(shares)
        self._settings = {"server min protocol": min_protocol, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def configuration_path(self) -> Path:
        """Its smb.conf."""
        return self._directory / "smb.conf"

    @property
    def log_path(self) -> Path:
        """smbd's own log."""
        return self._directory / "log" / "log.smbd"

    def share_directory(self, name: str) -> Path:
        """What is behind the share `name`."""
        return self._shares[name].directory

    def start(self) -> None:
        """Start it on a free port and wait until it answers."""
        smbd = _program("smbd")
        self._lay_out()
        for attempt in range(_PORT_ATTEMPTS):
            self.port = _free_port()
            self._write_configuration()
            if attempt == 0:
                self._set_password(_own_name(), self.username, self.password)
            try:
                self._launch(smbd)
            except UnreachableError:
                # Somebody else may have taken the port between our asking and smbd's binding it.
                if attempt == _PORT_ATTEMPTS - 1 or not _is_taken(self.port):
                    raise
            else:
                return

    def restart(self) -> None:
        """Kill it, if it runs, and start it again on the same port with what it had on disk."""
        self.kill()
        self._launch(_program("smbd"))

    def kill(self) -> None:
        """End it and all its children at once, as a power failure would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order, or by force after a few seconds. Can be called again."""
        self._end(signal.SIGTERM)

    def pids(self) -> list[int]:
        """The processes of this server that run or are stopped now, the first one first."""
        if self._process is None:
            return []
        group = self._process.pid
        return sorted((pid for pid in _processes_of_group(group)), key=lambda pid: (pid != group, pid))

    def add_user(self, name: str, password: str, *, unix_name: str, flags: str = "") -> None:
        """Let `name` sign in as the Unix user `unix_name`; `flags` are pdbedit's (`D` disabled, `L` locked out).

        Works as root only, because smbd has to become that user.
        """
        self._set_password(unix_name, name, password)
        if flags:
            self._pdbedit("-r", "-u", unix_name, "-c", f"[{flags}]")

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of smbd's log."""
        try:
            text = self.log_path.read_text(errors="replace")
        except OSError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:]) or "(empty log)"

    def _lay_out(self) -> None:
        if len(str(self._directory)) > _MAX_DIRECTORY_LENGTH:
            raise ConfigError(
                "start", "a private SMB server", f"the path {self._directory} is too long for its sockets",
                "Give it a directory directly below /tmp.",
            )  # fmt: skip
        for name in ("lock", "state", "cache", "pid", "private", "ncalrpc", "log"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        (self._directory / "private").chmod(0o700)
        (self._directory / "users.map").touch()

    def _write_configuration(self) -> None:
        root = self._directory
        settings = {
            "server role": "standalone server",
            "workgroup": "REPLICAD",
            "netbios name": "REPLICAD",
            "interfaces": HOST,
            "bind interfaces only": "yes",
            "smb ports": str(self.port),
            "disable netbios": "yes",
            **{f"{name} directory": str(root / name) for name in ("lock", "state", "cache", "pid")},
            "private dir": str(root / "private"),
            "ncalrpc dir": str(root / "ncalrpc"),
            "passdb backend": f"tdbsam:{root / 'private' / 'passdb.tdb'}",
            "username map": str(root / "users.map"),
            "logging": "file",
            "log file": str(self.log_path),
            "log level": "1",
            "max log size": "0",
            "map to guest": "never",
            "load printers": "no",
            "printing": "bsd",
            "printcap name": "/dev/null",
            "disable spoolss": "yes",
            "usershare max shares": "0",
            **self._settings,
        }
        lines = ["[global]", *(f"{key} = {value}" for key, value in settings.items())]
        for name, share in self._shares.items():
            lines += share.lines(name)
        self.configuration_path.write_text("\n".join(lines) + "\n")

    def _set_password(self, unix_name: str, name: str, password: str) -> None:
        self._pdbedit("-a", "-t", "-u", unix_name, given=f"{password}\n{password}\n")
        if name != unix_name:
            with (self._directory / "users.map").open("a") as users:
                users.write(f"{unix_name} = {name}\n")

    def _pdbedit(self, *arguments: str, given: str = "") -> None:
        done = subprocess.run(
            [_program("pdbedit"), "-s", str(self.configuration_path), *arguments],
            input=given, capture_output=True, text=True, timeout=_START_TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise UnsupportedError("add", "a user to the private SMB server", f"pdbedit failed: {' '.join(last)}")

    def _launch(self, smbd: str) -> None:
        self._process = subprocess.Popen(
            [smbd, "--foreground", "--no-process-group", "-s", str(self.configuration_path),
             "-l", str(self._directory / "log")],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=self._directory, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + _START_TIMEOUT_S
        try:
            while not self._answers():
                if (code := self._process.poll()) is not None:
                    raise UnreachableError(
                        "start", "a private SMB server", f"smbd ended with code {code}; its log ends with:\n"
                        + self.log_tail(),
                    )  # fmt: skip
                if time.monotonic() > deadline:
                    raise TimedOutError(
                        "start", "a private SMB server", f"smbd does not answer on port {self.port} after "
                        f"{_START_TIMEOUT_S:.0f} s; its log ends with:\n" + self.log_tail(),
                    )  # fmt: skip
                time.sleep(_POLL_S)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        process = self._process
        if process is None or not _owns_port(process.pid, self.port):
            return False
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
            return True
        return False

    def _end(self, signal_number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        group = process.pid
        for number, patience_s in ((signal_number, _STOP_TIMEOUT_S), (signal.SIGKILL, _STOP_TIMEOUT_S)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)
            with contextlib.suppress(ProcessLookupError):
                if number is signal.SIGTERM:
                    os.killpg(group, signal.SIGCONT)  # a stopped process does not take SIGTERM
            if self._wait_until_gone(process, patience_s):
                break
        else:
            raise TimedOutError("stop", "a private SMB server", f"processes {self.pids()} do not end")
        if process.stdin is not None:
            process.stdin.close()
        self._process = None

    def _wait_until_gone(self, process: subprocess.Popen[bytes], patience_s: float) -> bool:
        deadline = time.monotonic() + patience_s
        while process.poll() is None or self.pids():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True


@asynccontextmanager
async def private_samba(
    directory: Path,
    shares: Mapping[str, SambaShare],
    *,
    min_protocol: str = "SMB3_00",
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[PrivateSamba]:
    """A running `PrivateSamba` with its state under `directory`; stopped on the way out, whatever happens."""
    import asyncio  # the tests' fixtures use the class without an event loop

    server = PrivateSamba(directory, shares, min_protocol=min_protocol, settings=settings)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="private-samba") as executor:
        started = executor.submit(server.start)
        try:
            await asyncio.shield(asyncio.wrap_future(started, loop=loop))
            yield server
        finally:
            # Runs after `start`, even if we were cancelled while it ran: the executor has one thread.
            await asyncio.shield(loop.run_in_executor(executor, server.stop))


def _program(name: str) -> str:
    """Its path; administrators' programs are often not on the path of ordinary users."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/samba/sbin")
    if not found:
        raise NotFoundError(
            "start", "a private SMB server", f"{name} is not installed", "Install Debian's package 'samba'."
        )
    return found


def _own_name() -> str:
    import pwd  # POSIX only, as smbd is

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise UnsupportedError(
            "start", "a private SMB server", f"the user number {os.geteuid()} has no name on this machine",
            "smbd needs an entry in /etc/passwd.",
        ) from None  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
        return False


def _processes_of_group(group: int) -> Iterator[int]:
    """The processes whose process group is `group`, without those that ended and wait to be collected."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in parentheses may hold anything; state, parent and group follow it.
                state, _, its_group = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
                if int(its_group) == group and state != "Z":
                    yield int(entry.name)


def _owns_port(pid: int, port: int) -> bool:
    """Whether the process listens on the port: another test's server may have been quicker."""
    wanted = f"0100007F:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1] == wanted and row[3] == "0A"}
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) in sockets:
                    return True
    return False
