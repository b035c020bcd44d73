"""docs/restore_point.py as a program: what it says, what it refuses, and that it never overwrites."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.restore_script import files_below, run_script, script, script_here
from tests.support.scene import (
    BLOCK_AT,
    Outcome,
    Scene,
    contents,
    flip_bit,
    local_scene,
    scene_with_three_points,
    tree_of,
)

DISK = "디스크 1.vhdx"
CHUNK = 64 * 1024


@pytest.fixture(scope="module")
def three_points(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A local scene with three points."""
    return scene_with_three_points(tmp_path_factory.mktemp("장면"), DISK)


@pytest.fixture
def replica(three_points: Scene, tmp_path: Path) -> Path:
    """A copy of its replica's directory."""
    return Path(shutil.copytree(three_points.replica, tmp_path / "사본"))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "되살린 것"


def refused(outcome: Outcome, *parts: str) -> None:
    """One sentence, and exit code 1."""
    assert (outcome.code, outcome.out) == (1, ""), outcome
    assert outcome.err.startswith("restore_point: "), outcome
    assert outcome.err.count("\n") == 1, outcome
    for part in parts:
        assert part in outcome.err


def resealed(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change a record as somebody would who can write to the share, and has read how to seal it."""
    record = json.loads(path.read_text())
    del record["seal"]
    edit(record)

    def canonical() -> bytes:
        return (json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    record["seal"] = hashlib.blake2b(canonical(), digest_size=32, person=b"replicad.record").hexdigest()
    path.write_bytes(canonical())
    copy_of(path).unlink(missing_ok=True)


def copy_of(record: Path) -> Path:
    return record.with_name(record.stem + ".copy.json")


@pytest.mark.parametrize("number", [None, 1, 2, 3])
@pytest.mark.parametrize("options", [(), ("--unchecked",)], ids=["checked", "unchecked"])
def test_a_point_is_restored_by_python_alone(
    number: int | None, options: tuple[str, ...], three_points: Scene, replica: Path, target: Path
) -> None:
    before = tree_of(replica)
    outcome = run_script(replica, target, *([] if number is None else ["--point", str(number)]), *options)
    assert (outcome.code, outcome.err) == (0, "")
    assert contents(target) == three_points.history[number or 3]
    assert f"point {number or 3} of 20" in outcome.out
    assert outcome.out.rstrip().endswith("NOT checked" if options else "every byte checked")
    assert tree_of(replica) == before


def test_without_a_target_the_points_are_listed(replica: Path) -> None:
    outcome = run_script(replica)
    assert (outcome.code, outcome.err) == (0, "")
    assert [line.split()[:2] for line in outcome.out.splitlines()] == [["point", str(n)] for n in (3, 2, 1)]


def test_nothing_is_ever_overwritten(replica: Path, target: Path) -> None:
    target.mkdir()
    (target / "mine").write_text("mine")
    refused(script_here(replica, target), f"{target} is not empty")
    assert files_below(target) == {"mine": b"mine"}
    refused(script_here(replica, replica / "disks" / "새"), "lies inside the replica")
    refused(script_here(replica, replica), "lies inside the replica")


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_file_that_appears_meanwhile_is_left_alone(
    links: bool, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.mkdir()
    partial, final = target / "a.vhd.restoring", target / "a.vhd"
    partial.write_text("restored")
    final.write_text("mine")

    def no_link(*_: object) -> None:
        raise PermissionError

    if not links:
        monkeypatch.setattr(script.os, "link", no_link)
    with pytest.raises(script.RestoreError, match="is there already"):
        script.give_name(partial, final)
    assert files_below(target) == {"a.vhd.restoring": b"restored", "a.vhd": b"mine"}
    final.unlink()
    script.give_name(partial, final)
    assert files_below(target) == {"a.vhd": b"restored"}


@pytest.mark.parametrize("name", ["replica.json", "points/2/point.json"])
def test_the_copy_of_a_record_serves_where_the_record_is_damaged(
    name: str, three_points: Scene, replica: Path, target: Path
) -> None:
    record = replica / name
    shutil.copy(record, copy_of(record))
    flip_bit(record, 60)
    assert script_here(replica, target, "--point", "1").code == 0
    assert contents(target) == three_points.history[1]
    flip_bit(copy_of(record), 60)
    refused(script_here(replica, target / "2", "--point", "1"), name, "seal does not match", "its copy")


@pytest.mark.parametrize(
    ("place", "at", "said"),
    [
        (f"disks/{DISK}", BLOCK_AT, f"chunk {BLOCK_AT // CHUNK} of {DISK} is damaged"),
        (f"manifests/{DISK}.3.xxh3", 4100, "is damaged; '--unchecked' does without"),
        (f"points/3/{DISK}.undo", 40, "is damaged"),
        (f"points/3/{DISK}.undo", 4096 + 70, "is damaged in batch 1"),
        (f"points/2/{DISK}.undo", 8192 + 70, f"chunk {BLOCK_AT // CHUNK} of {DISK} is damaged"),
    ],
)
def test_damage_is_named_and_nothing_damaged_is_left(
    place: str, at: int, said: str, replica: Path, target: Path
) -> None:
    flip_bit(replica / place, at)
    number = "1" if place.startswith("points") else "3"
    refused(script_here(replica, target, "--point", number), said)
    assert files_below(target) == {}


def test_damaged_bytes_can_be_had_as_they_are(three_points: Scene, replica: Path, target: Path) -> None:
    flip_bit(replica / "disks" / DISK, BLOCK_AT)
    flip_bit(replica / "manifests" / f"{DISK}.3.xxh3", 4100)
    assert script_here(replica, target, "--unchecked").code == 0
    flip_bit(target / DISK, BLOCK_AT)
    assert contents(target) == three_points.history[3]


def test_what_is_no_replica_or_no_point_of_it_is_refused(replica: Path, target: Path) -> None:
    refused(script_here(replica, target, "--point", "4"), "there is no point 4", "there are 1, 2, 3")
    refused(script_here(replica.parent, target), "name the directory that replica.json is in")
    shutil.rmtree(replica / "points")
    (replica / "points").mkdir()
    refused(script_here(replica, target), "has no recovery point yet")


@pytest.mark.parametrize("path", ["../a.vhd", "/etc/a.vhd", "sub/../../a.vhd", "..\\a.vhd", "c:a.vhd", "", "a\0b"])
def test_no_name_in_a_record_leads_out_of_the_target(path: str, replica: Path, target: Path) -> None:
    def edit(record: dict[str, Any]) -> None:
        record["disks"][0]["path"] = path

    resealed(replica / "points/3/point.json", edit)
    refused(script_here(replica, target), "which can't be written safely")
    assert files_below(target) == {}


def test_a_link_on_the_share_is_not_followed(replica: Path, target: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((replica / "disks" / DISK).read_bytes())
    (replica / "disks" / DISK).unlink()
    (replica / "disks" / DISK).symlink_to(secret)
    refused(script_here(replica, target), "is a link")
    assert files_below(target) == {}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda r: r.update(format=2), "is in format 2"),
        (lambda r: r.update(number=2), "the record of another point or replica"),
        (lambda r: r.update(previous=3), "point 3 can't follow point 3"),
        (lambda r: r.update(previous="2"), "makes no sense"),
        (lambda r: r.update(disks=7), "makes no sense"),
        (lambda r: r["disks"][0].update(chunk_bytes=5), "no disk has chunks of 5 bytes"),
        (lambda r: r["disks"][0].pop("manifest"), "makes no sense"),
    ],
)
def test_a_sealed_record_that_makes_no_sense(
    edit: Callable[[dict[str, Any]], None], said: str, replica: Path, target: Path
) -> None:
    resealed(replica / "points/3/point.json", edit)
    refused(script_here(replica, target, "--point", "1"), said)


@pytest.mark.parametrize(
    ("size_bytes", "options"), [(2**70, ()), (10, ()), (-1, ()), (2**70, ("--unchecked",)), (-1, ("--unchecked",))]
)
def test_a_size_that_is_not_that_of_the_disk(
    size_bytes: int, options: tuple[str, ...], replica: Path, target: Path
) -> None:
    resealed(replica / "points/3/point.json", lambda r: r["disks"][0].update(size_bytes=size_bytes))
    outcome = script_here(replica, target, *options)
    refused(outcome, *([] if options else ["do not lead to the size"]))
    assert files_below(target) == {}


def test_a_size_that_is_less_than_that_of_the_disk_is_taken_as_it_is_where_nothing_is_checked(
    replica: Path, target: Path
) -> None:
    resealed(replica / "points/3/point.json", lambda r: r["disks"][0].update(size_bytes=10))
    assert script_here(replica, target, "--unchecked").code == 0
    assert [len(data) for data in files_below(target).values()] == [10]


def test_a_pipe_in_the_place_of_a_record_is_not_waited_for(replica: Path) -> None:
    record = replica / "points/3/point.json"
    record.unlink()
    os.mkfifo(record)
    assert script_here(replica).out.startswith("point 3 ")
    copy_of(record).unlink()
    refused(script_here(replica), "it is no file")


def test_nothing_in_a_record_steers_the_terminal(replica: Path, target: Path) -> None:
    resealed(replica / "points/3/point.json", lambda r: r.update(time="\x1b[31m", consistency="\x1b]0;\x07\u202e"))
    for outcome in (script_here(replica), script_here(replica, target)):
        assert outcome.code == 0
        assert "\\x1b[31m" in outcome.out
        assert all(line.isprintable() for line in outcome.out.splitlines())


def test_a_point_that_was_merged_away_is_passed_over(three_points: Scene, replica: Path, target: Path) -> None:
    """Pruning leaves one log that leads from point 3 to point 1, under a name of its own, and the rest of point 2."""
    (replica / f"points/3/{DISK}.undo").unlink()
    (replica / f"points/2/{DISK}.undo").rename(replica / f"points/3/{DISK}.1.merged")
    two = json.loads((replica / "points/2/point.json").read_text())

    def edit(record: dict[str, Any]) -> None:
        # Both changes were of one chunk, so the older log alone leads back from point 3 to point 1.
        record["previous"] = 1
        record["disks"][0]["undo"] = {**two["disks"][0]["undo"], "file": f"{DISK}.1.merged"}

    resealed(replica / "points/3/point.json", edit)
    assert script_here(replica, target / "1", "--point", "1").code == 0
    assert contents(target / "1") == three_points.history[1]
    refused(script_here(replica, target / "2", "--point", "2"), "there is no point 2", "there are 1, 3")
    assert [line[:7] for line in script_here(replica).out.splitlines()] == ["point 3", "point 1"]


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({}, f"points/3/{DISK}"),
        ({"since": 3, "origin": None}, f"points/3/{DISK}.3"),
        ({"since": 2, "origin": 2}, f"points/3/{DISK}.2"),
        ({"since": 2, "origin": 2}, f"points/2/{DISK}.2"),
    ],
)
def test_a_removed_disk_with_a_log_of_its_own(
    how: dict[str, int | None], name: str, three_points: Scene, replica: Path, target: Path
) -> None:
    """Pruning the point before leaves a log beside the removed disk's last content."""
    point = replica / "points/3"
    two = json.loads((replica / "points/2/point.json").read_text())["disks"][0]
    aside = (replica / f"disks/{DISK}").rename(replica / f"{name}.removed")
    _undone(aside, point / f"{DISK}.undo")
    (replica / f"manifests/{DISK}.3.xxh3").unlink()
    (replica / f"points/2/{DISK}.undo").replace(point / f"{DISK}.undo")
    removed = {"id": two["id"], "path": DISK, "manifest": two["manifest"], "undo": two["undo"], **how}

    def edit(record: dict[str, Any]) -> None:
        record.update(previous=1, disks=[], removed=[removed])

    resealed(point / "point.json", edit)
    refused(script_here(replica, target / "checked", "--point", "1"), "the replica has no", f"{DISK}.", ".xxh3")
    assert script_here(replica, target / "1", "--point", "1", "--unchecked").code == 0
    assert contents(target / "1") == three_points.history[1]


def _undone(disk: Path, log: Path) -> None:
    """Bring a disk back by its log, so that it is what it was at the point before."""
    found = json.loads((log.parent / "point.json").read_text())["disks"][0]
    replica_id = json.loads((log.parent / "point.json").read_text())["replica_id"]
    with disk.open("r+b") as file, ExitStack() as files:
        undo = script.Log(log, replica_id, found["id"], files)
        for chunk, place in undo.places.items():
            file.seek(chunk * undo.chunk_bytes)
            file.write(undo.read(place, undo.chunk_length(chunk)))


def test_a_huge_sparse_disk_is_restored_in_no_time_and_stays_sparse(tmp_path: Path, target: Path) -> None:
    scene = local_scene(tmp_path)
    huge = scene.source / "huge.vhdx"
    shutil.copy(scene.source / DISK, huge)
    with huge.open("r+b") as file:
        file.truncate(200 << 30)
        file.seek(150 << 30)
        file.write(b"here")
    scene.here("sync", scene.vm, "--standalone").done()
    for options in ((), ("--unchecked",)):
        there = target / " ".join(options)
        assert script_here(scene.replica, there, *options).code == 0
        restored = there / "huge.vhdx"
        assert restored.stat().st_size == 200 << 30
        assert restored.stat().st_blocks * 512 < 16 << 20
        with restored.open("rb") as file:
            file.seek(150 << 30)
            assert file.read(4) == b"here"
