"""Sources that are not what they should be: one sentence, its exit code, no point, and the next cycle goes well."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicad.cli.demo.samba import PrivateSamba
from tests.support.samba import fresh_directory
from tests.support.scene import VM, Outcome, Scene, change, flip_bit, local_scene, make_vhdx, smb_scene

DISK = "디스크 1.vhdx"


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A local scene with one point, and a source that has changed since."""
    made = local_scene(tmp_path)
    made.sync()
    change(made.source / DISK, 2)
    return made


@pytest.fixture
def smb_source(samba_server: PrivateSamba, tmp_path: Path) -> Iterator[Scene]:
    """The same on a server whose file system tells upper from lower case."""
    with fresh_directory(samba_server) as directory:
        made = smb_scene(tmp_path, directory)
        made.sync()
        change(made.source / DISK, 2)
        yield made


def refused(scene: Scene, code: int, *parts: str) -> Outcome:
    """A sync is refused, and nothing is touched."""
    with scene.untouched():
        return scene.run("sync", VM, "--standalone").refused(code, *parts)


def goes_on(scene: Scene) -> None:
    """The next cycle goes well, and all points are what they were."""
    scene.sync()
    scene.check_points()


def test_named_disk_that_is_missing(scene: Scene) -> None:
    scene.machine["disks"] = '["*.vhdx", "없는 디스크.vhdx"]'
    refused(scene, 10, "disk '없는 디스크.vhdx' in", "원본 1", "there is no such file", "Put the file back")
    make_vhdx(scene.source / "없는 디스크.vhdx", 3)
    goes_on(scene)


def test_patterns_that_match_nothing(scene: Scene) -> None:
    scene.machine["disks"] = '["*.vhd", "b*"]'
    refused(scene, 10, "cannot find a disk in", "원본 1", "no file matches *.vhd, b*", "correct 'source' or 'disks'")


def test_all_disks_vanished_after_the_first_point(scene: Scene) -> None:
    (scene.source / DISK).rename(scene.base / DISK)
    refused(scene, 10, "no file matches *.vhdx", "Put the disks back", "recovery points keep what they have")
    scene.check_points()
    (scene.base / DISK).rename(scene.source / DISK)
    goes_on(scene)


@pytest.mark.parametrize("content", [b"hello, this is no disk", b""], ids=["text", "empty"])
def test_file_that_is_no_vhdx_is_refused_unless_it_is_named(scene: Scene, content: bytes) -> None:
    (scene.source / "메모 📝.vhdx").write_bytes(content)
    refused(
        scene, 3, "메모 📝.vhdx: it is not a VHDX: it", "Name it in full under 'disks'", "plain bytes", "with 'exclude'"
    )
    scene.machine["disks"] = '["*.vhdx", "메모 📝.vhdx"]'
    outcome = scene.here("sync", VM, "--standalone").done()
    assert len(outcome.warnings) == 1
    assert "메모 📝.vhdx is not a VHDX" in outcome.warnings[0]
    assert "plain bytes" in outcome.warnings[0]
    scene.history[2] = {"메모 📝.vhdx": content, DISK: (scene.source / DISK).read_bytes()}
    scene.check_points()


def test_vhdx_with_one_damaged_header_is_replicated_with_a_warning(scene: Scene) -> None:
    flip_bit(scene.source / DISK, 64 * 1024 + 100)
    outcome = scene.here("sync", VM, "--standalone").done()
    assert [w.partition(":")[0] for w in outcome.warnings] == [DISK]
    assert "header 1 at byte 65536 is damaged" in outcome.warnings[0]
    goes_on(scene)


