"""A private rsync daemon on loopback. What it carries is neither signed nor encrypted."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .measuring import Measurement, cpu_of_group, measure

_HOST = "127.0.0.1"
_USERNAME = "bench"
_START_TIMEOUT_S = 10.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class RsyncDaemon:
    """A daemon that runs; its one module shows `directory`."""

    directory: Path
    port: int
    password: str
    pid: int

    def update(self, source: Path) -> Measurement:
        """Bring the file of that name up to date, in place, sending what differs; or make it."""
        return measure(
            ["rsync", "--times", "--inplace", "--no-whole-file", source,
             f"rsync://{_USERNAME}@{_HOST}:{self.port}/module/"],
            {**os.environ, "RSYNC_PASSWORD": self.password},
            lambda: cpu_of_group(self.pid),
        )[0]  # fmt: skip


@contextmanager
def rsync_daemon(root: Path, directory: Path) -> Iterator[RsyncDaemon]:
    """A daemon with its own files in `root`. It ends when this context does, or when we do.

    Where rsync is not installed nothing is started, and nothing answers.
    """
    port, password = _free_port(), secrets.token_urlsafe(18)
    if shutil.which("rsync") is None:
        yield RsyncDaemon(directory, port, password, 0)
        return
    configuration = _configure(root, directory, port, password)
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", "rsync", "--daemon", "--no-detach", f"--config={configuration}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        _wait_until_it_answers(process, port, root / "rsyncd.log")
        yield RsyncDaemon(directory, port, password, process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _configure(root: Path, directory: Path, port: int, password: str) -> Path:
    secrets_file = root / "rsyncd.secrets"
    secrets_file.touch(mode=0o600)
    secrets_file.write_text(f"{_USERNAME}:{password}\n")
    lines = [
        f"port = {port}",
        f"address = {_HOST}",
        "use chroot = no",
        f"log file = {root / 'rsyncd.log'}",
        *(["uid = root", "gid = root"] if os.geteuid() == 0 else []),
        "[module]",
        f"path = {directory}",
        "read only = no",
        f"auth users = {_USERNAME}",
        f"secrets file = {secrets_file}",
    ]
    configuration = root / "rsyncd.conf"
    configuration.write_text("\n".join(lines) + "\n")
    return configuration


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace") if log.exists() else ""
            raise RuntimeError(f"the rsync daemon does not answer on port {port}: {said}")
        time.sleep(_POLL_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
