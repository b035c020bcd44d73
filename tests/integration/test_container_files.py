"""What docker/ holds, without a container engine: what linters and Compose say of it, and its programs, really run."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from replicad.settings import load_settings
from replicad.settings.document import read_document
from tests.support.daemon import Site, site
from tests.support.dockerfiles import health_check, read_dockerfile, taken_into_the_context
from tests.support.live_api import free_port

CHECKOUT = Path(__file__).parents[2]
DOCKER = CHECKOUT / "docker"
_USER = "backup"
"""One that every Debian has, and nobody is."""


def _need(program: str) -> str:
    found = shutil.which(program, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def _silent(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=DOCKER)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _yaml(name: str) -> Any:
    return read_document((DOCKER / name).read_text(encoding="utf-8")).value


@pytest.mark.parametrize("file", ["Dockerfile", "samba/Dockerfile"])
def test_a_linter_finds_nothing_in_the_dockerfiles(file: str) -> None:
    _silent(_need("hadolint"), file)


def test_a_linter_finds_nothing_in_the_script() -> None:
    _silent(_need("shellcheck"), "samba/entry.sh")


def test_compose_takes_the_file() -> None:
    done = subprocess.run(
        [_need("docker-compose"), "-f", "compose.yaml", "config", "--services"],
        capture_output=True, text=True, timeout=100, check=False, cwd=DOCKER,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == _yaml("compose.yaml")["services"].keys()


def test_what_the_dockerfile_copies_is_in_the_context_and_nothing_else() -> None:
    patterns = (DOCKER / "Dockerfile.dockerignore").read_text().split()
    copied = {
        source
        for step in read_dockerfile(DOCKER / "Dockerfile")
        if step.word == "COPY" and not step.text.startswith("--from")
        for source in step.text.split()[:-1]
    }
    assert copied == {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    for path in (
        ".git/config",
        ".venv/bin/python",
        "tests/conftest.py",
        "docker/compose.yaml",
        "replicad/__pycache__/x",
    ):
        assert not taken_into_the_context(path, patterns), path
    for path in (*copied, "replicad/cli/main.py"):
        assert taken_into_the_context(path, patterns), path
        assert (CHECKOUT / path).exists()


def test_the_demonstration_has_no_rights_and_nothing_of_it_is_open_to_others() -> None:
    compose = _yaml("compose.yaml")
    daemon = compose["services"]["replicad"]
    assert daemon["cap_drop"] == ["ALL"]
    assert daemon["read_only"] is True
    assert "no-new-privileges:true" in daemon["security_opt"]
    for name, service in compose["services"].items():
        assert "privileged" not in service
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
    users = [step.text for step in read_dockerfile(DOCKER / "Dockerfile") if step.word == "USER"]
    assert users == ["10001:10001"]


def test_the_parts_of_the_demonstration_fit_together() -> None:
    compose, settings = _yaml("compose.yaml"), load_settings(DOCKER / "demo.yaml")
    services, made = compose["services"], compose["services"]["passwords"]["command"][1:]
    machine = settings.virtual_machines["web01"]
    for place in (machine.source, machine.replica):
        _, server, share, *below = re.split(r"[\\/]+", str(place))
        assert services[server]["environment"]["SAMBA_SHARE"] == share
        described = settings.servers[server]
        assert services[server]["environment"]["SAMBA_USER"] == described.username
        assert services[server]["environment"]["SAMBA_PASSWORD_FILE"] == str(described.password_file)
        assert described.password_file is not None
        assert described.password_file.name in made
        disk = services[server]["environment"].get("SAMBA_DISK", "/".join([*below, "x"]))
        assert disk.startswith("/".join(below))
    assert settings.api is not None
    assert settings.api.token_file.name in made
    prometheus = _yaml("prometheus.yaml")["scrape_configs"][0]
    assert prometheus["static_configs"] == [{"targets": [settings.api.address]}]
    assert prometheus["authorization"] == {"credentials_file": str(settings.api.token_file)}


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    text = (DOCKER / "prometheus.yaml").read_text(encoding="utf-8")
    (tmp_path / "token").write_text("x")
    text = text.replace("/etc/prometheus/alerts.yaml", str(CHECKOUT / "monitoring" / "alerts.yaml"))
    (tmp_path / "prometheus.yaml").write_text(text.replace("/run/passwords/api.token", str(tmp_path / "token")))
    done = subprocess.run(
        [_need("promtool"), "check", "config", str(tmp_path / "prometheus.yaml")],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# --- the script of the servers, and the health check ------------------------------------------------------------------


def _entry(*arguments: str, **environ: str) -> list[str]:
    script = str(DOCKER / "samba" / "entry.sh")
    return [
        "env",
        "-i",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        *(f"{k}={v}" for k, v in environ.items()),
        script,
        *arguments,
    ]


def test_passwords_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    make = _entry("passwords", "site-a", "site b", PASSWORDS_DIR=str(tmp_path), PASSWORDS_OWNER=str(os.getuid()))
    subprocess.run(make, check=True, timeout=60)
    first = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert first.keys() == {"site-a", "site b"}
    assert len({*first.values()}) == 2
    assert all(re.fullmatch(r"[0-9a-f]{48}\n", text) for text in first.values())
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    subprocess.run(make, check=True, timeout=60)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == first


@dataclass(frozen=True, slots=True)
class _Server:
    base: Path
    port: int
    log: Path

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def password_file(self) -> Path:
        return self.base / "pw"


@contextmanager
def _serving(share: str, **environ: str) -> Iterator[_Server]:
    base = Path(tempfile.mkdtemp(prefix="replicad-smb-", dir="/tmp"))
    base.chmod(0o755)
    server = _Server(base, free_port(), base / "log")
    server.password_file.touch(0o600)
    server.password_file.write_text("비밀 pw-0123456789abcdef\n")
    command = _entry(
        "serve", SAMBA_SHARE=share, SAMBA_USER=_USER, SAMBA_PASSWORD_FILE=str(server.password_file),
        SAMBA_DIR=str(server.data), SAMBA_STATE=str(base / "smbd"), SAMBA_PORT=str(server.port),
        SAMBA_INTERFACES="127.0.0.1", **environ,
    )  # fmt: skip
    with server.log.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        _until_it_answers(process, server)
        yield server
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(base)


def _until_it_answers(process: subprocess.Popen[bytes], server: _Server) -> None:
    deadline_s = time.monotonic() + 60
    while True:
        assert process.poll() is None, server.log.read_text(errors="replace")
        assert time.monotonic() < deadline_s, server.log.read_text(errors="replace")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", server.port)) == 0:
                return
        time.sleep(0.05)


def _health(of: Site) -> subprocess.CompletedProcess[str]:
    program, script = health_check(read_dockerfile(DOCKER / "Dockerfile"))
    assert (program, script) == ("/opt/replicad/bin/python", "/opt/replicad/healthy.py")
    environ = {**os.environ, "REPLICAD_CONFIG": str(of.config), "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, str(DOCKER / Path(script).name)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)


@pytest.mark.samba
@pytest.mark.root
@pytest.mark.timeout(240)
def test_the_daemon_replicates_between_two_servers_of_the_script_and_is_healthy(tmp_path: Path) -> None:
    _need("qemu-img")
    settings = _yaml("demo.yaml")
    with (
        _serving("vms", SAMBA_DISK="web01/web01.vhdx") as first,
        _serving("replicas") as second,
        site(tmp_path / "데몬") as place,
    ):
        for name, server in (("site-a", first), ("site-b", second)):
            settings["servers"][name] = {
                "address": f"127.0.0.1:{server.port}", "username": _USER, "password_file": str(server.password_file),
            }  # fmt: skip
        place.write(settings["servers"], settings["virtual_machines"])
        assert _health(place).returncode == 1
        daemon = place.ready()
        healthy = _health(place)
        assert (healthy.returncode, healthy.stdout, healthy.stderr) == (0, "ok\n", "")
        daemon.wait_for("cycle done", point=1)
        subprocess.run(
            ["qemu-io", "-f", "vhdx", "-c", "write -q -P 7 1M 1M", str(first.data / "web01/web01.vhdx")],
            check=True,
            timeout=60,
        )
        (place.state_dir / "triggers" / "web01").touch()
        assert daemon.wait_for("cycle done", point=2)["changed_bytes"] >= 1 << 20
        daemon.terminate()
        ended = _health(place)
        assert ended.returncode == 1
        assert "no daemon runs" in ended.stderr
        assert place.complaints() == []
        _refuses_others(second, tmp_path)


def _refuses_others(server: _Server, room: Path) -> None:
    """Who has another password, or speaks a dialect that can't encrypt; and encryption is what it requires."""
    sign_in = room / "sign-in"
    command = [_need("smbclient"), "//127.0.0.1/replicas", "-p", str(server.port), "-c", "ls", "-A", str(sign_in)]
    right = server.password_file.read_text().strip()
    for password, options, answer in (
        ("other", [], "NT_STATUS_LOGON_FAILURE"),
        (right, ["-m", "SMB2_10"], "NT_STATUS_INVALID_NETWORK_RESPONSE|NT_STATUS_CONNECTION|NT_STATUS_NOT_SUPPORTED"),
        (right, [], ""),
    ):
        sign_in.write_text(f"username={_USER}\npassword={password}\n")
        told = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)
        assert told.returncode == (1 if answer else 0), told.stdout + told.stderr
        assert re.search(answer, told.stdout + told.stderr), told.stdout + told.stderr
    required = ["testparm", "-s", "--parameter-name=server smb encrypt", str(server.base / "smbd" / "smb.conf")]
    done = subprocess.run(required, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "required"


def test_a_server_without_a_password_is_not_started(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    command = _entry("serve", SAMBA_SHARE="x", SAMBA_USER=_USER, SAMBA_PASSWORD_FILE=str(tmp_path / "empty"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("is empty\n")
    lacking = subprocess.run(_entry("serve"), capture_output=True, text=True, timeout=60, check=False)
    assert lacking.returncode == 1
    assert "SAMBA_SHARE" in lacking.stderr


def test_the_page_names_only_services_that_are_there() -> None:
    page = (DOCKER / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"compose[^\n]* (?:exec|logs -f) (\S+)", page))
    assert named
    assert named <= _yaml("compose.yaml")["services"].keys()
