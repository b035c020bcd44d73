"""Recovery on a machine that has replicad and nothing else: no configuration, no state, no home, no source."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from replicad.storage.memory import MemoryShare
from tests.support.faulty import Fault, FaultyShare, When, crashes
from tests.support.restore_script import copied_out, files_below
from tests.support.samba import ENCRYPTED, READ_ONLY, SambaDirectory
from tests.support.scene import Outcome
from tests.support.world import CHUNK, VM, World, memory_world

_COMMAND = [sys.executable, "-P", "-c", "import sys; from replicad.cli.main import main; sys.exit(main())"]
_NO_LOCK = "so the replica is read without its lock"


def bare(*arguments: str, environ: Mapping[str, str] | None = None, before: tuple[str, ...] = ()) -> Outcome:
    """`replicad` in an empty environment, without a terminal."""
    done = subprocess.run(
        [*before, *_COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/",
        env={"PATH": f"{os.defpath}:/usr/sbin:/sbin", **(environ or {})}, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return Outcome(done.returncode, done.stdout, done.stderr)


History = dict[int, dict[str, bytes]]


async def _put_replica(share: Path, interrupted: bool) -> History:
    """A replica with two points in the directory `share`; `interrupted`: its third cycle died while it wrote a disk."""
    async with memory_world() as world:
        inner = MemoryShare()
        world.replica = inner
        data = Random(1).randbytes(5 * CHUNK)
        for keep in (2, 4):
            await world.put("하위/disk 💾.vhd", Random(keep).randbytes(keep * CHUNK) + data[keep * CHUNK :])
            await world.put("web.vmcx", b"<machine/>" * keep)
            await world.sync()
        if interrupted:
            await world.put("하위/disk 💾.vhd", Random(9).randbytes(6 * CHUNK))
            await _die_in_the_middle(world, inner)
        await copied_out(inner.view(), VM, share / VM)
        return world.history


async def _die_in_the_middle(world: World, inner: MemoryShare) -> None:
    for number in range(1, 100):
        world.replica = faulty = FaultyShare(inner.view(), {number: Fault(When.TORN)})
        assert await crashes(world.sync())
        if f"write {VM}/disks/하위/disk 💾.vhd.updating" in faulty.log[-1]:
            return


@pytest.fixture(params=[False, True], ids=["in order", "interrupted"])
def interrupted(request: pytest.FixtureRequest) -> bool:
    """Whether the replica's last cycle died."""
    return bool(request.param)


def recovers(history: History, target: Path, replica: str, *options: str, **how: Any) -> list[Outcome]:
    """Run every verb that recovery needs; each point comes back as it was."""
    listed = bare("points", "--replica", replica, *options, "--json", **how)
    assert (listed.code, [p["number"] for p in listed.json()]) == (0, [1, 2]), listed
    verified = bare("verify", "--replica", replica, *options, **how)
    assert verified.code == 0, verified
    latest = bare("restore", "--replica", replica, *options, "--to", f"{target}/2", **how)
    older = bare("restore", "--replica", replica, *options, "--to", f"{target}/1", "--point", "1", **how)
    for number, outcome in ((1, older), (2, latest)):
        assert outcome.code == 0, outcome
        assert files_below(target / str(number)) == history[number]
    return [verified, latest, older]


def test_a_local_directory(interrupted: bool, tmp_path: Path) -> None:
    history = asyncio.run(_put_replica(tmp_path, interrupted))
    for outcome in recovers(history, tmp_path / "되살린 것", str(tmp_path / VM)):
        assert "warning" not in outcome.err


@pytest.mark.root
def test_a_local_directory_that_is_mounted_for_reading_only(interrupted: bool, tmp_path: Path) -> None:
    share = tmp_path / "읽기 전용"
    share.mkdir()
    history = asyncio.run(_put_replica(share, interrupted))
    mounting = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    before = ("unshare", "--mount", "sh", "-c", mounting, str(share))
    for outcome in recovers(history, tmp_path / "되살린 것", str(share / VM), before=before):
        assert _NO_LOCK in outcome.err


ADDRESSES = {
    "unc": r"\\127.0.0.1\{share}\{path}",
    "slashes": "//127.0.0.1/{share}/{path}",
    "url": "smb://127.0.0.1/{share}/{path}",
}