@pytest.mark.parametrize("damage", ["both headers", "cut short"])
def test_damaged_vhdx_makes_no_point(scene: Scene, damage: str) -> None:
    sound = (scene.source / DISK).read_bytes()
    if damage == "both headers":
        for header in (64, 128):
            flip_bit(scene.source / DISK, header * 1024 + 100)
    else:
        os.truncate(scene.source / DISK, 300 * 1024)
    refused(
        scene, 3, f"원본 1/{DISK}: its VHDX header", "is damaged", "restore it from an older point", "no point was made"
    )
    (scene.source / DISK).write_bytes(sound)
    goes_on(scene)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("줄\n바꿈.vhdx", "the control character U+000A"),
        ("con.vhdx", "the name of a device on Windows"),
        ("a:b.vhdx", "it holds ':'"),
        ("..\\..\\밖.vhdx", "it holds '\\'"),
        ("\udcffbad.vhdx", "it is not valid UTF-8"),
        ("가" * 80 + ".vhdx", "its path is 245 bytes long"),
        ("web.vhdx ", "it ends in a dot or a space"),
    ],
    ids=["newline", "device", "colon", "backslashes", "bytes", "long", "space"],
)
def test_disk_with_a_name_that_no_share_could_hold(scene: Scene, name: str, reason: str) -> None:
    scene.machine["disks"] = '["*.vhdx*"]'
    odd = Path(os.fsdecode(os.fsencode(scene.source) + b"/" + os.fsencode(name)))
    shutil.copy(scene.source / DISK, odd)
    before = sorted(p.name for p in scene.base.iterdir())
    scene.here("sync", VM, "--standalone").refused(1, "원본 1", reason, "Rename it, or leave it out with 'exclude'")
    assert sorted(p.name for p in scene.base.iterdir()) == before
    odd.unlink()
    goes_on(scene)


def test_names_that_only_look_dangerous_are_replicated(scene: Scene) -> None:
    for name in ("..vhdx", "%2F..%2Fx.vhdx", "-rf.vhdx", "$(id).vhdx"):
        shutil.copy(scene.source / DISK, scene.source / name)
    goes_on(scene)


@pytest.mark.samba
@pytest.mark.parametrize("where", ["scene", "smb_source"])
def test_two_disks_that_differ_only_by_case(where: str, request: pytest.FixtureRequest) -> None:
    scene: Scene = request.getfixturevalue(where)
    other = scene.source / "디스크 1.VHDX"
    shutil.copy(scene.source / DISK, other)
    refused(scene, 1, "'디스크 1.VHDX' and '디스크 1.vhdx' in", "원본 1", "differ only by case", "Rename one of them")
    other.unlink()
    goes_on(scene)


def test_links_at_the_source_are_not_followed_and_told(scene: Scene) -> None:
    outside = scene.base / "밖"
    outside.mkdir()
    make_vhdx(outside / "비밀.vhdx", 5)
    (scene.source / "link.vhdx").symlink_to(outside / "비밀.vhdx")
    (scene.source / "directory").symlink_to(outside)
    (scene.source / "loop").symlink_to(scene.source)
    outcome = scene.here("sync", VM, "--standalone").done()
    assert outcome.warnings == ["'link.vhdx' is a symbolic link, and links are not followed"]
    assert [p.name for p in (scene.replica / "disks").iterdir()] == [DISK]
    scene.machine["disks"] = '["link.vhdx"]'
    refused(scene, 10, "disk 'link.vhdx' in", "it is a symbolic link, and links are not followed", "holds the disk")


def test_a_disk_that_became_a_link(scene: Scene) -> None:
    (scene.source / DISK).rename(scene.base / DISK)
    (scene.source / DISK).symlink_to(scene.base / DISK)
    refused(scene, 10, f"'{DISK}' is a symbolic link, and links are not followed", "holds the disk itself")
    scene.check_points()


@pytest.mark.samba
def test_links_on_the_server_that_leave_its_share_are_not_replicated(smb_source: Scene) -> None:
    scene = smb_source
    make_vhdx(scene.base / "비밀.vhdx", 5)
    (scene.source / "link.vhdx").symlink_to(scene.base / "비밀.vhdx")
    scene.here("sync", VM, "--standalone").done()
    assert [p.name for p in (scene.replica / "disks").iterdir()] == [DISK]
