"""Disks that somebody writes, before a cycle and during it: waited for, then refused, or called fuzzy."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from replicad.cli.demo.samba import PrivateSamba, SambaShare
from replicad.model.address import SmbAddress
from replicad.model.errors import BusyError
from replicad.storage.port import OpenMode, ShareFile
from tests.support.processes import other_process
from tests.support.samba import PLAIN, fresh_directory, open_share, running_samba
from tests.support.scene import VM, Outcome, Scene, change, local_scene, smb_scene

DISK = "디스크 1.vhdx"
MIB = 1024 * 1024
METHODS = ("Shut the virtual machine down", "reflink, qemu or command", "'allow_fuzzy: true' accepts")
WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
print("open", flush=True)
sys.stdin.readline()
os.pwrite(fd, b"written meanwhile", 4 << 20)
"""


def test_local_writer_is_waited_for_and_then_named(tmp_path: Path) -> None:
    scene = local_scene(tmp_path)
    scene.machine["consistency"] = "{wait: 2s}"
    scene.sync()
    with scene.untouched(), other_process(WRITER, str(scene.source / DISK)) as writer:
        assert writer.line() == "open"
        began_s = time.monotonic()
        outcome = scene.run("sync", VM, "--standalone")
        outcome.refused(5, f"cannot hold {scene.source}/{DISK}: process {writer.pid}", "open for writing", *METHODS)
        assert time.monotonic() - began_s >= 2
    assert scene.sync() == 2
    scene.check_points()


def test_cycle_goes_on_when_the_writer_goes_in_time(tmp_path: Path) -> None:
    scene = local_scene(tmp_path)
    scene.machine["consistency"] = "{wait: 60s}"
    with other_process(WRITER, str(scene.source / DISK)) as writer:
        assert writer.line() == "open"
        process = scene.start("sync", VM, "--standalone")
        assert process.stderr is not None
        while process.stderr.readline() != "holding the source\n":
            assert process.poll() is None
        writer.go_on()
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert scene.sync() == 2
    scene.check_points()


def test_fuzzy_copy_is_accepted_only_where_it_is_allowed_and_says_so(tmp_path: Path) -> None:
    scene = local_scene(tmp_path)
    scene.sync()
    scene.machine["consistency"] = "{wait: 0s, allow_fuzzy: true}"
    with other_process(WRITER, str(scene.source / DISK)) as writer:
        assert writer.line() == "open"
        outcome = scene.run("sync", VM, "--standalone", "--json").done()
    assert (outcome.json()["point"], outcome.json()["consistency"]) == (2, "fuzzy")
    assert "without a hold, so the point promises nothing" in outcome.json()["warnings"][0]
    assert any("promises nothing" in warning for warning in outcome.warnings)
    points = scene.here("points", VM, "--json").done().json()
    assert [p["consistency"] for p in points] == ["cold", "fuzzy"]
    reasons = scene.here("status", "--json").done().json()[0]["reasons"]
    assert any("the latest point is fuzzy" in reason for reason in reasons)
    assert scene.sync() == 3
    scene.check_points()


@asynccontextmanager
async def _smb_writer(server: PrivateSamba, scene: Scene) -> AsyncIterator[ShareFile]:
    """A second client that has the disk open for writing."""
    directory = SmbAddress("nas", PLAIN, f"{scene.source.parent.name}/{scene.source.name}")
    async with open_share(server, directory) as share, await share.open(DISK, OpenMode.WRITE) as file:
        yield file


@pytest.mark.samba
async def test_writer_on_another_smb_client_is_waited_for_and_refused(
    samba_server: PrivateSamba, tmp_path: Path
) -> None:
    with fresh_directory(samba_server) as directory:
        scene = smb_scene(tmp_path, directory)
        await asyncio.to_thread(scene.run, "sync", VM, "--standalone")
        with scene.untouched():
            async with _smb_writer(samba_server, scene):
                outcome = await asyncio.to_thread(scene.run, "sync", VM, "--standalone")
            outcome.refused(5, rf"cannot hold \\nas\encrypted\{directory.path.name}", "somebody else has it", *METHODS)
        outcome = await asyncio.to_thread(scene.run, "sync", VM, "--standalone", "--json")
        assert outcome.done().json()["point"] == 2


