"""The examples in config/hooks/: what a linter says of them, and those that can run here, really run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any

import pytest

from replicad.cli.demo.samba import PrivateSamba, SambaShare
from replicad.settings import load_settings
from tests.support.daemon import Site, site
from tests.support.filesystems import mounted
from tests.support.installation import Server, described_server
from tests.support.samba import running_samba
from tests.support.scene import make_vhdx

CONFIG = Path(__file__).parents[2] / "config"
HOOKS = sorted((CONFIG / "hooks").iterdir())
PROGRAM = "import sys; from replicad.cli.main import main; sys.exit(main())"
VM = "웹 서버 🖥"
_SNAPSHOTS = """\
#!/bin/sh
word=$1
shift
case $word in
check) printf %s "$1" ;;
create)
  shown=$(dirname "$1")/snap-$$
  btrfs subvolume snapshot -r "$1" "$shown" >&2
  printf %s "$shown"
  ;;
delete) btrfs subvolume delete "$2" >&2 ;;
esac
"""


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.name)
def test_a_linter_finds_nothing_in_them_and_they_can_be_run(hook: Path) -> None:
    assert os.access(hook, os.X_OK)
    assert subprocess.run(["sh", "-n", str(hook)], check=False, timeout=60).returncode == 0
    if (shellcheck := shutil.which("shellcheck")) is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, str(hook)], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_example_names_those_that_are_there_and_each_tells_how_it_is_configured() -> None:
    machines = load_settings(CONFIG / "commands.yaml").virtual_machines.values()
    named: set[str] = set()
    for machine in machines:
        commands = machine.consistency.commands
        for command in (commands.freeze, commands.thaw, commands.snapshot, commands.release):
            named |= {command[0]} if command else set()
    assert named == {f"/etc/replicad/hooks/{hook.name}" for hook in HOOKS}
    for hook in HOOKS:
        text = hook.read_text()
        assert f"[/etc/replicad/hooks/{hook.name}, " in text
        assert ("Run by the tests of replicad" in text) != ("NOT RUN HERE" in text)


@pytest.mark.parametrize("phase", ["", "freeze", "thaw", "snapshot", "release"])
@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.name)
def test_without_their_arguments_they_do_nothing_and_say_how_they_are_used(
    hook: Path, phase: str, tmp_path: Path
) -> None:
    environ = {
        "PATH": os.environ["PATH"],
        "STATE_DIRECTORY": str(tmp_path),
        "REPLICAD_VM": "x",
        "REPLICAD_PHASE": phase,
    }
    done = subprocess.run([str(hook)], capture_output=True, text=True, timeout=60, check=False, env=environ)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "usage" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_a_btrfs_snapshot_shows_the_disks_as_they_were_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with mounted("btrfs") as where, site(tmp_path / "설치") as place:
        subvolume, replica = where / "기계들", place.base / "사본"
        subprocess.run(["btrfs", "subvolume", "create", str(subvolume)], check=True, timeout=60, capture_output=True)
        source = subvolume / "웹 1"
        (source / "sub").mkdir(parents=True)
        replica.mkdir()
        disks = [source / "디스크 1.vhdx", source / "sub/둘 🖴.vhdx"]
        for number, disk in enumerate(disks):
            make_vhdx(disk, number)
        raw = source / "records.vhd"
        raw.write_bytes(bytes(1 << 20))
        hook = [str(CONFIG / "hooks/btrfs-snapshot.sh"), str(subvolume)]
        machine = {
            "source": str(source), "replica": str(replica), "every": "manual",
            "consistency": {"method": "command", "snapshot": hook, "release": hook},
        }  # fmt: skip
        place.write({}, {VM: machine})
        with _writing(raw):
            for number in (1, 2):
                report = _synced(place)
                assert (report["point"], report["consistency"], report["warnings"]) == (number, "crash", [])
                assert sorted(path.name for path in subvolume.iterdir()) == ["웹 1"]
                _check_records((replica / VM / "disks/records.vhd").read_bytes())
        for disk in disks:
            copy = replica / VM / "disks" / disk.relative_to(source)
            assert copy.read_bytes() == disk.read_bytes()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Somebody who writes numbers, each to a place of its own and then to the beginning: the first is never ahead."""
    ended = Event()

    def write() -> None:
        random = Random(1)
        with path.open("r+b", buffering=0) as file:
            number = 0
            while not ended.wait(0.001):
                number += 1
                file.seek(4096 * (1 + number % 255))
                file.write(number.to_bytes(8, "big") + random.randbytes(100))
                file.seek(0)
                file.write(number.to_bytes(8, "big"))

    thread = Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _check_records(data: bytes) -> None:
    """All that was written before the last number is there, and nothing after the one that may be under way."""
    last = int.from_bytes(data[:8], "big")
    numbers = {int.from_bytes(data[4096 * slot :][:8], "big") for slot in range(1, 256)} - {0}
    assert last > 0
    assert set(range(max(1, last - 253), last + 1)) <= numbers
    assert max(numbers) <= last + 1


