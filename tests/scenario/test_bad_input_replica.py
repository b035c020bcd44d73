"""Replicas that are damaged, somebody else's, or planted with links: one sentence, its exit code, nothing changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicad.model.points import ReplicaRecord
from replicad.replica.records import decode, encode
from tests.support.scene import VM, Scene, change, contents, flip_bit, scene_with_three_points, tree_of

DISK = "디스크 1.vhdx"
MAKES_POINTS = ("sync", VM, "--standalone")


@pytest.fixture(scope="module")
def three_points(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A local scene with three points; its source stays as it is at the third."""
    return scene_with_three_points(tmp_path_factory.mktemp("장면"), DISK)


@pytest.fixture
def scene(three_points: Scene, tmp_path: Path) -> Iterator[Scene]:
    """That scene with a copy of its replica, and without the manifests that this host remembers."""
    made = Scene(tmp_path, three_points.source, tmp_path / "복제 2", dict(three_points.machine))
    made.history = dict(three_points.history)
    shutil.copytree(three_points.replica_share, made.replica_share)
    made.machine["replica"] = f"'{made.replica_share}'"
    before = tree_of(made.source)
    yield made
    assert tree_of(made.source) == before


def restore(scene: Scene, *more: str) -> tuple[str, ...]:
    return ("restore", VM, "--standalone", "--to", str(scene.base / "target"), *more)


def points_restore(scene: Scene, *numbers: int) -> None:
    """These points restore to what the source held at them."""
    scene.history = {n: scene.history[n] for n in numbers}
    scene.check_points()


def _point(scene: Scene, number: int) -> Path:
    return scene.replica / "points" / str(number) / "point.json"


def _undo(scene: Scene, number: int) -> Path:
    return scene.replica / "points" / str(number) / f"{DISK}.undo"


def _manifest(scene: Scene) -> Path:
    return scene.replica / "manifests" / f"{DISK}.3.xxh3"


def _copy_of(record: Path) -> Path:
    return record.with_name(record.name.replace(".json", ".copy.json"))


@pytest.mark.parametrize("place", ["replica.json", "points/3/point.json", "points/1/point.json"])
def test_one_flipped_bit_in_a_record_keeps_nobody_from_anything(scene: Scene, place: str) -> None:
    record = scene.replica / place
    sound = record.read_bytes()
    flip_bit(record, 200)
    with scene.untouched():
        for verb in (["points", VM, "--json"], restore(scene, "--point", "1")):
            outcome = scene.here(*verb).done()
            assert [text for text in outcome.warnings if str(record) in text and "copy.json" in text]
        outcome = scene.run("verify", VM, "--standalone", "--json")
        assert (outcome.code, outcome.complaints) == (3, [])
        assert [(d["file"], d["points"]) for d in outcome.json()["damages"]] == [(f"{VM}/{place}", [])]
        status = scene.here("status", "--json").done().json()[0]
        latest_is_read_from_its_copy = place != "points/1/point.json"
        assert any(str(record) in reason for reason in status["reasons"]) is latest_is_read_from_its_copy
        assert status["health"] == ("warning" if latest_is_read_from_its_copy else "normal")
    assert any(str(record) in text for text in scene.run(*MAKES_POINTS).done().warnings)
    assert record.read_bytes() == _copy_of(record).read_bytes() == sound
    assert scene.here("verify", VM, "--standalone").done().warnings == []
    points_restore(scene, 1, 2, 3)


@pytest.mark.parametrize("file", ["record", "copy"])
def test_repair_writes_a_damaged_record_anew(scene: Scene, file: str) -> None:
    record = _point(scene, 2)
    sound = record.read_bytes()
    flip_bit(record if file == "record" else _copy_of(record), -5)
    scene.here("verify", VM, "--standalone", "--repair").done()
    assert record.read_bytes() == _copy_of(record).read_bytes() == sound


@pytest.mark.parametrize("at", [3, 200, -5])
@pytest.mark.parametrize("place", ["replica.json", "points/3/point.json"])
def test_one_flipped_bit_in_both_files_of_a_record_that_everything_needs(scene: Scene, place: str, at: int) -> None:
    record = scene.replica / place
    sound = record.read_bytes()
    flip_bit(record, at)
    flip_bit(_copy_of(record), at + 1)
    said = (f"cannot use {record}: it is damaged: ", "Put it back from a backup of the replica's share", "RECOVERY.txt")
    with scene.untouched():
        scene.run(*MAKES_POINTS).refused(3, *said)
        for verb in (["points", VM, "--json"], ["verify", VM, "--standalone"], restore(scene, "--point", "1")):
            scene.here(*verb).refused(3, *said)
        assert not (scene.base / "target").exists()
        reasons = scene.here("status", "--json").done().json()[0]["reasons"]
        assert "it is damaged" in reasons[0]
    record.write_bytes(sound)
    points_restore(scene, 1, 2, 3)


