"""`replicad dashboard`: an address on stdout and nothing else there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from replicad.cli.main import main
from tests.support.api_server import api_on

MADE = {"url": "http://127.0.0.1:8600/#code=c0de", "expires_at": "2026-11-23T20:02:00Z"}


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a configuration that is the default one."""
    path = tmp_path / "설정.yaml"
    path.write_text(f"state_dir: '{tmp_path}/상태'\nvirtual_machines: {{}}\n", encoding="utf-8")
    monkeypatch.setenv("REPLICAD_CONFIG", str(path))
    return tmp_path / "상태"


def test_the_address_is_printed_and_what_it_is_good_for_said_beside_it(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with api_on(state_dir) as api:
        api.refusals["POST /dashboard/code"] = 200, MADE
        assert main(["dashboard"]) == 0
        out, err = capsys.readouterr()
        assert out == f"{MADE['url']}\n"
        assert "once, within two minutes" in err
        assert main(["dashboard", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == MADE
        api.refuse("POST /dashboard/code", 400, "ConfigError", "cannot open the dashboard: no address", 2)
        assert main(["dashboard"]) == 2
        assert capsys.readouterr().out == ""


def test_without_a_daemon_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard"]) == 5
    assert "no daemon runs for this configuration" in capsys.readouterr().err
