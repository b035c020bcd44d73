"""A replica by somebody who can write to its share, knows the format and seals what he writes: nothing leads out of the
directories that were named, and nothing that is shown steers a terminal."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicad.model.points import FORMAT_VERSION, CycleRecord, PendingDisk, RecoveryPoint, RemovedDisk, ReplicaRecord
from replicad.replica.records import decode, encode
from tests.support.samba import SambaDirectory
from tests.support.scene import VM, Scene, change, contents, local_scene, make_vhdx, smb_scene, tree_of

DISK = "디스크 1.vhdx"
OUTSIDE = (
    "../밖/x.vhdx", "sub/../../밖/x.vhdx", "..", ".", "", "./x.vhdx", "a//x.vhdx", "/x.vhdx", "\\\\nas\\밖\\x.vhdx",
    "..\\x.vhdx", "C:\\x.vhdx", "C:x.vhdx", "NUL", "con.vhdx", "sub/CONIN$", "LPT¹.vhdx", "aux .vhdx", "x.vhdx:stream",
    "x.vhdx::$DATA", "x.vhdx.", "x.vhdx ", "sub ./x.vhdx", "a\0b.vhdx", "a\nb.vhdx", "\x1b[2J.vhdx", "\x9b2J.vhdx",
    "x" * 252, "x*.vhdx", "x?.vhdx", '"x".vhdx', "x.vhdx.updating", "sub.pending/x.vhdx", "x.vhdx.TMP",
)  # fmt: skip
"""Paths of disks that lead elsewhere somewhere, or are something else there."""


@pytest.fixture(scope="module")
def two_points(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    made = local_scene(tmp_path_factory.mktemp("장면"))
    made.sync()
    change(made.source / DISK, 2)
    made.sync()
    return made


@pytest.fixture
def scene(two_points: Scene, tmp_path: Path) -> Iterator[Scene]:
    """A copy of a replica with two points, beside a directory that nobody named, which stays as it is."""
    made = Scene(tmp_path, two_points.source, tmp_path / "복제", dict(two_points.machine))
    shutil.copytree(two_points.replica_share, made.replica_share)
    made.machine["replica"] = f"'{made.replica_share}'"
    victim = tmp_path / "밖"
    victim.mkdir()
    (victim / "x.vhdx").write_text("mine")
    (tmp_path / "x.vhdx").write_text("mine")
    yield made
    assert contents(victim) == {"x.vhdx": b"mine"}
    assert (tmp_path / "x.vhdx").read_text() == "mine"


def _point(scene: Scene, number: int = 2) -> Path:
    return scene.replica / "points" / str(number) / "point.json"


def reseal(path: Path, kind: Any, **changes: Any) -> None:
    """Give a record, which is kept twice, other content and a seal that goes with it."""
    raw = encode(replace(decode(path.read_bytes(), kind, "it"), **changes))
    for file in (path, path.with_suffix(".copy.json")):
        assert file.exists()
        file.write_bytes(raw)


def _verbs(scene: Scene) -> list[tuple[str, ...]]:
    target = str(scene.base / "target")
    return [
        ("sync", VM, "--standalone"), ("sync", VM, "--standalone", "--resync"),
        ("sync", VM, "--standalone", "--dry-run"), ("points", VM), ("verify", VM, "--standalone"),
        ("verify", VM, "--standalone", "--repair"),
        ("restore", VM, "--standalone", "--to", target), ("points", "--replica", str(scene.replica)),
        ("restore", "--replica", str(scene.replica), "--to", target),
    ]  # fmt: skip


def refused_everywhere(scene: Scene, *parts: str) -> None:
    """Every verb ends with one sentence, and nothing was written anywhere."""
    before = _named(scene)
    for verb in _verbs(scene):
        scene.here(*verb).refused(3, *parts)
    assert _named(scene) == before


def _named(scene: Scene) -> dict[str, str]:
    own = ("state", scene.config.name)
    return {name: what for name, what in tree_of(scene.base).items() if not name.startswith(own)}


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_disk_that_leads_elsewhere_is_refused_by_every_verb(scene: Scene, path: str) -> None:
    point = decode(_point(scene).read_bytes(), RecoveryPoint, "it")
    reseal(_point(scene), RecoveryPoint, disks=(replace(point.disks[0], path=path),))
    refused_everywhere(scene, "point.json: it is damaged: it makes no sense: ")


@pytest.mark.parametrize("path", ["../밖/x.vhdx", "/x.vhdx", "C:x.vhdx"])
def test_a_removed_disk_that_leads_elsewhere_is_refused(scene: Scene, path: str) -> None:
    point = decode(_point(scene).read_bytes(), RecoveryPoint, "it")
    removed = RemovedDisk("ab" * 16, path, point.disks[0].manifest, point.number)
    reseal(_point(scene), RecoveryPoint, removed=(removed,))
    refused_everywhere(scene, "point.json: it is damaged: it makes no sense: ")


@pytest.mark.parametrize("second", ["디스크 1.VHDX", DISK, f"{DISK}/x.vhdx"])
def test_two_disks_in_one_place_are_refused_before_anything_is_written(scene: Scene, second: str) -> None:
    point = decode(_point(scene).read_bytes(), RecoveryPoint, "it")
    twin = replace(point.disks[0], id="ab" * 16, path=second)
    reseal(_point(scene), RecoveryPoint, disks=(point.disks[0], twin))
    refused_everywhere(scene, "point.json: it is damaged: it makes no sense: ")


@pytest.mark.parametrize("name", ["..%2F..%2F밖%2Fx.vhdx", "..%2Fx", "%2Fx.vhdx", "%2f..%2fx", "..", "%2F"])
def test_an_undo_log_that_is_named_for_a_place_elsewhere_is_nobodys(scene: Scene, name: str) -> None:
    """What an interrupted cycle began for the first time, the next one takes away: `<path>.initial`."""
    for victim in (scene.base / "밖" / "x.vhdx.initial", scene.base / "x.initial", scene.replica_share / "x.initial"):
        victim.write_text("mine")
    pending = scene.replica / "points" / "3.pending"
    pending.mkdir()
    (pending / f"{name}.undo").write_bytes(b"")
    scene.here("sync", VM, "--standalone").done()
    for victim in (scene.base / "밖" / "x.vhdx.initial", scene.base / "x.initial", scene.replica_share / "x.initial"):
        assert victim.read_text() == "mine"
        victim.unlink()


@pytest.mark.parametrize("name", ["NUL.undo", "x:y", "C:x"])
def test_a_file_that_cannot_be_named_everywhere_is_left_where_it_is(scene: Scene, name: str) -> None:
    pending = scene.replica / "points" / "3.pending"
    pending.mkdir()
    (pending / name).write_bytes(b"mine")
    scene.here("sync", VM, "--standalone").done()
    assert (scene.replica / "points" / "3" / name).read_bytes() == b"mine"


def test_a_cycle_that_names_new_disks_elsewhere_is_gone_on_without(scene: Scene) -> None:
    point = decode(_point(scene).read_bytes(), RecoveryPoint, "it")
    (scene.base / "밖" / "x.vhdx.initial").write_text("mine")
    pending = scene.replica / "points" / "3.pending"
    pending.mkdir()
    record = CycleRecord(
        FORMAT_VERSION, point.replica_id, 3, 2, point.time, "host", (PendingDisk("ab" * 16, "../../밖/x.vhdx", 65536),)
    )
    (pending / "cycle.json").write_bytes(encode(record))
    (pending / f"{DISK}.undo").write_bytes(b"")
    scene.here("sync", VM, "--standalone").done()
    victim = scene.base / "밖" / "x.vhdx.initial"
    assert victim.read_text() == "mine"
    victim.unlink()


STEERING = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\u2066\u200b\u2028"


def _is_plain(text: str) -> bool:
    return all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text.replace("\n", ""))


def test_nothing_that_a_replica_says_steers_a_terminal(scene: Scene) -> None:
    record = scene.replica / "replica.json"
    reseal(record, ReplicaRecord, vm=f"{VM}{STEERING}", source=STEERING, created_by=STEERING)
    for number in (1, 2):
        point = decode(_point(scene, number).read_bytes(), RecoveryPoint, "it")
        path, undo = f"디스크 1\u202e{STEERING[-1]}.vhdx", point.disks[0].undo
        disk = replace(point.disks[0], path=path, undo=undo and replace(undo, file=f"{path}.undo"))
        reseal(
            _point(scene, number), RecoveryPoint, vm=f"{VM}{STEERING}", host=STEERING, warnings=(STEERING,),
            disks=(disk,),
        )  # fmt: skip
    lock = {"host": STEERING, "machine_id": "x", "boot_id": "", "process_start": "", "since": STEERING, "pid": 1}
    (scene.replica / "replica.lock").write_text(json.dumps(lock))
    given = ("--replica", str(scene.replica))
    verbs: list[tuple[str, ...]] = [
        ("points", *given), ("points", *given, "--json"), ("verify", *given), ("verify", *given, "--json"),
        ("restore", *given, "--to", str(scene.base / "target")), ("sync", VM, "--standalone"), ("status",),
        ("status", "--json"),
    ]  # fmt: skip
    for verb in verbs:
        outcome = scene.here(*verb)
        assert _is_plain(outcome.out), verb
        assert _is_plain(outcome.err), verb
    warnings = [point["warnings"] for point in scene.here("points", *given, "--json").json()]
    assert warnings == [[STEERING]] * 2  # as JSON escapes it


def test_a_restore_says_plainly_whose_disks_they_are(scene: Scene) -> None:
    reseal(_point(scene), RecoveryPoint, vm=f"{VM}{STEERING}")
    outcome = scene.here("restore", "--replica", str(scene.replica), "--to", str(scene.base / "target")).done()
    assert _is_plain(outcome.out)
    assert contents(scene.base / "target") == contents(scene.source)


def test_links_in_the_directory_that_is_restored_to_are_not_followed(tmp_path: Path) -> None:
    scene = local_scene(tmp_path)
    (scene.source / "하위").mkdir()
    make_vhdx(scene.source / "하위" / "둘.vhdx", 2)
    scene.here("sync", VM, "--standalone").done()
    victim, target = tmp_path / "밖", tmp_path / "target"
    victim.mkdir()
    target.mkdir()
    (target / "하위").symlink_to(victim)
    scene.here("restore", VM, "--standalone", "--to", str(target)).refused(1, "하위", "links are not followed")
    assert list(victim.iterdir()) == []


def test_a_disk_named_like_the_unfinished_file_of_another_is_restored_as_well(tmp_path: Path) -> None:
    """In whatever order a record names them."""
    scene = local_scene(tmp_path)
    scene.machine["disks"] = '["*"]'
    for name in (f"{DISK}.restoring", f"{DISK}.restoring.restoring"):
        (scene.source / name).write_bytes(name.encode() * 1000)
    scene.sync()
    scene.check_points()
    point = decode(_point(scene, 1).read_bytes(), RecoveryPoint, "it")
    reseal(_point(scene, 1), RecoveryPoint, disks=point.disks[::-1])
    scene.check_points()


@pytest.mark.samba
def test_links_made_on_a_server_do_not_lead_out_of_its_share(samba: SambaDirectory, tmp_path: Path) -> None:
    scene = smb_scene(tmp_path, samba)
    scene.sync()
    outside = tmp_path / "밖"
    outside.mkdir()
    disks = scene.replica / "disks"
    (disks / DISK).rename(outside / DISK)
    (disks / DISK).symlink_to(outside / DISK)
    change(scene.source / DISK, 2)
    before = tree_of(outside)
    assert scene.here("sync", VM, "--standalone").code != 0
    assert scene.here("restore", VM, "--standalone", "--to", str(tmp_path / "target")).code != 0
    assert tree_of(outside) == before
    assert not (tmp_path / "target").exists() or contents(tmp_path / "target") == {}
