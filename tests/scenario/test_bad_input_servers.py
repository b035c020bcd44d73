"""Servers and shares that can't be used as the configuration says: one sentence, its exit code, and nothing lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicad.cli.demo.samba import PrivateSamba
from tests.support.filesystems import bound, mounted, resize
from tests.support.processes import other_process
from tests.support.samba import PLAIN, READ_ONLY, fresh_directory
from tests.support.scene import VM, Scene, change, contents, local_scene, smb, smb_scene

pytestmark = pytest.mark.samba
needs_root = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="smbd can become another user for root only"),
]
DISK = "디스크 1.vhdx"
HOLDS_OPEN = """
import sys
with open(sys.argv[1], "r+b"):
    print("open", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def scene(samba_server: PrivateSamba, tmp_path: Path) -> Iterator[Scene]:
    """A scene with one point, and a source that has changed since."""
    with fresh_directory(samba_server) as directory:
        made = smb_scene(tmp_path, directory)
        made.sync()
        change(made.source / DISK, 2)
        yield made


def test_wrong_password(scene: Scene) -> None:
    passwords = scene.base / "비밀번호"
    right = passwords.read_text()
    passwords.write_text("not-the-password 🔑")
    scene.secrets.append("not-the-password")
    with scene.untouched():
        outcome = scene.run("sync", VM, "--standalone")
        outcome.refused(
            12, "cannot sign in to server 127.0.0.1", "as replicad", "the user name or the password is wrong",
            "Check both under 'servers:'", "not tried again by itself",
        )  # fmt: skip
        outcome = scene.here("status", "--json").done()
    assert [(vm["state"], vm["health"]) for vm in outcome.json()] == [("error", "critical")]
    assert "password is wrong" in outcome.json()[0]["reasons"][0]
    passwords.write_text(right)
    scene.sync()
    scene.check_points()


def test_password_file_that_can_not_be_read(scene: Scene) -> None:
    (scene.base / "비밀번호").unlink()
    with scene.untouched():
        scene.here("sync", VM, "--standalone").refused(
            2, "cannot read the password for server nas", "비밀번호 can't be read (No such file or directory)",
            "Check the path",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("nas.invalid", 5, ("cannot find server nas.invalid", "does not resolve", "DNS or /etc/hosts")),
        ("127.0.0.1:1", 5, ("cannot connect to server 127.0.0.1:1", "port is closed", "SMB service runs")),
    ],
)
def test_server_that_is_not_there(scene: Scene, address: str, code: int, said: tuple[str, ...]) -> None:
    scene.servers["nas"]["address"] = address
    with scene.untouched():
        scene.run("sync", VM, "--standalone").refused(code, *said)


@pytest.mark.parametrize("end", ["source", "replica"])
def test_share_that_the_server_does_not_have(scene: Scene, end: str) -> None:
    scene.machine[end] = smb("없는 공유", "원본 1")
    with scene.untouched():
        scene.run("sync", VM, "--standalone").refused(
            10, r"cannot open the share \\nas\없는 공유", "has no share of that name", "Check the share's name"
        )


def test_source_directory_that_is_missing(scene: Scene) -> None:
    scene.machine["source"] = smb(PLAIN, scene.source.parent.name, "없음")
    with scene.untouched():
        scene.run("sync", VM, "--standalone").refused(
            10, "cannot find the source directory", r"가상 🖥\없음: there is no such directory", "correct 'source'"
        )


def test_replica_directory_that_is_missing_is_not_made(scene: Scene) -> None:
    # What is missing may be a file system that is not mounted: a replica beside it would be a second one.
    scene.machine["replica"] = smb(PLAIN, scene.source.parent.name, "없음")
    with scene.untouched():
        scene.run("sync", VM, "--standalone").refused(
            10, "cannot find the replica share's directory", r"가상 🖥\없음: there is no such directory", "Create it"
        )
    assert not (scene.source.parent / "없음").exists()


def test_local_directories_that_are_missing(tmp_path: Path) -> None:
    scene = local_scene(tmp_path)
    scene.machine["replica"] = f"'{tmp_path}/없음'"
    scene.here("sync", VM, "--standalone").refused(10, "replica share's directory", "/없음: there is no such directory")
    scene.machine["source"] = f"'{tmp_path}/원본 없음'"
    scene.here("sync", VM, "--standalone").refused(10, "source directory", "/원본 없음: there is no such directory")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["replicad.yaml", "state", "복제 2", "원본 1"]