def test_one_flipped_bit_in_both_files_of_an_older_points_record(scene: Scene) -> None:
    flip_bit(_point(scene, 2), 40)
    flip_bit(_copy_of(_point(scene, 2)), 40)
    said = (f"cannot use {_point(scene, 2)}: it is damaged: ", "this point and those before it can't be restored")
    with scene.untouched():
        for verb in (["points", VM], restore(scene, "--point", "1"), restore(scene, "--point", "2")):
            scene.here(*verb).refused(3, *said)
        outcome = scene.here("verify", VM, "--standalone", "--json")
        assert outcome.code == 3
        assert [(d["part"], d["affects"]) for d in outcome.json()["damages"]] == [("record", "points up to 2")] * 2
        assert outcome.json()["damaged_points"] == [1, 2]
    points_restore(scene, 3)
    scene.here(*MAKES_POINTS).done()


@pytest.mark.parametrize("at", [9, 4100, 8192 + 7, -1])
def test_one_flipped_bit_in_a_manifest(scene: Scene, at: int) -> None:
    flip_bit(_manifest(scene), at)
    said = (f"cannot use manifest {_manifest(scene)}: it is ", "Run 'replicad verify --repair'")
    with scene.untouched(but="4.pending"):
        scene.run(*MAKES_POINTS).refused(3, *said)
        scene.here(*restore(scene)).refused(3, *said)
        scene.here(*restore(scene, "--point", "1")).refused(3, *said)
        outcome = scene.here("verify", VM, "--standalone")
        assert outcome.code == 3
        assert f"damaged: {VM}/manifests/{DISK}.3.xxh3" in outcome.out
    outcome = scene.run("verify", VM, "--standalone", "--repair").done()
    assert f"repaired: {VM}/manifests/{DISK}.3.xxh3" in outcome.out
    scene.here(*MAKES_POINTS).done()
    points_restore(scene, 1, 2, 3)


def test_resynchronisation_goes_on_after_a_damaged_manifest(scene: Scene) -> None:
    flip_bit(_manifest(scene), 8192 + 7)
    outcome = scene.run(*MAKES_POINTS, "--resync").done()
    assert any("it is made anew from the replica's disk" in warning for warning in outcome.warnings)
    scene.here("verify", VM, "--standalone").done()
    scene.history[4] = contents(scene.source)
    points_restore(scene, 1, 2, 3, 4)


@pytest.mark.parametrize("at", [20, 4200, 8192 + 100, -1])
def test_one_flipped_bit_in_an_undo_log_costs_older_points_only(scene: Scene, at: int) -> None:
    flip_bit(_undo(scene, 3), at)
    with scene.untouched():
        outcome = scene.run("verify", VM, "--standalone", "--json")
        assert outcome.code == 3
        assert [d["affects"] for d in outcome.json()["damages"]] == ["points before 3"]
        outcome = scene.here("verify", VM, "--standalone", "--point", "2")
        assert outcome.code == 3
        if "no longer holds" not in outcome.out and "chunk" not in outcome.out:
            outcome = scene.here(*restore(scene, "--point", "2"))
            outcome.refused(3, f"undo log {_undo(scene, 3)}", "it is damaged", "newer ones are not affected")
    points_restore(scene, 3)
    scene.here(*MAKES_POINTS).done()


def test_one_flipped_bit_in_the_replicas_disk_is_found_and_mended_from_the_source(scene: Scene) -> None:
    flip_bit(scene.replica / "disks" / DISK, 3 * 1024 * 1024 + 5)
    with scene.untouched():
        scene.run(*restore(scene)).refused(3, "chunk 48 of", "point 3", "are damaged", "verify --repair")
        assert not (scene.base / "target").exists()
        assert scene.here("verify", VM, "--standalone").code == 3
    scene.here("verify", VM, "--standalone", "--repair").done()
    points_restore(scene, 1, 2, 3)


@pytest.mark.parametrize("lost", ["disk", "disk cut", "manifest", "undo log", "record"])
def test_lost_files_are_damage_too(scene: Scene, lost: str) -> None:
    disk = scene.replica / "disks" / DISK
    if lost == "disk cut":
        with disk.open("r+b") as file:
            file.truncate(4096)
    else:
        path = {"disk": disk, "manifest": _manifest(scene), "undo log": _undo(scene, 3), "record": _point(scene, 3)}
        path[lost].unlink()
        if lost == "record":
            _copy_of(path[lost]).unlink()
    verb = restore(scene, "--point", "2") if lost == "undo log" else MAKES_POINTS
    said = {"disk": "missing from the replica", "disk cut": "4096 bytes long and was 5242880"}
    with scene.untouched(but="4.pending"):
        scene.here(*verb).refused(3, scene.replica.name, said.get(lost, "the file is missing"))
    if lost in ("disk", "disk cut", "manifest"):
        scene.here(*MAKES_POINTS, "--resync").done()
        scene.history[4] = contents(scene.source)
        points_restore(scene, 4)


