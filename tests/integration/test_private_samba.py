"""The private SMB server that the demonstration and the tests use."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicad.cli.demo.samba import PrivateSamba, SambaShare, private_samba
from replicad.model.errors import ConfigError, NotFoundError, UnreachableError
from tests.support.samba import running_samba

pytestmark = pytest.mark.samba


@pytest.fixture
def short_path() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="replicad-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def smbclient(server: PrivateSamba, share: str, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["smbclient", "-s", "/dev/null", "-p", str(server.port), f"//{server.host}/{share}", "-c", command],
        env={**os.environ, "USER": server.username, "PASSWD": server.password},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


async def test_it_serves_its_shares_and_leaves_no_process(short_path: Path) -> None:
    data = short_path / "data"
    data.mkdir()
    shares = {"vms": SambaShare(data), "ro": SambaShare(data, read_only=True)}
    async with private_samba(short_path / "smbd", shares) as server:
        pids = server.pids()
        assert smbclient(server, "vms", 'mkdir "가상 머신 🖥"').returncode == 0
        assert (data / "가상 머신 🖥").is_dir()
        assert "NT_STATUS_" in smbclient(server, "ro", "mkdir nope").stdout
    assert pids
    assert not any(map(_runs, pids))


def test_a_killed_server_comes_back_on_the_same_port_with_the_same_users() -> None:
    with running_samba() as server:
        port = server.port
        server.kill()
        assert server.pids() == []
        server.restart()
        assert server.port == port
        assert smbclient(server, "plain", "ls").returncode == 0


def test_a_server_that_dies_at_once_says_why() -> None:
    with running_samba() as server, socket.socket() as intruder:
        server.kill()
        intruder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        intruder.bind((server.host, server.port))
        intruder.listen()
        with pytest.raises(UnreachableError, match=r"(?s)ended with code .*open_sockets_smbd"):
            server.restart()
        assert server.pids() == []


def test_a_path_too_long_for_sockets_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match=r"too long.*/tmp"):
        PrivateSamba(Path("/tmp") / ("x" * 90), {}).start()


def test_a_missing_program_is_named_with_its_package(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    with pytest.raises(NotFoundError, match=r"smbd is not installed\. Install Debian's package 'samba'"):
        PrivateSamba(short_path, {}).start()


@pytest.mark.root
def test_it_runs_for_an_ordinary_user_and_ends_when_that_process_is_killed(short_path: Path) -> None:
    script = (
        "import sys, pathlib, os, signal\n"
        "from replicad.cli.demo.samba import PrivateSamba, SambaShare\n"
        "base = pathlib.Path(sys.argv[1]); data = base / 'data'; data.mkdir()\n"
        "server = PrivateSamba(base / 'smbd', {'vms': SambaShare(data)}); server.start()\n"
        "print(server.port, server.password, *server.pids(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    shutil.chown(short_path, "nobody")
    root = Path(__file__).parents[2]
    ordinary = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]
    trial = [*ordinary, sys.executable, "-c", "import click, replicad"]
    if subprocess.run(trial, env={"PYTHONPATH": str(root)}, capture_output=True, check=False).returncode:
        pytest.skip("an ordinary user can't run this Python, or can't read this checkout")
    with subprocess.Popen(
        [*ordinary, sys.executable, "-c", script, str(short_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        port, password, *pids = process.stdout.readline().split()
        server = PrivateSamba(short_path, {})
        server.port, server.password = int(port), password
        assert smbclient(server, "vms", 'mkdir "한글 폴더"').returncode == 0
        assert (short_path / "data" / "한글 폴더").owner() == "nobody"
        process.kill()
    _wait_until_ended([int(pid) for pid in pids])


def _wait_until_ended(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline, "smbd outlived the process that started it"
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
