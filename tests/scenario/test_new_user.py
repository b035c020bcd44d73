"""The journey of a new user: the wheel is installed, the README is followed to the letter, the daemon is started as its
unit says, and then things break."""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from replicad.cli.demo.samba import PrivateSamba, SambaShare
from tests.support.samba import running_samba
from tests.support.wheel import CHECKOUT, installed
from tools.made import COMPLETIONS

pytestmark = [
    pytest.mark.samba,
    pytest.mark.root,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, and becomes another user"),
]

_OTHER_USER = "backup"
_WAIT_S = 120.0
_SHARE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class _Home:
    """What stands for a host: `root` is put in front of all its paths."""

    root: Path
    environment: Path
    nas1: PrivateSamba
    nas2: PrivateSamba

    def here(self, text: str) -> str:
        """What the README says, for this host and these servers."""
        text = re.sub(r"(?<![\w.])/(etc/replicad|var/lib/replicad|srv/trial)", rf"{self.root}/\1", text)
        for name, server in (("nas1", self.nas1), ("nas2", self.nas2)):
            text = text.replace(f"{name}.example.net", f"127.0.0.1:{server.port}")
        return text.replace("username: svc", f"username: {self.nas1.username}")

    @property
    def config(self) -> Path:
        return self.root / "etc/replicad/replicad.yaml"

    def password_file(self, name: str) -> Path:
        return self.root / f"etc/replicad/{name}.pw"

    @property
    def environ(self) -> dict[str, str]:
        return {
            "PATH": f"{self.environment}/bin:/usr/bin:/bin", "HOME": str(self.root), "LANG": "C.UTF-8",
            "REPLICAD_CONFIG": str(self.config),
        }  # fmt: skip

    def type(self, line: str, expect: int = 0) -> str:
        """Run a command line of a guide; what it says."""
        done = subprocess.run(
            ["bash", "-c", self.here(line)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_WAIT_S, check=False, env=self.environ, cwd=self.root,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == expect, f"{line}: {done.returncode}: {said}"
        assert "Traceback" not in said
        return said


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The wheel's; where other users can read it."""
    room = Path(tempfile.mkdtemp(prefix="replicad-wheel-", dir="/tmp"))
    room.chmod(0o755)
    yield installed(room)
    shutil.rmtree(room)


@contextmanager
def _small_file_system(at: Path) -> Iterator[None]:
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SHARE_BYTES}", "tmpfs", str(at)], check=True, timeout=60)
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True, timeout=60)


@pytest.fixture
def home(environment: Path) -> Iterator[_Home]:
    """A host with nothing but the wheel, and two servers: a machine's disk on one, and some room on the other."""
    root = Path(tempfile.mkdtemp(prefix="replicad-home-", dir="/tmp"))
    root.chmod(0o755)
    for name in ("etc", "var/lib", "srv/vms/web01"):
        (root / name).mkdir(parents=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root)
        stack.enter_context(_small_file_system(root / "srv/replica"))
        nas1 = stack.enter_context(running_samba({"vms": SambaShare(root / "srv/vms")}))
        nas2 = stack.enter_context(running_samba({"replica": SambaShare(root / "srv/replica")}))
        subprocess.run(["qemu-img", "create", "-q", "-f", "vhdx", str(_disk(root)), "256M"], check=True, timeout=60)
        _change(root, 0, 8, 1)
        yield _Home(root, environment, nas1, nas2)


def _disk(root: Path) -> Path:
    return root / "srv/vms/web01/web01.vhdx"