def test_replica_of_another_virtual_machine(scene: Scene) -> None:
    scene.replica.rename(scene.replica_share / "db01")
    scene.vm = "db01"
    said = (f"{scene.replica}: it is the replica of the virtual machine '{VM}', not of 'db01'",)
    with scene.untouched():
        scene.run("sync", "db01", "--standalone").refused(1, *said, "Choose another replica share")
        to = ("--to", str(scene.base / "target"), "--standalone")
        for verb, *options in (["points"], ["verify", "--standalone"], ["restore", *to]):
            scene.here(verb, "db01", *options).refused(1, *said, "--replica")
        scene.here("points", "--replica", str(scene.replica)).done()
    assert not (scene.base / "target").exists()


def test_replica_of_another_source(scene: Scene) -> None:
    source = scene.source
    scene.source = scene.base / "다른 원본"
    shutil.copytree(source, scene.source)
    scene.machine["source"] = f"'{scene.source}'"
    with scene.untouched():
        scene.run(*MAKES_POINTS).refused(
            1, f"it was made from {source}, and the source is now {scene.source}", "'replicad sync --resync' once"
        )
    scene.here(*MAKES_POINTS, "--resync").done()
    points_restore(scene, 1, 2, 3)
    scene.source = source


def test_replica_in_a_newer_format(scene: Scene) -> None:
    record = scene.replica / "replica.json"
    document = decode(record.read_bytes(), ReplicaRecord, "it")
    object.__setattr__(document, "format", 2)
    record.write_bytes(encode(document))
    with scene.untouched():
        for verb in (MAKES_POINTS, ["points", VM], ["verify", VM, "--standalone"], restore(scene)):
            scene.here(*verb).refused(
                3, f"{record}: it is in format 2, and this version knows only format 1", "or a newer one"
            )


@pytest.mark.parametrize("what", ["a foreign file", "no replica.json", "a file in its place"])
def test_directory_that_holds_what_is_not_replicads(scene: Scene, what: str) -> None:
    if what == "no replica.json":
        (scene.replica / "replica.json").unlink()
        (scene.replica / "replica.copy.json").unlink()
    else:
        shutil.rmtree(scene.replica)
        if what == "a foreign file":
            scene.replica.mkdir()
            (scene.replica / "잡동사니.txt").write_text("mine")
        else:
            scene.replica.write_text("mine")
    with scene.untouched():
        scene.run(*MAKES_POINTS).refused(1, f"cannot make a replica in {scene.replica}", "ove", "replica share")
        scene.here("points", VM).refused(10, f"cannot find a replica in {scene.replica}", "the first 'replicad sync'")


def _replace_by_link(path: Path, outside: Path) -> None:
    target = outside / path.name
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize("place", ["", "disks", "manifests", "points", f"disks/{DISK}", "replica.json"])
def test_links_in_place_of_a_replicas_parts_are_not_followed(scene: Scene, place: str) -> None:
    outside = scene.base / "밖"
    outside.mkdir()
    _replace_by_link(scene.replica / place, outside)
    before = tree_of(outside)
    with scene.untouched(but="4.pending"):
        outcome = scene.here(*MAKES_POINTS, "--json")
        outcome.refused(3 if place == f"disks/{DISK}" else 1, str(scene.replica), "link", "links are not followed")
        scene.here(*restore(scene)).refused(1, str(scene.replica), "links are not followed")
    assert tree_of(outside) == before


@pytest.mark.parametrize(
    "place", ["replica.lock", "replica.json.tmp", "RECOVERY.txt.tmp", f"manifests/{DISK}.4.xxh3", "points/4.pending"]
)
def test_links_planted_where_a_cycle_is_going_to_write_are_not_followed(scene: Scene, place: str) -> None:
    victim = scene.base / "희생"
    (victim / "4").mkdir(parents=True)
    (victim / "file").write_text("precious")
    (scene.replica / place).symlink_to(victim / ("4" if place.startswith("points") else "file"))
    before = tree_of(victim)
    change(scene.source / DISK, 3)  # what it holds already
    assert scene.here(*MAKES_POINTS).code in (0, 1)
    assert tree_of(victim) == before
    points_restore(scene, *((1, 2, 3) if place != "replica.lock" else ()))


def _json(path: Path, edit: Callable[[dict[str, object]], None]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def test_record_with_other_content_under_its_old_seal(scene: Scene) -> None:
    for name in ("replica.json", "replica.copy.json"):
        _json(scene.replica / name, lambda d: d.update(vm="../../etc"))
    with scene.untouched():
        scene.here(*MAKES_POINTS).refused(3, "replica.json: it is damaged: its seal does not match its content")
