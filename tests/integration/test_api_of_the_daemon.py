"""`replicad run` as a program, asked over its socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.live_api import unix_client
from tests.support.vhdx_builder import MIB, build

_REPLICAD = [sys.executable, "-P", "-c", "import sys; from replicad.cli.main import main; sys.exit(main())"]
CONFIGURATION = """\
state_dir: {state}
virtual_machines:
  웹 서버: {{source: {source}, replica: {replica}}}
"""


def _command(config: Path) -> list[str]:
    return [*_REPLICAD, "run", "--config", str(config), "--log-format", "json"]


@contextmanager
def _daemon(tmp_path: Path, config: Path) -> Iterator[subprocess.Popen[str]]:
    """One that is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        manager.settimeout(110)
        environ = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "n")}
        with subprocess.Popen(_command(config), env=environ, stderr=subprocess.PIPE, text=True) as process:
            try:
                while "READY=1" not in manager.recv(4096).decode():
                    pass
                yield process
            finally:
                if process.poll() is None:
                    process.kill()


def _configured(tmp_path: Path) -> Path:
    for name in ("source", "replica"):
        (tmp_path / name).mkdir()
    config = tmp_path / "설정.yaml"
    text = CONFIGURATION.format(state=tmp_path / "s", source=tmp_path / "source", replica=tmp_path / "replica")
    config.write_text(text, encoding="utf-8")
    return config


@pytest.mark.timeout(300)
async def test_the_daemon_answers_when_it_is_ready_and_leaves_no_socket(tmp_path: Path) -> None:
    config = _configured(tmp_path)
    path = tmp_path / "s" / "api.sock"
    with _daemon(tmp_path, config) as process:
        async with unix_client(path) as client:
            assert (await client.get("/readyz")).json() == {"status": "ready", "machines": 1}
            assert [machine["vm"] for machine in (await client.get("/vms")).json()] == ["웹 서버"]
            assert "replicad_log_lines_dropped_total 0.0" in (await client.get("/metrics")).text
            config.write_text(config.read_text(encoding="utf-8") + "  웹2: {sorce: /x}\n", encoding="utf-8")
            refused = await client.post("/reload")
            assert refused.status_code == 400
            assert "설정.yaml:4: " in refused.json()["error"]["text"]
            config.write_text(
                config.read_text(encoding="utf-8").replace("{sorce: /x}", "{source: /x, replica: /y}"), encoding="utf-8"
            )
            assert (await client.post("/reload")).json() == {"machines": 2}
        second = subprocess.run(_command(config), capture_output=True, text=True, timeout=110, check=False)
        assert second.returncode == 11
        assert path.is_socket()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert not path.exists()
    assert process.returncode == 0, log
    assert "Traceback" not in log


@pytest.mark.timeout(300)
def test_sync_prints_the_same_of_a_cycle_that_the_daemon_runs_as_of_one_that_runs_here(tmp_path: Path) -> None:
    config = _configured(tmp_path)
    disk = tmp_path / "source" / "디스크.vhdx"
    build().save(disk)

    def changed(offset: int) -> None:
        with disk.open("r+b") as file:
            file.seek(offset)
            file.write(b"x" * 100_000)

    def replicad(*arguments: str) -> Any:
        done = subprocess.run(
            [*_REPLICAD, *arguments, "--config", str(config), "--json"],
            capture_output=True, text=True, timeout=110, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)

    replicad("sync", "웹 서버")
    changed(4 * MIB)
    here = replicad("sync", "웹 서버")
    changed(5 * MIB)
    with _daemon(tmp_path, config):
        there = replicad("sync", "웹 서버")
        replicad("status")
    assert (here["point"], there["point"], there["attempts"], there["resumed"]) == (2, 3, 1, False)
    assert [(key, type(value)) for key, value in there.items()] == [(key, type(value)) for key, value in here.items()]
    for key in ("vm", "kind", "consistency", "provenance", "warnings"):
        assert there[key] == here[key], key
    points = {point["number"]: point for point in replicad("points", "웹 서버")}
    for told in (here, there):
        point = points[told["point"]]
        for key in ("time", "consistency", "undo_bytes", "sent_bytes", "changed_bytes"):
            assert told[key] == point[key], key
