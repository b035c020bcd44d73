"""`python -m benchmarks`: small, but all of it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

_CHECKOUT = Path(__file__).parents[2]
_SIZE_MIB = 16
_SERVED = ("put", "get", "delta of 1 %", "move")
_RIVALS = {
    "start": ["smbclient ls", "rclone lsf"],
    "put": ["smbclient put", "smbclient put -b", "rclone copyto"],
    "get": ["smbclient get", "smbclient get -b", "rclone copyto"],
    "local copy": ["cp", "rsync"],
    "delta of 1 %": ["rsync --inplace", "smbclient put, whole", "rclone copyto, whole"],
    "move": ["smbclient scopy", "replicad, through us", "smbclient get | put"],
    "scan": ["xxhsum -H2", "dd bs=1M"],
    "memory": [],
}


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--rounds", "1", "--directory", "/tmp", *arguments],
        cwd=_CHECKOUT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


def _is_here(rival: str) -> bool:
    return shutil.which(rival.split()[0]) is not None or rival.startswith("replicad")


@pytest.mark.samba
@pytest.mark.parametrize("case", _RIVALS)
def test_every_contestant_that_is_here_is_measured_and_the_others_are_named(case: str, tmp_path: Path) -> None:
    output, chart = tmp_path / "측정.json", tmp_path / "그림.svg"
    done = _run("--case", case, "--size-mib", str(_SIZE_MIB), "--output", str(output), "--chart", str(chart))
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(output.read_text())["outcomes"]
    assert {one["case"] for one in outcomes} == {case}
    for one in outcomes:
        others = [standing["name"] for standing in one["standings"] if standing["kind"] == "other"]
        assert others == [rival for rival in _RIVALS[case] if _is_here(rival)]
        assert [why.partition(":")[0] for why in one["left_out"]] == [r for r in _RIVALS[case] if not _is_here(r)]
        for standing in one["standings"]:
            _check_run(standing)
        if case in _SERVED:  # the kernel counts hundredths of a second, and some runs take the server less
            assert sum(standing["runs"][0]["server_cpu_s"] for standing in one["standings"]) > 0
    assert f"\n{case}\n" in done.stdout
    assert chart.read_text().startswith("<svg ")


def _check_run(standing: dict[str, Any]) -> None:
    (run,) = standing["runs"]
    assert 0 < run["seconds"] < 110
    assert run["cpu_s"] >= 0
    if standing["kind"] != "other":
        assert run["cpu_s"] > 0
        assert run["peak_rss_bytes"] > 20 << 20  # it was seen while it ran


@pytest.mark.samba
@pytest.mark.root
def test_moves_within_a_file_system_of_its_own_leave_nothing_mounted(tmp_path: Path) -> None:
    output = tmp_path / "xfs.json"
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # a short path: smbd makes Unix sockets below it
        done = _run("--case", "move on XFS", "--size-mib", "128", "--output", str(output), "--directory", place)
        assert done.returncode == 0, done.stderr
        assert place not in Path("/proc/mounts").read_text()
        assert list(Path(place).iterdir()) == []
    outcomes = json.loads(output.read_text())["outcomes"]
    assert [one["variant"] for one in outcomes] == ["XFS, 16 MiB", "XFS, 64 MiB", "XFS, 256 MiB"]


@pytest.mark.samba
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_an_interrupted_run_leaves_nothing_behind() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", "--case", "put", "--size-mib", "64", "--directory", place],
            cwd=_CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        assert process.stderr.readline() == "put, signed: round 1 of 5\n"  # its server runs
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert "benchmarks: interrupted by SIGTERM\n" in said
        assert process.returncode == 130
        assert list(Path(place).iterdir()) == []
        assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if place in _text_of(path)]


def _text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""  # it ended meanwhile


def test_an_unknown_case_is_refused() -> None:
    done = _run("--case", "teleport")
    assert done.returncode == 2
    assert "'put', 'get', 'local copy', 'delta of 1 %'" in done.stderr


def test_a_case_that_finds_no_room_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    output, place = tmp_path / "none.json", tmp_path / "place"
    place.mkdir()
    size_mib = str(1 << 30)
    done = _run("--case", "local copy", "--size-mib", size_mib, "--output", str(output), "--directory", str(place))
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text())
    assert results["outcomes"] == []
    (why,) = results["left_out"]
    assert why.startswith(f"local copy: it takes 2097152.0 GiB in {place}, and ")
    assert list(place.iterdir()) == []