def _change(root: Path, offset_mib: int, length_mib: int, pattern: int) -> None:
    command = f"write -q -P {pattern} {offset_mib}M {length_mib}M"
    subprocess.run(["qemu-io", "-f", "vhdx", "-c", command, str(_disk(root))], check=True, timeout=60)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _steps() -> dict[int, list[tuple[str, str]]]:
    """The blocks of each step of "Your first replica": (language, text)."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    part = text[text.index("## Your first replica") : text.index("**When something is wrong**")]
    found: dict[int, list[tuple[str, str]]] = {}
    for step in re.split(r"^(?=\*\*\d\. )", part, flags=re.MULTILINE)[1:]:
        found[int(step[2])] = re.findall(r"^```(\w*)\n(.*?)^```", step, re.MULTILINE | re.DOTALL)
    return found


def _lines(step: list[tuple[str, str]]) -> list[str]:
    return [line for _, text in step for line in text.splitlines()]


def _follow_the_readme(home: _Home) -> None:
    """Steps 1 to 5."""
    steps = _steps()
    assert list(steps) == [1, 2, 3, 4, 5, 6, 7]
    *making, editing = _lines(steps[1])
    assert editing.startswith("editor ")
    for line in making:
        home.type(line)
    for name, server in (("nas1", home.nas1), ("nas2", home.nas2)):
        home.password_file(name).write_text(server.password + "\n")
    ((language, text),) = steps[2]
    assert language == "yaml"
    home.config.write_text(home.here(text).replace("every: 1d", "every: 1h"), encoding="utf-8")
    check, probe = _lines(steps[3])
    assert home.type(check) == ""
    assert "✗" not in home.type(probe)
    dry, first, points, verify = _lines(steps[4])
    assert "nothing was written" in home.type(dry)
    assert "point 1 (initial, cold) committed" in home.type(first)
    assert "initial" in home.type(points)
    assert "sound" in home.type(verify)
    (restore,) = _lines(steps[5])
    home.type(restore)
    assert _digest(home.root / "srv/trial/web01.vhdx") == _digest(_disk(home.root))


@contextmanager
def _foreground(home: _Home) -> Iterator[subprocess.Popen[str]]:
    """The first block of step 6, in a terminal of its own."""
    ((_, line), _) = _steps()[6]
    with subprocess.Popen(
        shlex.split(line), env=home.environ, cwd=home.root, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            assert "ready" in process.stderr.readline()
            yield process
        finally:
            process.kill()


def _read_until(stream: IO[str], text: str) -> None:
    seen = ""
    for line in stream:
        seen += line
        if text in line:
            return
    pytest.fail(f"it ended, and said: {seen}")


def _watch_and_sync(home: _Home) -> None:
    watch, sync = _steps()[6][1][1].splitlines()
    with subprocess.Popen(shlex.split(watch), env=home.environ, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        _read_until(watching.stdout, "web01: ")
        _change(home.root, 1, 1, 7)
        # A machine that is new to the daemon began at once, and that was point 2.
        assert "point 3 (delta, cold) committed" in home.type(sync)
        _read_until(watching.stdout, "point 3")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(_WAIT_S) == 0


def _user_of_the_service() -> str:
    """Another user, if the packages that the tests run with can be read by others; else root."""
    look = [
        "setpriv",
        f"--reuid={_OTHER_USER}",
        "--clear-groups",
        "test",
        "-r",
        sysconfig.get_path("purelib") + "/click",
    ]
    return _OTHER_USER if subprocess.run(look, timeout=60, check=False).returncode == 0 else "root"


@contextmanager
def _service(home: _Home) -> Iterator[subprocess.Popen[bytes]]:
    """As the unit says it, once it is ready; its log is in `log`."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]  # keys are as they are written
    unit.read(CHECKOUT / "systemd" / "replicad.service")
    service, user = unit["Service"], _user_of_the_service()
    (chown,) = [line for line in _lines(_steps()[7]) if line.startswith("chown")]
    home.type(chown.replace(f"{service['User']}:", f"{user}:"))
    line = home.here(service["ExecStart"].replace("/usr/local/bin/replicad", str(home.environment / "bin/replicad")))
    manager_path = home.root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, (home.root / "log").open("wb") as log:
        manager.bind(str(manager_path))
        manager_path.chmod(0o777)
        manager.settimeout(_WAIT_S)
        variable, _, value = service["Environment"].partition("=")
        environ = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", variable: value, "NOTIFY_SOCKET": str(manager_path)}
        process = subprocess.Popen(
            ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs", *shlex.split(line)],
            env=environ, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            while b"READY=1" not in manager.recv(4096):
                pass
            yield process
        finally:
            process.kill()
            process.wait(_WAIT_S)


def _the_server_is_away(home: _Home) -> None:
    home.nas2.stop()
    assert "the port is closed" in home.type("replicad sync web01", expect=5)
    status = home.type("replicad status")
    assert "warning" in status
    assert "the next one is due in" in status
    assert "✗ port" in home.type(r"replicad probe '\\nas2\replica'", expect=5)
    home.nas2.restart()
    assert "committed" in home.type("replicad sync web01")
    assert "normal" in home.type("replicad status")


def _the_password_is_wrong(home: _Home) -> None:
    file = home.password_file("nas2")
    right = file.read_text()
    file.write_text("another\n")
    home.nas2.restart()
    assert "the user name or the password is wrong" in home.type("replicad sync web01", expect=12)
    status = home.type("replicad status")
    assert "critical" in status
    file.write_text(right)
    (advice,) = re.findall(r"When that is done: '(replicad [^']+)'", status)
    home.type(advice)
    assert "committed" in home.type("replicad sync web01")
    assert "normal" in home.type("replicad status")


def _the_share_is_full(home: _Home) -> None:
    there = home.root / "srv/replica"
    with (there / "somebody else's").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(there).free - (1 << 20))
    _change(home.root, 0, 16, 9)
    said = home.type("replicad sync web01", expect=1)
    assert "no space is left on the share" in said
    assert "all points are intact" in said
    assert "error" in home.type("replicad status")
    (there / "somebody else's").unlink()
    assert "committed" in home.type("replicad sync web01")
    assert "normal" in home.type("replicad status")