@contextmanager
def _server_with_shadow_copies(where: Path) -> Iterator[PrivateSamba]:
    """A server whose share `vms` lies on btrfs, and has its snapshots made by a script."""
    subvolume, script = where / "vms", where / "snapshots.sh"
    subprocess.run(["btrfs", "subvolume", "create", str(subvolume)], check=True, timeout=60, capture_output=True)
    script.write_text(_SNAPSHOTS)
    script.chmod(0o755)
    settings = {"registry shares": "yes", "include": "registry"}
    with running_samba({"others": SambaShare(where / "others")}, settings=settings) as server:
        conf = ("net", "-s", str(server.configuration_path), "conf")
        _done(*conf, "addshare", "vms", str(subvolume), "writeable=y", "guest_ok=n")
        _done(*conf, "setparm", "vms", "vfs objects", "shell_snap")
        for name, word in (("check path", "check"), ("create", "create"), ("delete", "delete")):
            _done(*conf, "setparm", "vms", f"shell_snap:{name} command", f"{script} {word}")
        server.restart()
        yield server


def _done(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.root
@pytest.mark.samba
def test_a_shadow_copy_is_made_by_a_real_server_read_as_its_share_and_deleted(tmp_path: Path) -> None:
    if not list(Path("/usr/lib").glob("*/samba/vfs/shell_snap.so")):
        pytest.skip("samba-vfs-modules is not installed")
    with mounted("btrfs") as where, site(tmp_path / "설치") as place:
        for directory in (where.parent, where):
            directory.chmod(0o755)
        with _server_with_shadow_copies(where) as server:
            source, replica = where / "vms/웹 1", place.base / "사본"
            (source / "sub").mkdir(parents=True)
            replica.mkdir()
            make_vhdx(source / "sub/디스크 🖴.vhdx", 1)
            raw = source / "records.vhd"
            raw.write_bytes(bytes(1 << 20))
            authentication = place.base / "auth"
            authentication.write_text(f"username = {server.username}\npassword = {server.password}\n")
            authentication.chmod(0o600)
            hook = [str(CONFIG / "hooks/shadow-copy.sh"), "127.0.0.1", "vms", str(authentication), str(server.port)]
            command = ["env", f"STATE_DIRECTORY={place.base}", *hook]
            machine = {
                "source": r"\\nas\vms\웹 1", "replica": str(replica), "every": "manual",
                "consistency": {"method": "command", "snapshot": command, "release": command},
            }  # fmt: skip
            place.write({"nas": described_server(place.base, "nas", Server(server, server.port))}, {VM: machine})
            with _writing(raw):
                report = _synced(place)
            assert (report["point"], report["consistency"], report["warnings"]) == (1, "crash", [])
            _check_records((replica / VM / "disks/records.vhd").read_bytes())
            copy = replica / VM / "disks/sub/디스크 🖴.vhdx"
            assert copy.read_bytes() == (source / "sub/디스크 🖴.vhdx").read_bytes()
            assert list(where.glob("snap-*")) == []
            assert list((place.base / "hooks").iterdir()) == []
            assert _done("net", "-s", str(server.configuration_path), "conf", "listshares").split() == ["vms"]


def _synced(place: Site) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "sync", VM, "--standalone", "--json", "--config", place.config],
        capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "PYTHONPATH": str(CONFIG.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
