"""What `replicad run` writes to its log, by what the configuration and the command line say of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from replicad.cli.run import command
from replicad.settings.model import LOG_FORMATS, LOG_LEVELS

_REPLICAD = [sys.executable, "-P", "-c", "import sys; from replicad.cli.main import main; sys.exit(main())"]


@dataclass(frozen=True, slots=True)
class _Running:
    process: subprocess.Popen[bytes]
    manager: socket.socket
    log: Path

    def wait_until_ready(self) -> None:
        """At the start, and after each reload."""
        while b"READY=1" not in self.manager.recv(4096):
            pass

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)
        self.wait_until_ready()


@contextmanager
def _running(base: Path, config: Path, *options: str) -> Iterator[_Running]:
    log = base / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, log.open("wb") as stderr:
        manager.bind(str(base / "n"))
        manager.settimeout(110)
        process = subprocess.Popen(
            [*_REPLICAD, "run", "--config", str(config), *options],
            stderr=stderr,
            env={**os.environ, "NOTIFY_SOCKET": str(base / "n")},
        )
        try:
            running = _Running(process, manager, log)
            running.wait_until_ready()
            yield running
        finally:
            process.kill()
            process.wait(30)


def _write(base: Path, log: str) -> Path:
    config = base / "설정.yaml"
    config.write_text(
        f"state_dir: {base}/s\nlog: {log}\nvirtual_machines:\n  웹: {{source: {base}/없음, replica: {base}/r}}\n",
        encoding="utf-8",
    )
    return config


def _is_json(line: str) -> bool:
    return line.startswith("{") and bool(json.loads(line))


@pytest.mark.timeout(240)
def test_the_configuration_says_it_and_a_reload_changes_it(tmp_path: Path) -> None:
    config = _write(tmp_path, "{level: error, format: text}")
    with _running(tmp_path, config) as running:
        _write(tmp_path, "{level: info, format: json}")
        running.reload()
        _write(tmp_path, "{level: loud}")
        running.reload()
        _write(tmp_path, "{format: text}")
        running.reload()
        running.process.terminate()
        running.process.wait(60)
    taken, refused, last, *_ = running.log.read_text(encoding="utf-8").splitlines()
    assert json.loads(taken)["event"] == "configuration taken"
    assert "log.level: 'loud' is not known here" in json.loads(refused)["event"]
    assert "configuration taken" in last
    assert not _is_json(last)


@pytest.mark.timeout(240)
def test_the_command_line_has_precedence_also_after_a_reload(tmp_path: Path) -> None:
    config = _write(tmp_path, "{level: error, format: text}")
    with _running(tmp_path, config, "--log-level", "info", "--log-format", "json") as running:
        running.reload()
        running.process.terminate()
        running.process.wait(60)
    lines = running.log.read_text(encoding="utf-8").splitlines()
    assert all(map(_is_json, lines))
    assert {"ready", "configuration taken"} <= {json.loads(line)["event"] for line in lines}


def test_the_options_know_the_same_words_as_the_configuration() -> None:
    choices = {option.name: getattr(option.type, "choices", None) for option in command.params}
    assert tuple(choices["log_level"] or ()) == LOG_LEVELS
    assert tuple(choices["log_format"] or ()) == LOG_FORMATS