def _address(form: str, share: str, path: str) -> str:
    parts = path.replace("/", "\\") if form == "unc" else path.replace(" ", "%20") if form == "url" else path
    return ADDRESSES[form].format(share=share, path=parts)


def _password_file(samba: SambaDirectory, directory: Path) -> str:
    path = directory / "비밀번호"
    path.touch(0o600)
    path.write_text(samba.server.password + "\n")
    return str(path)


@pytest.mark.samba
@pytest.mark.parametrize("form", ADDRESSES)
def test_a_share_that_may_only_be_read(form: str, samba: SambaDirectory, tmp_path: Path) -> None:
    history = asyncio.run(_put_replica(samba.path, interrupted=True))
    options = ["--port", str(samba.server.port), "--username", samba.server.username]
    options += ["--password-file", _password_file(samba, tmp_path), "--encryption", "allowed"]
    replica = _address(form, READ_ONLY, f"{samba.path.name}/{VM}")
    for outcome in recovers(history, tmp_path / "되살린 것", replica, *options):
        assert _NO_LOCK in outcome.err


@pytest.mark.samba
@pytest.mark.parametrize("by", ["file", "variable"])
def test_a_share_with_user_and_password_from_the_environment(by: str, samba: SambaDirectory, tmp_path: Path) -> None:
    history = asyncio.run(_put_replica(samba.path, interrupted=True))
    environ = {"REPLICAD_USERNAME": samba.server.username}
    if by == "file":
        environ["REPLICAD_PASSWORD_FILE"] = _password_file(samba, tmp_path)
    else:
        environ["REPLICAD_PASSWORD"] = samba.server.password
    replica = _address("unc", ENCRYPTED, f"{samba.path.name}/{VM}")
    recovers(history, tmp_path / "되살린 것", replica, "--port", str(samba.server.port), environ=environ)


@pytest.mark.samba
def test_a_share_with_the_password_asked_for_on_the_terminal(samba: SambaDirectory, tmp_path: Path) -> None:
    history = asyncio.run(_put_replica(samba.path, interrupted=False))
    replica = _address("unc", ENCRYPTED, f"{samba.path.name}/{VM}")
    typed = ["--replica", replica, "--port", str(samba.server.port), "--username", samba.server.username]
    terminal, ours = pty.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", *_COMMAND, "restore", *typed, "--to", str(tmp_path / "되살린 것")],
        stdin=ours, stdout=ours, stderr=ours, cwd="/", env={"PATH": os.defpath},
    ) as process:  # fmt: skip
        os.close(ours)
        said = b""
        while b"Password for " not in said:
            said += os.read(terminal, 4096)
        os.write(terminal, samba.server.password.encode() + b"\n")
        try:
            while True:
                said += os.read(terminal, 4096)
        except OSError:
            pass  # the other end is closed: the process has ended
        assert process.wait(60) == 0, said.decode()
    os.close(terminal)
    assert samba.server.password.encode() not in said
    assert files_below(tmp_path / "되살린 것") == history[2]


@pytest.mark.samba
def test_a_configuration_that_nobody_named_is_not_in_the_way(samba: SambaDirectory, tmp_path: Path) -> None:
    history = asyncio.run(_put_replica(samba.path, interrupted=False))
    config = tmp_path / "replicad" / "replicad.yaml"
    config.parent.mkdir()
    config.write_text("servers: [broken")
    options = ["--port", str(samba.server.port), "--username", samba.server.username]
    options += ["--password-file", _password_file(samba, tmp_path)]
    replica = _address("unc", ENCRYPTED, f"{samba.path.name}/{VM}")
    target = tmp_path / "되살린 것"
    typed = ["restore", "--replica", replica, *options, "--to", str(target)]
    named = bare(*typed, environ={"REPLICAD_CONFIG": str(config)})
    assert (named.code, target.exists()) == (2, False)
    found = bare(*typed, environ={"XDG_CONFIG_HOME": str(tmp_path)})
    assert found.code == 0, found
    assert "warning: going on without the configuration" in found.err
    assert files_below(target) == history[2]
