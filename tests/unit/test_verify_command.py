"""`replicad verify` as it is typed: its limit of bandwidth, and what it tells of damage."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest

from tests.support.scene import VM, change, flip_bit, local_scene

DISK = "디스크 1.vhdx"
MIB = 1024 * 1024


@pytest.mark.parametrize("rate", ["fast", "10 MB/s", "08:00,"])
def test_a_limit_that_is_none_is_refused_before_anything_is_read(rate: str, tmp_path: Path) -> None:
    scene = local_scene(tmp_path)
    outcome = scene.here("verify", VM, "--standalone", "--bandwidth", rate)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--bandwidth" in outcome.err


def test_a_replica_without_a_configuration_is_read_no_faster_than_was_typed(tmp_path: Path) -> None:
    scene = local_scene(tmp_path)
    scene.machine["disks"] = '["*.img"]'
    (scene.source / "디스크.img").write_bytes(Random(1).randbytes(6 * MIB))
    scene.sync()
    began_s = time.monotonic()
    found = scene.here("verify", "--replica", str(scene.replica), "--bandwidth", "4M", "--json").done().json()
    assert (found["damages"], found["damaged_points"], found["leftovers"]) == ([], [], [])
    assert time.monotonic() - began_s >= 5 / 4


def test_what_is_not_repaired_is_told_with_the_reason_and_the_points(tmp_path: Path) -> None:
    scene = local_scene(tmp_path)
    for seed in (1, 2, 3):
        change(scene.source / DISK, seed)
        scene.sync()
    flip_bit(scene.replica / "points" / "3" / f"{DISK}.undo", 2 * 4096 + 5)
    outcome = scene.here("verify", VM, "--standalone", "--repair")
    assert outcome.code == 3
    assert "not repaired: of 1 of these chunks the old bytes are kept nowhere else" in outcome.out
    assert "points that can't be restored as they were: 2\n" in outcome.out
    found = scene.here("verify", VM, "--standalone", "--repair", "--json").json()
    assert found["damaged_points"] == [2]
    assert [(d["points"], d["repaired"]) for d in found["damages"]] == [([2], False)]
