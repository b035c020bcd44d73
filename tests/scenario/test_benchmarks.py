"""`python -m benchmarks`: small, but all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).parents[2]


@pytest.mark.samba
def test_every_case_is_measured_on_both_sides_and_told(tmp_path: Path) -> None:
    output = tmp_path / "측정.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--size-mib", "16", "--rounds", "1", "--output", str(output),
         "--directory", "/tmp"],
        cwd=_CHECKOUT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    contests = json.loads(output.read_text())["contests"]
    assert {(c["case"], c["protection"]) for c in contests} == {
        (case, protection)
        for case in ("initial copy", "delta of 1 %", "restore")
        for protection in ("encrypted", "signed")
    }
    for contest in contests:
        for side in ("ours", "theirs"):
            assert len(contest[side]) == 1
            assert contest["median"][side] == contest[side][0]
            assert contest[side][0]["seconds"] > 0
            assert contest[side][0]["cpu_s"] > 0
            assert contest[side][0]["peak_rss_bytes"] > 1 << 20
    sent = {c["case"]: c["sent_bytes"] for c in contests}
    assert sent["initial copy"] > 16 << 20
    assert 0 < sent["delta of 1 %"] <= 4 * (64 << 10)
    lines = done.stdout.splitlines()
    assert len(lines) == 5 + 2 * len(contests)
    assert lines[4].split()[:4] == ["case", "protection", "sent", "program"]


def test_an_unknown_case_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--case", "teleport"], cwd=_CHECKOUT, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "'initial copy', 'delta of 1 %', 'restore'" in done.stderr.replace('"', "'")
