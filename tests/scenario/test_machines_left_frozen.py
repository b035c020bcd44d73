"""kill -9 between freeze and thaw: whoever works next thaws first, once; and what commands say is in the log."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Site, site
from tests.support.filesystems import mounted
from tests.support.scene import make_vhdx

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="scripts of a POSIX shell")

VM = "웹 서버 🖥"
_SCRIPT = """\
echo "$REPLICAD_PHASE" >> "$1/log"
echo "$REPLICAD_PHASE of $REPLICAD_VM" >&2
while [ -e "$1/wait at $REPLICAD_PHASE" ]; do sleep 0.02; done
case "$REPLICAD_PHASE" in
freeze) echo application ;;
snapshot) cp -r "$1/source" "$1/shown" && echo "$1/shown" ;;
release) rm -r "$1/shown" ;;
esac
"""
_PROGRAM = "import sys; from replicad.cli.main import main; sys.exit(main())"


class Machine:
    """A machine with all four commands, on a site."""

    def __init__(self, place: Site) -> None:
        self.place = place
        (place.base / "source").mkdir()
        (place.base / "replica").mkdir()
        self.disk = place.base / "source/디스크 1.vhdx"
        make_vhdx(self.disk, 1)
        script = place.base / "command.sh"
        script.write_text(_SCRIPT)
        command = ["sh", str(script), str(place.base), "--password=$ecret"]
        phases = ("freeze", "thaw", "snapshot", "release")
        place.write(
            {},
            {
                VM: {
                    "source": str(place.base / "source"), "replica": str(place.base / "replica"), "every": "1h",
                    "consistency": {"method": "command", **dict.fromkeys(phases, command)},
                }
            },
        )  # fmt: skip

    def log(self) -> list[str]:
        """What was run."""
        path = self.place.base / "log"
        return path.read_text().split() if path.exists() else []

    def hold_at(self, phase: str) -> None:
        """Have the command of a phase wait from now on."""
        (self.place.base / f"wait at {phase}").touch()

    def let_go(self, phase: str) -> None:
        (self.place.base / f"wait at {phase}").unlink()

    def wait_for(self, phase: str) -> None:
        deadline_s = time.monotonic() + 60
        while phase not in self.log():
            assert time.monotonic() < deadline_s, self.log()
            time.sleep(0.02)

    def sync(self) -> subprocess.Popen[str]:
        """`replicad sync --standalone`, begun."""
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "sync", VM, "--standalone", "--json", "--config", str(self.place.config)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip

    def synced(self) -> tuple[dict[str, Any], str]:
        """The same to its end: what it tells, and what it says on stderr."""
        with self.sync() as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        found: dict[str, Any] = json.loads(out)
        return found, err

    def frozen_pages(self) -> list[Path]:
        return sorted((self.place.state_dir / "frozen").glob("*.json"))


@pytest.mark.parametrize("phase", ["freeze", "snapshot"])
def test_a_daemon_that_is_killed_is_followed_by_one_that_thaws_before_anything_else(tmp_path: Path, phase: str) -> None:
    with site(tmp_path / "설치") as place:
        machine = Machine(place)
        machine.hold_at(phase)
        daemon = place.ready()
        machine.wait_for(phase)
        daemon.kill()
        began = machine.log()
        assert began == ["freeze", "snapshot"][: len(began)]
        [page] = machine.frozen_pages()
        assert page.stat().st_mode & 0o777 == 0o600
        machine.let_go(phase)
        daemon = place.start()
        daemon.wait_for("'thaw' that was due after")
        daemon.wait_for("ready")
        daemon.wait_for("cycle done", vm=VM)  # the one that was killed is gone on with
        undone = ["thaw"] if phase == "freeze" else ["thaw", "release"]
        assert machine.log() == [*began, *undone, "freeze", "snapshot", "thaw", "release"]
        assert machine.frozen_pages() == []
        said = daemon.wait_for("thaw of")
        assert (said["vm"], said["command"], said["level"]) == (VM, "thaw (sh)", "info")
        assert daemon.terminate()[0] == 0
        assert "$ecret" not in daemon.log.path.read_text()
        assert [run.consistency for run in place.remembered()[0] if run.point] == ["application"]
        assert place.complaints() == []


def test_a_sync_that_is_killed_is_followed_by_one_that_thaws_before_it_freezes(tmp_path: Path) -> None:
    with site(tmp_path / "설치") as place:
        machine = Machine(place)
        machine.hold_at("snapshot")
        with machine.sync() as process:
            machine.wait_for("snapshot")
            process.kill()
        machine.let_go("snapshot")
        found, said = machine.synced()
        assert (found["consistency"], found["point"]) == ("application", 1)
        assert machine.log() == [
            "freeze", "snapshot", "thaw", "release", "freeze", "snapshot", "thaw", "release",
        ]  # fmt: skip
        assert "warning: 웹 서버 🖥: the 'thaw' that was due after" in said
        assert "thaw (sh): thaw of 웹 서버 🖥" in said
        assert "$ecret" not in said
        assert machine.frozen_pages() == []


def test_two_at_a_time_do_not_freeze_one_machine(tmp_path: Path) -> None:
    with site(tmp_path / "설치") as place:
        machine = Machine(place)
        machine.synced()
        machine.hold_at("snapshot")
        (place.base / "log").unlink()
        with machine.sync() as process:
            machine.wait_for("snapshot")
            dry = subprocess.run(
                [sys.executable, "-c", _PROGRAM, "sync", VM, "--dry-run", "--config", str(place.config)],
                capture_output=True, text=True, timeout=60, check=False,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )  # fmt: skip
            assert dry.returncode == 5
            assert "another reader of its disks is at it" in dry.stderr
            assert machine.log() == ["freeze", "snapshot"]
            machine.let_go("snapshot")
            assert process.wait(60) == 0
        assert machine.log() == ["freeze", "snapshot", "thaw", "release"]


@pytest.mark.root
def test_clones_are_made_between_the_machines_own_freeze_and_thaw(tmp_path: Path) -> None:
    with mounted("xfs") as where, site(tmp_path / "설치") as place:
        machine = Machine(place)
        source = where / "source"
        shutil.copytree(place.base / "source", source)
        whole = json.loads(place.config.read_text())
        described = whole["virtual_machines"][VM]
        commands = {phase: described["consistency"][phase] for phase in ("freeze", "thaw")}
        described |= {"source": str(source), "consistency": {"method": "reflink", **commands}}
        place.write_text(json.dumps(whole, ensure_ascii=False))
        found, said = machine.synced()
        assert (found["consistency"], found["point"], found["warnings"]) == ("application", 1, [])
        assert machine.log() == ["freeze", "thaw"]
        assert f"freeze (sh): freeze of {VM}" in said
        (source / "디스크 1.vhdx").touch()
        machine.hold_at("freeze")
        with machine.sync() as process:
            while machine.log() != ["freeze", "thaw", "freeze"]:
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        assert process.returncode == 130
        assert machine.log() == ["freeze", "thaw", "freeze", "thaw"]
        assert machine.frozen_pages() == []
