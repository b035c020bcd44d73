"""The files for systemd, as systemd's own programs read them."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from replicad.settings.find import user_directory

_DIRECTORY = Path(__file__).parents[2] / "systemd"
_GUIDE = _DIRECTORY.parent / "docs" / "operating.md"
_UNIT = _DIRECTORY / "replicad.service"
_MOST_EXPOSED = "13"
"""Of 100, by `systemd-analyze security`: 'OK' ends at 49, and most services are above 90."""


def _need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def _here(tmp_path: Path) -> Path:
    """The unit, with a program and a user that are there."""
    text = _UNIT.read_text()
    assert "ExecStart=/usr/local/bin/replicad run" in text
    text = text.replace("/usr/local/bin/replicad", "/bin/true").replace("User=replicad", "User=root")
    (tmp_path / "replicad.service").write_text(text.replace("Group=replicad\n", ""))
    return tmp_path / "replicad.service"


def test_the_unit_is_one_that_systemd_takes_without_a_word(tmp_path: Path) -> None:
    program = _need("systemd-analyze")
    done = subprocess.run(
        [program, "verify", "--man=no", str(_here(tmp_path))], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_leaves_little_of_the_machine_open() -> None:
    program = _need("systemd-analyze")
    command = [
        program,
        "security",
        "--offline=true",
        "--no-pager",
        f"--threshold={_MOST_EXPOSED}",
        str(_UNIT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
    exposure = re.search(r"Overall exposure level for replicad\.service: ([0-9.]+)", done.stdout)
    told = re.search(r"exposure level of the unit is ([0-9.]+)", _GUIDE.read_text(encoding="utf-8"))
    assert exposure is not None
    assert told is not None
    assert told[1] == exposure[1]


def test_the_unit_does_what_the_program_does() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]  # keys are as they are written
    unit.read_string(_UNIT.read_text())
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert float(service["WatchdogSec"]) >= 30
    assert {"2", "11"} == set(service["RestartPreventExitStatus"].split())
    assert service["StateDirectoryMode"] == "0700"
    assert service["LimitCORE"] == "0"
    variable, _, below = service["Environment"].partition("=")
    state_dir = Path("/var/lib", service["StateDirectory"])
    assert user_directory({variable: below, "HOME": "/home/x"}, "XDG_STATE_HOME", "") / "replicad" == state_dir


def test_the_user_and_the_directories_are_made(tmp_path: Path) -> None:
    users, files = _need("systemd-sysusers"), _need("systemd-tmpfiles")
    if subprocess.run(["id", "-u"], capture_output=True, text=True, check=True).stdout.strip() != "0":
        pytest.skip("needs root")
    (tmp_path / "etc").mkdir()
    subprocess.run([users, f"--root={tmp_path}", str(_DIRECTORY / "replicad.sysusers")], check=True, timeout=60)
    assert "replicad:x:" in (tmp_path / "etc" / "passwd").read_text()
    subprocess.run(
        [files, f"--root={tmp_path}", "--create", str(_DIRECTORY / "replicad.tmpfiles")], check=True, timeout=60
    )
    assert (tmp_path / "var/lib/replicad").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "etc/replicad").stat().st_mode & 0o777 == 0o750
