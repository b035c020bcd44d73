"""RECOVERY.txt followed to the letter: its commands, taken out of the text and run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.restore_script import SCRIPT
from tests.support.scene import Scene, change, contents, local_scene

DISK = "디스크 1.vhdx"


@dataclass(frozen=True, slots=True)
class Advice:
    """The commands of a RECOVERY.txt, in its order, and a place to run them in."""

    commands: tuple[str, ...]
    room: Path

    def run(
        self, command: str, replica: Path, target: Path, number: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the commands in a shell, as it stands but for its placeholders."""
        assert command in self.commands
        filled = {"REPLICA": str(replica), "TARGET": str(target), "N": str(number)}
        words = re.sub(r"\b(REPLICA|TARGET|N)\b", lambda found: shlex.quote(filled[found[1]]), command)
        return subprocess.run(
            ["sh", "-c", words], cwd=self.room, env={"PATH": f"{self.room}:{os.defpath}", "LC_ALL": "C.UTF-8"},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = local_scene(tmp_path)
    made.sync()
    change(made.source / DISK, 2)
    made.sync()
    return made


@pytest.fixture
def advice(scene: Scene, tmp_path: Path) -> Advice:
    """What the text says, and what it says is to be fetched: replicad and the script."""
    text = (scene.replica / "RECOVERY.txt").read_text()
    room = tmp_path / "bare"
    room.mkdir()
    program = room / "replicad"
    code = "import sys; from replicad.cli.main import main; sys.exit(main())"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -c {shlex.quote(code)} "$@"\n')
    program.chmod(0o755)
    shutil.copy(SCRIPT, room / "restore_point.py")
    return Advice(tuple(line.strip() for line in text.splitlines() if line.startswith("    ")), room)


def test_its_commands_are_these_and_each_is_run_by_a_test_here(advice: Advice) -> None:
    assert advice.commands == (
        "pip install replicad", POINTS, RESTORE, RESTORE_POINT, SCRIPT_POINTS, SCRIPT_RESTORE, SCRIPT_POINT, LOOK, COPY
    )  # fmt: skip


POINTS = "replicad points --replica REPLICA"
RESTORE = "replicad restore --replica REPLICA --to TARGET"
RESTORE_POINT = "replicad restore --replica REPLICA --to TARGET --point N"
SCRIPT_POINTS = "python3 restore_point.py REPLICA"
SCRIPT_RESTORE = "python3 restore_point.py REPLICA TARGET"
SCRIPT_POINT = "python3 restore_point.py REPLICA TARGET --point N"
LOOK = 'find REPLICA -name cycle.json -o -name "*.updating" -o -name "*.initial"'
COPY = "cp -r REPLICA/disks/. TARGET"


@pytest.mark.parametrize("command", [POINTS, SCRIPT_POINTS])
def test_points_are_listed(command: str, scene: Scene, advice: Advice) -> None:
    done = advice.run(command, scene.replica, advice.room / "unused")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^(?:point )? *[12] .*cold", done.stdout, re.MULTILINE)) == 2


@pytest.mark.parametrize("command", [RESTORE, SCRIPT_RESTORE, RESTORE_POINT, SCRIPT_POINT])
def test_a_point_is_restored(command: str, scene: Scene, advice: Advice) -> None:
    target = advice.room / "빈 디렉터리"
    number = 1 if "--point" in command else 2
    with scene.untouched():
        done = advice.run(command, scene.replica, target, number)
    assert done.returncode == 0, done.stderr
    assert contents(target) == scene.history[number]


def test_the_latest_point_is_copied_where_nothing_was_interrupted(scene: Scene, advice: Advice) -> None:
    target = advice.room / "빈 디렉터리"
    target.mkdir()
    looked = advice.run(LOOK, scene.replica, target)
    assert (looked.returncode, looked.stdout, looked.stderr) == (0, "", "")
    assert advice.run(COPY, scene.replica, target).returncode == 0
    assert contents(target) == scene.history[2]


@pytest.mark.parametrize("left", ["points/3.pending/cycle.json", "points/2/cycle.json", f"disks/{DISK}.updating"])
def test_an_interruption_is_seen(left: str, scene: Scene, advice: Advice) -> None:
    path = scene.replica / left
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert advice.run(LOOK, scene.replica, advice.room).stdout == f"{path}\n"