@pytest.fixture
def stalling(tmp_path: Path) -> Iterator[tuple[Scene, PrivateSamba]]:
    """A local source with 48 MiB of changes, and a replica on a server of its own, with one point."""
    top = tmp_path / "둘"
    top.mkdir()
    scene = local_scene(top)
    with running_samba({PLAIN: SambaShare(scene.replica_share)}) as server:
        (tmp_path / "pw").write_text(server.password)
        (tmp_path / "pw").chmod(0o600)
        scene.base = tmp_path
        scene.secrets.append(server.password)
        scene.servers["nas"] = {
            "address": f"{server.host}:{server.port}", "username": server.username,
            "password_file": f"'{tmp_path / 'pw'}'",
        }  # fmt: skip
        scene.machine["replica"] = f"'\\\\nas\\{PLAIN}'"
        scene.machine["disks"] = '["*.vhdx", "*.img"]'
        (scene.source / "큰 것.img").write_bytes(bytes(48 * MIB))
        scene.sync()
        change(scene.source / "큰 것.img", 3, at=0, length=48 * MIB)
        yield scene, server


def _stop_once_writing(scene: Scene, server: PrivateSamba) -> None:
    """Let the server stand still as soon as the cycle has begun to write."""
    deadline_s = time.monotonic() + 60
    while not (scene.replica / "disks" / "큰 것.img.updating").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
    for pid in server.pids():
        os.kill(pid, signal.SIGSTOP)


def _go_on(server: PrivateSamba) -> None:
    for pid in server.pids():
        os.kill(pid, signal.SIGCONT)


@pytest.mark.samba
def test_local_writer_that_comes_during_the_read_costs_the_point(stalling: tuple[Scene, PrivateSamba]) -> None:
    scene, server = stalling
    process = scene.start("sync", VM, "--standalone")
    _stop_once_writing(scene, server)
    with other_process(WRITER, str(scene.source / "큰 것.img")) as writer:
        # The kernel lets it in when the cycle gives its lease up, which the cycle does at once.
        assert writer.line() == "open"
        writer.go_on()
        assert writer.process.wait(30) == 0
    _go_on(server)
    out, err = process.communicate(timeout=60)
    outcome = scene.checked(Outcome(process.returncode, out, err))
    outcome.refused(5, f"{scene.source}/큰 것.img: somebody has opened it for writing meanwhile", *METHODS)
    assert len(scene.here("points", VM, "--json").done().json()) == 1
    assert scene.sync() == 2
    scene.check_points()


@pytest.mark.samba
def test_interrupted_sync_ends_at_once_and_the_next_one_goes_on(stalling: tuple[Scene, PrivateSamba]) -> None:
    scene, server = stalling
    process = scene.start("sync", VM, "--standalone", "--json")
    _stop_once_writing(scene, server)
    process.send_signal(signal.SIGINT)
    _go_on(server)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "replicad: interrupted"
    assert "Traceback" not in err
    assert list((scene.replica / "disks").glob("큰 것.img*")) == [scene.replica / "disks" / "큰 것.img.updating"]
    scene.check_points()
    outcome = scene.here("sync", VM, "--standalone", "--json").done()
    assert outcome.json()["resumed"] is True
    scene.history[2] = {p.name: p.read_bytes() for p in scene.source.iterdir()}
    scene.check_points()


@pytest.mark.samba
async def test_smb_writer_is_kept_out_during_the_read(
    samba_server: PrivateSamba, stalling: tuple[Scene, PrivateSamba]
) -> None:
    scene, server = stalling
    with fresh_directory(samba_server) as directory:
        source = directory.path / "원본"
        scene.source.rename(source)
        scene.source = source
        scene.servers["src"] = {**scene.servers["nas"], "address": f"{samba_server.host}:{samba_server.port}"}
        (scene.base / "src").write_text(samba_server.password)
        (scene.base / "src").chmod(0o600)
        scene.servers["src"]["password_file"] = f"'{scene.base / 'src'}'"
        scene.machine["source"] = f"'\\\\src\\{PLAIN}\\{directory.path.name}\\원본'"
        process = scene.start("sync", VM, "--standalone", "--resync")
        _stop_once_writing(scene, server)
        try:
            async with open_share(samba_server, SmbAddress("nas", PLAIN, f"{directory.path.name}/원본")) as share:
                with pytest.raises(BusyError):
                    await share.open("큰 것.img", OpenMode.WRITE)
        finally:
            _go_on(server)
        _, err = await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == 0, err
        scene.history[2] = {p.name: p.read_bytes() for p in scene.source.iterdir()}
    await asyncio.to_thread(_points_by_process, scene)


def _points_by_process(scene: Scene) -> None:
    for number, wanted in scene.history.items():
        target = scene.base / f"restored {number}"
        scene.run("restore", VM, "--standalone", "--point", str(number), "--to", str(target)).done()
        assert {p.name: p.read_bytes() for p in target.iterdir()} == wanted