def _the_configuration_has_a_mistake(home: _Home) -> None:
    good = home.config.read_text(encoding="utf-8")
    home.config.write_text(good.replace("every:", "evry:"), encoding="utf-8")
    line = good.splitlines().index(next(line for line in good.splitlines() if "every:" in line)) + 1
    complaint = f"{home.config}:{line}: virtual_machines.web01.evry: unknown key; did you mean 'every'?"
    assert complaint in home.type("replicad reload", expect=2)
    assert complaint in home.type("replicad check-config", expect=2)
    assert "normal" in home.type("replicad status")  # the daemon goes on by what it had
    home.config.write_text(good + "log: {level: debug}\n", encoding="utf-8")
    assert "taken: 1 virtual machine" in home.type("replicad reload")


def test_from_the_wheel_to_a_service_that_breaks_and_is_mended(home: _Home) -> None:
    first = _digest(_disk(home.root))
    _follow_the_readme(home)
    with _foreground(home) as daemon:
        _watch_and_sync(home)
        daemon.send_signal(signal.SIGINT)  # Ctrl-C
        daemon.communicate(timeout=_WAIT_S)
        assert daemon.returncode == 0
    with _service(home) as service:
        assert "one is running already" in home.type("replicad run", expect=11)
        _the_server_is_away(home)
        _the_password_is_wrong(home)
        _the_share_is_full(home)
        _the_configuration_has_a_mistake(home)
        home.type(f"replicad restore web01 --point 1 --to {home.root}/again")
        assert _digest(home.root / "again/web01.vhdx") == first
        service.terminate()
        assert service.wait(_WAIT_S) == 0
    log = (home.root / "log").read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert home.nas2.password not in log
    assert "no daemon runs" in home.type("replicad pause web01", expect=5)
    assert "normal" in home.type("replicad status")
    assert "sound" in home.type("replicad verify web01")


def test_the_wheel_brings_manual_pages_and_completion(environment: Path) -> None:
    share = environment / "share"
    for name in ("man/man1/replicad.1", "man/man5/replicad.yaml.5", *COMPLETIONS.values()):
        assert (share / name).read_bytes() == (CHECKOUT / "share" / name).read_bytes(), name