def test_replica_share_that_is_read_only_is_not_written_but_still_restored_from(scene: Scene) -> None:
    scene.machine["replica"] = smb(READ_ONLY, scene.replica_share.parent.name, scene.replica_share.name)
    with scene.untouched():
        scene.run("sync", VM, "--standalone").refused(
            12, r"cannot lock \\nas\readonly", "replica.lock: access is denied", "Give the user rights"
        )
        outcome = scene.here("verify", VM, "--standalone").done()
        assert any("read without its lock" in warning for warning in outcome.warnings)
        target = scene.base / "restored"
        scene.here("restore", VM, "--standalone", "--to", str(target)).done()
    assert contents(target) == scene.history[1]


def test_new_replica_on_a_share_that_is_read_only(scene: Scene) -> None:
    scene.machine["replica"] = smb(READ_ONLY, scene.replica_share.parent.name)
    with scene.untouched():
        scene.here("sync", VM, "--standalone").refused(
            12, "cannot make directory", rf"가상 🖥\{VM}: access is denied", "Give the user rights"
        )


def _as_nobody(scene: Scene, server: PrivateSamba) -> None:
    server.share_directory(PLAIN).chmod(0o711)  # a temporary directory, which others could not even pass through
    scene.replica.chmod(0o700)
    name, password = "아무개", "nobody's password"
    server.add_user(name, password, unix_name="nobody")
    (scene.base / "아무개").write_text(password)
    (scene.base / "아무개").chmod(0o600)
    scene.secrets.append(password)
    scene.servers["nas"] |= {"username": name, "password_file": f"'{scene.base / '아무개'}'"}


class TestUserWithoutRights:
    """A second user of the server, who may read the source and nothing else."""

    pytestmark = needs_root

    def test_on_the_directory_of_a_replica(self, scene: Scene, samba_server: PrivateSamba) -> None:
        _as_nobody(scene, samba_server)
        with scene.untouched():
            for verb in (["sync", VM], ["verify", VM], ["restore", VM, "--to", str(scene.base / "restored")]):
                scene.here(*verb, "--standalone").refused(12, VM, "access is denied", "Give the user rights")
        assert not (scene.base / "restored").exists()

    def test_to_make_one(self, scene: Scene, samba_server: PrivateSamba) -> None:
        _as_nobody(scene, samba_server)
        scene.machine["replica"] = smb(PLAIN, scene.replica_share.parent.name)
        with scene.untouched():
            scene.here("sync", VM, "--standalone").refused(12, "make directory", VM, "access is denied")

    def test_to_read_the_source(self, scene: Scene, samba_server: PrivateSamba) -> None:
        _as_nobody(scene, samba_server)
        scene.source.chmod(0o700)
        with scene.untouched():
            scene.here("sync", VM, "--standalone").refused(12, "원본 1", "access is denied", "Give the user rights")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("kib", [300, 1500], ids=["initial", "delta"])
def test_replica_share_that_is_full(samba_server: PrivateSamba, tmp_path: Path, kib: int) -> None:
    with fresh_directory(samba_server) as directory, mounted("tmpfs", kib * 1024) as small:
        scene = smb_scene(tmp_path, directory)
        with bound(small, scene.replica_share):
            if kib > 1024:
                scene.sync()
                change(scene.source / DISK, 9, length=700 * 1024)
            for _ in range(2):
                outcome = scene.run("sync", VM, "--standalone")
                outcome.refused(
                    1, rf"가상 🖥\복제 2\{VM}", "ake room", "run 'replicad sync' again" if scene.history else ""
                )
                scene.check_points()
            resize(small, 8 << 20)
            scene.sync()
            scene.check_points()


def test_password_shows_up_nowhere(scene: Scene) -> None:
    """Not in a traceback that was asked for, and not in the arguments of any process while one waits."""
    password = scene.secrets[0]
    scene.servers["nas"]["address"] = f"{scene.servers['nas']['address'].partition(':')[0]}:1"
    process = scene.start("--debug", "sync", VM, "--standalone")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (5, "")
    assert "Traceback" in err
    assert password not in err


def test_password_is_in_no_process_arguments_while_a_sync_runs(samba_server: PrivateSamba, tmp_path: Path) -> None:
    with fresh_directory(samba_server) as directory:
        scene = smb_scene(tmp_path, directory)
        scene.machine |= {"source": f"'{scene.source}'", "consistency": "{wait: 60s}"}
        with other_process(HOLDS_OPEN, str(scene.source / DISK)) as writer:
            assert writer.line() == "open"
            process = scene.start("sync", VM, "--standalone")
            assert process.stderr is not None
            while process.stderr.readline() != "holding the source\n":
                assert process.poll() is None
            for arguments in Path("/proc").glob("[0-9]*/cmdline"):
                assert samba_server.password.encode() not in _bytes(arguments)
            writer.go_on()
            process.communicate(timeout=60)
        assert process.returncode == 0


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""  # that process has ended
