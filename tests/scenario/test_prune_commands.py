"""`prune`, and `points` with its pins, as an administrator types them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scene import Scene, change, local_scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = local_scene(tmp_path)
    made.machine["keep"] = "{latest: 100}"
    for seed in range(4):
        change(made.source / "디스크 1.vhdx", seed)
        made.sync()
    made.machine["keep"] = "{latest: 1}"
    return made


def _kept(scene: Scene) -> dict[int, list[str]]:
    return {p["number"]: p["kept_by"] for p in scene.here("points", scene.vm, "--json").done().json()}


def test_a_dry_run_tells_what_would_go_and_touches_nothing(scene: Scene) -> None:
    with scene.untouched():
        told = scene.here("prune", scene.vm, "--standalone", "--dry-run").done().out
    assert "it is not one of the latest 1" in told
    assert "3 of 4 points would go; nothing was changed" in told
    assert _kept(scene) == {1: [], 2: [], 3: [], 4: ["latest"]}


def test_pinned_points_stay_and_all_others_go(scene: Scene) -> None:
    scene.here("points", scene.vm, "--pin", "2", "--pin", "3").done()
    scene.here("points", scene.vm, "--unpin", "3").done()
    report = scene.here("prune", scene.vm, "--standalone", "--json").done().json()
    assert [p["number"] for p in report["points"] if p["removed"]] == [1, 3]
    assert report["freed_bytes"] > 0
    assert _kept(scene) == {2: ["pinned"], 4: ["latest"]}
    for number in (1, 3):
        del scene.history[number]
    scene.check_points()
    assert "0 of 2 points removed" in scene.here("prune", scene.vm, "--standalone").done().out
    scene.here("verify", scene.vm, "--standalone").done()


def test_the_next_cycle_prunes(scene: Scene) -> None:
    assert scene.sync() == 5
    assert _kept(scene) == {5: ["latest"]}


def test_without_a_configuration_no_rule_is_known(scene: Scene) -> None:
    told = scene.as_configured("points", "--replica", str(scene.replica), "--json").done().json()
    assert [p["kept_by"] for p in told] == [["no rule"]] * 4


def test_a_pin_on_no_point_and_one_against_itself_are_refused(scene: Scene) -> None:
    with scene.untouched():
        scene.here("points", scene.vm, "--pin", "9").refused(10, "recovery point 9", "'replicad points'")
        assert scene.here("points", scene.vm, "--pin", "1", "--unpin", "1").code == 2
