"""The container images of docker/, built and run without an engine: the Dockerfiles' own steps in a bare Debian that
debootstrap makes, and then what compose.yaml does: two servers, and the daemon between them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from replicad.settings.document import read_document
from tests.support.dockerfiles import PATH, Image, build, copied, health_check, read_dockerfile
from tests.support.live_api import free_port

pytestmark = [
    pytest.mark.soak,
    pytest.mark.root,
    pytest.mark.samba,
    pytest.mark.skipif(shutil.which("debootstrap") is None or os.geteuid() != 0, reason="needs root and debootstrap"),
    pytest.mark.timeout(2400),
]

CHECKOUT = Path(__file__).parents[2]
DOCKER = CHECKOUT / "docker"
_SUITE = "bookworm"
_PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where systems are put; removed in the end, as they are large."""
    base = tmp_path_factory.mktemp("images")
    yield base
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def debian(room: Path) -> Path:
    """What stands for debian:bookworm-slim."""
    root = room / "debian"
    command = ["debootstrap", "--variant=minbase", _SUITE, str(root)]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", *command],
        capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in ("resolv.conf", "hosts"):  # which an engine puts into each container
        shutil.copy(Path("/etc") / name, root / "etc" / name)
    return root


@pytest.fixture(scope="module")
def python(debian: Path, room: Path) -> Path:
    """What stands for python:3.11-slim-bookworm: Debian's own Python 3.11, by the name that that image has for it."""
    root = copied(debian, room / "python")
    image = Image(root, {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive"})
    image.run(["apt-get", "update", "-qq"])
    image.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "python3", "python3-venv"])
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    return root


@pytest.fixture(scope="module")
def daemon_image(python: Path, room: Path) -> Image:
    """docker/Dockerfile, with packages from a directory: how pip is set up here is not set up there."""
    wheels = python / "wheels"
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "-c", str(CHECKOUT / "constraints.txt"),
        "-d", str(wheels), str(CHECKOUT), "hatchling",
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=600)
    environ = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
    return build(
        DOCKER / "Dockerfile", CHECKOUT, python, room / "replicad", environ, DOCKER / "Dockerfile.dockerignore"
    )


@pytest.fixture(scope="module")
def samba_image(debian: Path, room: Path) -> Image:
    """docker/samba/Dockerfile."""
    return build(
        DOCKER / "samba" / "Dockerfile", DOCKER / "samba", debian, room / "samba", {"DEBIAN_FRONTEND": "noninteractive"}
    )


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def _until(what: Callable[[], bool], log: Path) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not what():
        assert time.monotonic() < deadline_s, log.read_text(errors="replace")[-3000:]
        time.sleep(0.1)


def _healthy(image: Image, dockerfile: Path) -> bool:
    command = image.command_line(health_check(read_dockerfile(dockerfile)))
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def _answers(port: int) -> bool:
    """What the image of the servers has for its health check."""
    command = [word.replace("/445", f"/{port}") for word in health_check(read_dockerfile(DOCKER / "samba/Dockerfile"))]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def _init_of(process: subprocess.Popen[bytes]) -> int:
    """What is PID 1 for itself."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


def _points(image: Image) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(image.run(["replicad", "points", "web01", "--json"]))
    return found


def test_the_daemon_of_the_image_replicates_between_two_servers_of_the_other(
    daemon_image: Image, samba_image: Image, room: Path
) -> None:
    servers = {"site-a": ("vms", {"SAMBA_DISK": "web01/web01.vhdx"}), "site-b": ("replicas", {})}
    ports = {name: free_port() for name in servers}
    made = {"PASSWORDS_DIR": "/run/passwords", "PASSWORDS_OWNER": "10001"}
    (samba_image.root / "run/passwords").mkdir()
    samba_image.run([*samba_image.entry, "passwords", "site-a", "site-b", "api.token"], made)
    passwords = daemon_image.root / "run/passwords"
    shutil.copytree(samba_image.root / "run/passwords", passwords)
    for path in passwords.iterdir():
        os.chown(path, 10001, 10001)
        assert path.stat().st_mode & 0o777 == 0o600
    settings: Any = read_document((DOCKER / "demo.yaml").read_text(encoding="utf-8")).value
    for name, server in settings["servers"].items():
        server["address"] = f"127.0.0.1:{ports[name]}"
    settings["api"]["listen"] = f"127.0.0.1:{free_port()}"
    (daemon_image.root / "etc/replicad").mkdir()
    (daemon_image.root / "etc/replicad/replicad.yaml").write_text(json.dumps(settings))
    # Each container has a root of its own.
    sites = {name: replace(samba_image, root=copied(samba_image.root, room / name)) for name in servers}
    with ExitStack() as stack:
        for name, (share, more) in servers.items():
            environ = {
                "SAMBA_SHARE": share, "SAMBA_USER": "replicad", "SAMBA_PASSWORD_FILE": f"/run/passwords/{name}",
                "SAMBA_PORT": str(ports[name]), "SAMBA_INTERFACES": "127.0.0.1", **more,
            }  # fmt: skip
            command = sites[name].command_line([*samba_image.entry, *samba_image.command], environ)
            stack.enter_context(_running(command, room / f"{name}.log"))
        log = room / "replicad.log"
        # Before: nobody answers, and that is what the check says.
        assert not _healthy(daemon_image, DOCKER / "Dockerfile")
        for name, port in ports.items():
            _until(partial(_answers, port), room / f"{name}.log")
        assert daemon_image.user == "10001:10001"
        daemon = stack.enter_context(
            _running(daemon_image.command_line([*daemon_image.entry, *daemon_image.command]), log)
        )
        _until(lambda: _healthy(daemon_image, DOCKER / "Dockerfile"), log)
        _until(lambda: b"point=1" in log.read_bytes(), log)
        disk = sites["site-a"].root / "srv/share/web01/web01.vhdx"
        subprocess.run(["qemu-io", "-f", "vhdx", "-c", "write -q -P 7 1M 1M", str(disk)], check=True, timeout=60)
        _until(lambda: b"point=2" in log.read_bytes(), log)  # within its minute, by itself
        points = [(point["number"], point["kind"]) for point in _points(daemon_image)]
        assert points[:2] == [(1, "initial"), (2, "delta")]
        compared = ["qemu-img", "compare", "-f", "vhdx", "-F", "vhdx", str(disk), ""]
        compared[-1] = str(sites["site-b"].root / "srv/share/web01/disks/web01.vhdx")
        assert "identical" in subprocess.run(compared, capture_output=True, text=True, check=True, timeout=60).stdout
        os.kill(_init_of(daemon), signal.SIGTERM)  # as `docker stop` does, to PID 1
        assert daemon.wait(30) == 0
        assert not _healthy(daemon_image, DOCKER / "Dockerfile")


def test_nothing_in_the_image_is_the_users_to_write_but_its_state(daemon_image: Image) -> None:
    elsewhere = ["(", "-path", "/proc", "-o", "-path", "/dev", ")", "-prune"]
    search = ["find", "/", "-xdev", *elsewhere, "-o", "-writable", "-print"]
    found = subprocess.run(
        daemon_image.command_line(search), capture_output=True, text=True, timeout=120, check=False
    ).stdout.split()
    real = [path for path in found if not (daemon_image.root / path.lstrip("/")).is_symlink()]
    mine = [path for path in real if not path.startswith(("/var/lib/replicad", "/run/passwords"))]
    assert set(mine) <= {"/tmp", "/var/tmp", "/run/lock"}
    assert "/var/lib/replicad" in real
