"""A password is used and never shown: not by any verb, in any mood, nor by what a crash leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from replicad.cli.main import main
from replicad.service.passwords import Secret, from_command, from_file
from tests.support.samba import SambaDirectory
from tests.support.scene import VM, Outcome, Scene, smb_scene
from tests.support.smb_relay import smb_relay

pytestmark = pytest.mark.samba
TALKATIVE = {"REPLICAD_DEBUG": "1", "PYTHONASYNCIODEBUG": "1"}
WRONG = "틀린 hunter2 🔑"


def forms(password: str) -> list[bytes]:
    """The password as it may lie in a file or in memory."""
    return [password.encode(), password.encode("utf-16-le"), repr(password).encode()]


def checked(outcome: Outcome, password: str) -> Outcome:
    for form in forms(password):
        assert form not in (outcome.out + outcome.err).encode()
    return outcome


@pytest.fixture
def scene(samba: SambaDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    for name, value in TALKATIVE.items():
        monkeypatch.setenv(name, value)
    return smb_scene(tmp_path, samba)


def run(scene: Scene, *verb: str) -> Outcome:
    """A process of its own, as talkative as can be."""
    process = scene.start(*verb, environ={**TALKATIVE, "PYTHONDEVMODE": "1", "PYTHONFAULTHANDLER": "1"})
    out, err = process.communicate(timeout=60)
    return checked(Outcome(process.returncode, out, err), scene.secrets[0])


def here(scene: Scene, *verb: str) -> Outcome:
    """The same in this process, as far as it goes: quicker."""
    out, err = io.StringIO(), io.StringIO()
    scene.configure()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*verb[:1], *(["--config", str(scene.config)] if verb[0] != "schema" else []), *verb[1:]])
    return checked(Outcome(code, out.getvalue(), err.getvalue()), scene.secrets[0])


def test_no_verb_shows_the_password_however_talkative_it_is_asked_to_be(scene: Scene) -> None:
    address = scene.machine["replica"].strip("'")
    target = str(scene.base / "target")
    assert run(scene, "sync", VM, "--standalone", "--json").code == 0
    for verb in (
        ("status", "--json"), ("points", VM, "--json"), ("verify", VM, "--standalone", "--json"),
        ("restore", VM, "--standalone", "--to", target, "--json"), ("probe", address, "--json"),
        ("check-config", "--json"), ("schema",),
    ):  # fmt: skip
        assert here(scene, *verb).code == 0
    for top in (scene.base, scene.source.parent):  # nor is it kept anywhere
        for path in top.rglob("*"):
            if path.is_file() and path.name != "비밀번호":
                assert not any(form in path.read_bytes() for form in forms(scene.secrets[0])), path


def test_no_failure_shows_the_password(scene: Scene) -> None:
    right = scene.secrets[0]
    file = scene.base / "비밀번호"
    for wrong in (WRONG, f"{right}\n{right}", f"{right}\0"):
        file.write_text(wrong)
        outcome = checked(here(scene, "sync", VM, "--standalone"), WRONG)
        assert outcome.code in (2, 12)
        assert "Traceback" in outcome.err
    file.write_text(WRONG)
    assert checked(run(scene, "sync", VM, "--standalone"), WRONG).code == 12
    scene.servers["nas"].pop("password_file")
    for command in (f"[sh, -c, 'echo {right} >&2; echo {right}; exit 3']", f"[sh, -c, 'echo {right}; echo {right}']"):
        scene.servers["nas"]["password_command"] = command
        assert here(scene, "status").code == 0
        assert here(scene, "sync", VM, "--standalone").code in (2, 5)


def test_a_password_in_the_configuration_or_an_address_is_refused_and_not_quoted(scene: Scene) -> None:
    secret = "hunter2-비밀"

    def refused(*verb: str) -> None:
        assert checked(here(scene, *verb), secret).code == 2

    for key, value in (("password", secret), ("pasword", f"'{secret}'"), ("password_comand", f"[echo, {secret}]")):
        scene.servers["nas"][key] = value
        refused("check-config")
        del scene.servers["nas"][key]
    for address in (f"smb://svc:{secret}@nas/vms", f"//svc%{secret}@nas/vms", f"\\\\svc:{secret}@nas\\vms"):
        refused("probe", address)
        scene.machine["source"], kept = f"'{address}'", scene.machine["source"]
        refused("check-config")
        scene.machine["source"] = kept


async def test_a_process_at_work_shows_no_password_to_other_users_and_leaves_no_core(
    scene: Scene, samba: SambaDirectory
) -> None:
    """`ps` shows arguments; a dump by faulthandler shows where each thread was; a core file would show everything."""
    async with smb_relay(samba.server.host, samba.server.port) as relay:
        scene.servers["nas"]["address"] = f"{relay.host}:{relay.port}"
        relay.freeze(answers=False)
        unlimited = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (unlimited[1], unlimited[1]))
        try:
            process = scene.start("sync", VM, "--standalone", environ={"PYTHONFAULTHANDLER": "1", "REPLICAD_DEBUG": ""})
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, unlimited)
        async with asyncio.timeout(30):
            while relay.connections == 0:  # noqa: ASYNC110 - the process connects when it does
                await asyncio.sleep(0.01)
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        process.send_signal(signal.SIGABRT)
        out, err = await asyncio.to_thread(process.communicate, timeout=30)
    (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core.split()[4] == "0"
    assert "Fatal Python error: Aborted" in err
    for form in forms(scene.secrets[0]):
        assert form not in shown
        assert form not in (out + err).encode()
    assert not [path for path in scene.base.iterdir() if path.name.startswith("core")]


def test_a_programmer_can_have_core_files() -> None:
    for environ, wanted in (({}, "0"), ({"REPLICAD_DEBUG": "1"}, str(_soft_limit()))):
        script = (
            "import resource, sys; sys.argv = ['replicad', 'schema']; from replicad.cli.main import main; "
            "code = main(); print(resource.getrlimit(resource.RLIMIT_CORE)[0], file=sys.stderr); sys.exit(code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, **environ}, capture_output=True, text=True, check=True
        )
        assert done.stderr.split() == [wanted]


def _soft_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_CORE)[0]


async def test_a_password_does_not_show_itself(tmp_path: Path) -> None:
    file = tmp_path / "pw"
    file.write_text("hunter2\n")
    file.chmod(0o600)
    for password in (await from_file(file, "nas", print), await from_command(["cat", str(file)], "nas")):
        assert isinstance(password, Secret)
        assert password == "hunter2"
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        future.set_result(password)
        for shown in (repr(password), repr(future), repr([password]), f"{password!r}", repr({"password": password})):
            assert "hunter2" not in shown


def _modes(top: Path) -> dict[str, int]:
    return {str(path.relative_to(top)): stat.S_IMODE(path.lstat().st_mode) for path in (top, *top.rglob("*"))}


def test_what_is_made_on_this_machine_is_for_its_user_alone(scene: Scene, tmp_path: Path) -> None:
    """Restored disks, a local replica, the state directory and all that is in them, whatever the umask."""
    scene.machine["replica"] = f"'{scene.base / '복제'}'"
    (scene.base / "복제").mkdir(mode=0o700)
    old = os.umask(0)
    try:
        scene.here("sync", VM, "--standalone").done()
        scene.here("restore", VM, "--standalone", "--to", str(scene.base / "a" / "b")).done()
    finally:
        os.umask(old)
    for top in (scene.base / "복제", scene.base / "a", scene.base / "state"):
        for path, mode in _modes(top).items():
            assert mode in (0o600, 0o700), (top, path, oct(mode))
