"""Replication of a machine that was moved goes on, though the file still says where it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scene import BLOCK_AT, Scene, change, contents, scene_with_three_points

DISK = "디스크 1.vhdx"


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return scene_with_three_points(tmp_path, DISK)


def _moved_to(scene: Scene, destination: Path) -> None:
    scene.configure()
    told = scene.run("move", "start", scene.vm, str(destination), "--standalone")
    assert told.code == 0, told
    scene.source = destination


def test_cycles_go_on_from_the_new_source_with_a_delta_and_the_old_points_stay(scene: Scene) -> None:
    _moved_to(scene, scene.base / "새 곳")
    change(scene.source / DISK, 7, BLOCK_AT + (64 << 10), 4096)
    told = scene.here("sync", scene.vm, "--standalone", "--json").done()
    assert told.json()["kind"] == "delta"
    assert told.json()["sent_bytes"] < 1 << 20
    scene.history[told.json()["point"]] = contents(scene.source)
    (line,) = [
        n for n, text in enumerate(scene.config.read_text().splitlines(), 1) if text.strip().startswith("source:")
    ]
    assert any(f"replicad.yaml:{line} says where it was" in text for text in told.warnings), told
    _moved_to(scene, scene.base / "또 다른 곳")
    change(scene.source / DISK, 8, BLOCK_AT + (128 << 10), 4096)
    scene.sync()
    # Now somebody corrects the file.
    scene.machine["source"] = f"'{scene.source}'"
    told = scene.here("sync", scene.vm, "--standalone", "--json").done()
    assert told.json()["kind"] == "delta"
    assert told.warnings == []
    scene.history[told.json()["point"]] = contents(scene.source)
    assert sorted(scene.history) == [1, 2, 3, 4, 5, 6]
    scene.check_points()


def test_a_machine_goes_back_to_where_the_file_says_it_is(scene: Scene) -> None:
    origin = scene.source
    _moved_to(scene, scene.base / "새 곳")
    scene.sync()
    _moved_to(scene, origin)
    told = scene.here("sync", scene.vm, "--standalone", "--json").done()
    assert (told.json()["kind"], told.warnings) == ("delta", [])


def test_another_source_in_the_file_is_taken_at_its_word(scene: Scene) -> None:
    _moved_to(scene, scene.base / "새 곳")
    other = scene.base / "아무 곳"
    other.mkdir()
    scene.machine["source"] = f"'{other}'"
    told = scene.here("sync", scene.vm, "--standalone")
    assert told.code != 0
    assert str(other) in told.err
