"""`replicad probe` on real servers: each step in words, the exit code of the first failure, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replicad.cli.main import main
from tests.support.samba import ENCRYPTED, PLAIN, READ_ONLY, SambaDirectory, running_samba

pytestmark = pytest.mark.samba

Run = Callable[..., tuple[int, list[dict[str, Any]]]]
ALL = [
    "name", "port", "dialect", "protection", "sign-in", "share", "list", "make a directory", "create", "write",
    "rename", "delete", "lock", "capabilities", "free space", "write speed", "read speed",
]  # fmt: skip


@pytest.fixture
def probe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Probe a share with `--json`: the exit code and the steps."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.delenv("REPLICAD_CONFIG", raising=False)

    def run(share: str, user: str, password: str, *options: str) -> tuple[int, list[dict[str, Any]]]:
        file = tmp_path / "password"
        file.write_text(password)
        file.chmod(0o600)
        code = main(["probe", share, "--json", "--username", user, "--password-file", str(file), *options])
        out, err = capsys.readouterr()
        assert password not in out + err
        answer = json.loads(out)
        assert answer["fit"] is (code == 0)
        return code, answer["steps"]

    return run


def outcomes(steps: list[dict[str, Any]]) -> dict[str, str]:
    return {step["step"]: step["outcome"] for step in steps}


def failed(steps: list[dict[str, Any]]) -> dict[str, Any]:
    return next(step for step in steps if step["outcome"] == "failed")


def address(samba: SambaDirectory, share: str = PLAIN) -> str:
    return f"\\\\{samba.server.host}\\{share}\\{samba.path.name}"


@pytest.fixture
def sign_in(samba: SambaDirectory) -> tuple[str, ...]:
    return (samba.server.username, samba.server.password, "--port", str(samba.server.port))


def test_a_good_share_passes_every_step_and_keeps_nothing(
    samba: SambaDirectory, sign_in: tuple[str, ...], probe: Run
) -> None:
    code, steps = probe(address(samba, ENCRYPTED), *sign_in)
    assert code == 0
    assert outcomes(steps) == dict.fromkeys([*ALL, "clean up"], "passed")
    facts = {step["step"]: step["facts"] for step in steps}
    assert facts["protection"] == {"signing": "AES-GMAC", "cipher": "AES-128-GCM"}
    assert all(facts["capabilities"].values())
    assert facts["write speed"]["bytes_per_s"] > 1_000_000
    assert facts["free space"]["free_bytes"] > 0
    assert list(samba.path.iterdir()) == []


def test_what_a_killed_probe_left_behind_is_told_and_not_deleted(
    samba: SambaDirectory, sign_in: tuple[str, ...], probe: Run
) -> None:
    left = samba.path / ".replicad-probe-000000000000"
    left.mkdir()
    code, steps = probe(address(samba), *sign_in)
    assert code == 0
    assert left.name in steps[ALL.index("list")]["warnings"][0]
    assert list(samba.path.iterdir()) == [left]


@pytest.mark.parametrize(
    ("password", "share", "directory", "step", "code", "text"),
    [
        ("not this one", PLAIN, "", "sign-in", 12, "the user name or the password is wrong"),
        (None, "없음", "", "share", 10, "the server has no share of that name"),
        (None, PLAIN, "\\없음", "list", 10, "it is not there"),
        (None, READ_ONLY, "", "make a directory", 12, "access is denied"),
    ],
)
def test_the_first_failure_gives_the_exit_code_and_a_hint_and_what_needs_it_is_skipped(
    samba: SambaDirectory, sign_in: tuple[str, ...], probe: Run,
    password: str | None, share: str, directory: str, step: str, code: int, text: str,
) -> None:  # fmt: skip
    user, right, *options = sign_in
    found, steps = probe(address(samba, share) + directory, user, password or right, *options)
    assert found == code
    first = failed(steps)
    assert (first["step"], text in first["text"]) == (step, True)
    assert first["hint"]
    assert all(outcomes(steps)[name] == "passed" for name in ALL[: ALL.index(step)])
    assert outcomes(steps)["write speed"] == "skipped"


def test_a_read_only_share_is_told_what_can_be_told_without_writing(
    samba: SambaDirectory, sign_in: tuple[str, ...], probe: Run
) -> None:
    _, steps = probe(address(samba, READ_ONLY), *sign_in)
    assert outcomes(steps)["capabilities"] == outcomes(steps)["free space"] == "passed"


def test_a_closed_port_and_an_unknown_name_say_so(probe: Run) -> None:
    code, steps = probe("\\\\127.0.0.1\\vms", "user", "secret-1", "--port", "1")
    assert (code, failed(steps)["step"], failed(steps)["text"]) == (5, "port", "server 127.0.0.1:1: the port is closed")
    code, steps = probe("\\\\no-such-host.invalid\\vms", "user", "secret-1")
    assert (code, failed(steps)["step"]) == (5, "name")
    assert "does not resolve" in failed(steps)["text"]


def test_a_server_that_cannot_encrypt_fails_the_step_of_protection_or_warns(probe: Run) -> None:
    with running_samba(settings={"server smb encrypt": "off"}) as server:
        where = (f"\\\\{server.host}\\{PLAIN}", server.username, server.password, "--port", str(server.port))
        code, steps = probe(*where)
        assert (code, failed(steps)["step"]) == (1, "protection")
        assert "encryption" in failed(steps)["hint"]
        code, steps = probe(*where, "--encryption", "allowed")
        assert code == 0
        assert "can be read on the way" in steps[ALL.index("protection")]["warnings"][0]


def test_an_old_dialect_is_told(probe: Run) -> None:
    with running_samba(min_protocol="SMB2_02", settings={"server max protocol": "SMB2_10"}) as server:
        code, steps = probe(f"\\\\{server.host}\\{PLAIN}", server.username, server.password, "--port", str(server.port))
    assert (code, failed(steps)["step"]) == (1, "dialect")
    assert "SMB 2.1 at most" in failed(steps)["text"]


def test_a_local_directory_has_fewer_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "가상 머신 🖥"
    directory.mkdir()
    assert main(["probe", str(directory)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("✓ list ")
    assert "✓ clean up" in lines[-1]
    assert list(directory.iterdir()) == []
    assert main(["probe", str(directory / "none")]) == 10
    assert "✗ list" in capsys.readouterr().out


@pytest.mark.parametrize("at", ["", "/speed"])
async def test_an_interrupted_probe_leaves_nothing_behind(
    samba: SambaDirectory, sign_in: tuple[str, ...], tmp_path: Path, at: str
) -> None:
    user, password, *options = sign_in
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from replicad.cli.main import main; raise SystemExit(main())",
        "probe", address(samba), "--username", user, *options,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2],
        env={**os.environ, "REPLICAD_PASSWORD": password, "XDG_CONFIG_HOME": str(tmp_path)},
    )  # fmt: skip
    async with asyncio.timeout(30):
        while not any(samba.path.glob(f".replicad-probe-*{at}")):
            assert process.returncode is None
            await asyncio.sleep(0)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert (process.returncode, err.strip()) == (130, b"replicad: interrupted")
    assert list(samba.path.iterdir()) == []
