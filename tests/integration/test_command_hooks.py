"""The examples in config/hooks/: what a linter says of them, and those that can run here, really run."""

from __future__ import annotations

import asyncio
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

import pytest

from replicad.model.address import parse_address
from replicad.settings import load_settings
from tests.support.commands import command_stage
from tests.support.daemon import site
from tests.support.filesystems import mounted
from tests.support.scene import make_vhdx

CONFIG = Path(__file__).parents[2] / "config"
HOOKS = sorted((CONFIG / "hooks").iterdir())
PROGRAM = "import sys; from replicad.cli.main import main; sys.exit(main())"
VM = "웹 서버 🖥"


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
                done = subprocess.run(
                    [sys.executable, "-c", PROGRAM, "sync", VM, "--standalone", "--json", "--config", place.config],
                    capture_output=True, text=True, timeout=100, check=False,
                    env={**os.environ, "PYTHONPATH": str(CONFIG.parent)},
                )  # fmt: skip
                assert done.returncode == 0, done.stderr
                report = json.loads(done.stdout)
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


@pytest.mark.parametrize("disk", [r"\\nas1\vms\웹 1\디스크 1.vhdx", r"\\nas1\vms\a.vhdx"])
async def test_a_shadow_copys_paths_are_those_of_the_disks_on_its_share(tmp_path: Path, disk: str) -> None:
    """By what rpcclient prints, as its source has it: a server that makes shadow copies is not to be had here."""
    programs = tmp_path / "bin"
    programs.mkdir()
    said = "6f1c(0a2b): share vms@{0A2B} exposed as a snapshot of \\\\\\\\NAS1\\\\vms"
    (programs / "rpcclient").write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> "{tmp_path}/asked"\nprintf "{said}\\n"\n')
    (programs / "rpcclient").chmod(0o755)
    command = (str(CONFIG / "hooks/shadow-copy.sh"), "nas1.example.net", "vms", "/etc/replicad/nas1.auth")
    environ = {"PATH": f"{programs}:{os.environ['PATH']}", "STATE_DIRECTORY": str(tmp_path)}
    async with command_stage(tmp_path) as stage:
        wrapped = ("env", *(f"{name}={text}" for name, text in environ.items()), *command)
        async with stage.snapshots(wrapped, wrapped).taken([disk], application=False) as taken:
            assert taken.places == (parse_address(disk.replace(r"\vms", r"\vms@{0A2B}")),)
        await asyncio.sleep(0)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.rpartition(" -c ")[2] for line in asked] == [
        "fss_create_expose backup ro vms", "fss_delete vms 6f1c 0a2b",
    ]  # fmt: skip
    assert list((tmp_path / "hooks").iterdir()) == []
