"""`move`, as an administrator types it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.scene import Outcome, Scene, contents, local_scene, make_vhdx, tree_of


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = local_scene(tmp_path)
    (made.source / "웹.vmcx").write_bytes(b"config")
    return made


def move(scene: Scene, *arguments: str) -> Outcome:
    scene.configure()
    return scene.run("move", *arguments)


def test_a_machine_is_moved_by_its_name_with_all_its_files(scene: Scene) -> None:
    wanted = contents(scene.source)
    told = move(scene, "start", scene.vm, str(scene.base / "새 곳"))
    assert told.code == 0, told
    assert "2 files" in told.out
    assert contents(scene.base / "새 곳") == wanted
    assert list(scene.source.iterdir()) == []
    (known,) = move(scene, "list", "--json").json()["moves"]
    assert (known["vm"], known["phase"], known["error"]) == (scene.vm, "done", None)
    shown = move(scene, "show", known["id"][:4].upper(), "--json").json()
    assert shown == known
    assert [Path(file["to"]).name for file in shown["files"]] == ["디스크 1.vhdx", "웹.vmcx"]


def test_a_dry_run_tells_all_and_leaves_nothing(scene: Scene) -> None:
    before = tree_of(scene.base)
    told = move(scene, "start", scene.vm, str(scene.base / "새 곳"), "--dry-run", "--json").json()
    assert [(m["vm"], m["runs"], len(m["files"])) for m in told["moves"]] == [(scene.vm, False, 2)]
    after = {name: what for name, what in tree_of(scene.base).items() if not name.startswith("state")}
    assert after == {name: what for name, what in before.items() if not name.startswith("state")} | {
        "replicad.yaml": after["replicad.yaml"]
    }
    assert move(scene, "list", "--json").json() == {"moves": []}


def test_what_is_at_the_destination_is_never_overwritten_and_nothing_is_remembered(scene: Scene) -> None:
    there = scene.base / "새 곳"
    there.mkdir()
    (there / "디스크 1.VHDX").write_text("somebody's")
    with scene.untouched():
        told = move(scene, "start", scene.vm, str(there))
    assert told.code == 1, told
    assert "there is a file of that name already" in told.err
    assert [path.name for path in there.iterdir()] == ["디스크 1.VHDX"]
    assert move(scene, "list", "--json").json() == {"moves": []}


def test_a_pattern_moves_each_machine_into_a_directory_of_its_own(scene: Scene) -> None:
    vms = scene.base / "머신들"
    for number in range(3):
        (vms / f"웹 {number}").mkdir(parents=True)
        make_vhdx(vms / f"웹 {number}" / "디스크.vhdx", number)
    (vms / "db").mkdir()
    (vms / "db" / "디스크.vhdx").write_bytes(b"stays")
    (vms / "웹 2" / "link.vhdx").symlink_to("디스크.vhdx")
    wanted = [contents(vms / f"웹 {number}") for number in range(2)]
    target = scene.base / "새 곳"
    target.mkdir()
    told = move(scene, "start", f"{vms}/웹*", str(target), "--keep-source", "--json")
    assert told.code == 3, told
    assert [m["vm"] for m in told.json()["moves"]] == ["웹 0", "웹 1"]
    (failed,) = told.json()["failed"]
    assert failed["vm"] == "웹 2"
    assert "it is a link" in failed["error"]
    assert [contents(target / f"웹 {number}") for number in range(2)] == wanted
    assert sorted(path.name for path in target.iterdir()) == ["웹 0", "웹 1"]
    assert all(".moved-" in path.name for number in range(2) for path in (vms / f"웹 {number}").iterdir())
    # What was moved away is not there for the pattern any more.
    (vms / "웹 2" / "link.vhdx").unlink()
    again = move(scene, "start", f"{vms}/웹*", str(target), "--json")
    assert [m["vm"] for m in again.json()["moves"]] == ["웹 2"], again


def test_disks_go_where_their_pattern_says(scene: Scene) -> None:
    make_vhdx(scene.source / "빠른 것.vhdx", 9)
    fast, slow = scene.base / "빠른 곳", scene.base / "느린 곳"
    told = move(scene, "start", scene.vm, str(slow), "--disk", f"빠른*={fast}", "--max-freeze", "1m")
    assert told.code == 0, told
    assert [path.name for path in fast.iterdir()] == ["빠른 것.vhdx"]
    assert sorted(path.name for path in slow.iterdir()) == ["디스크 1.vhdx", "웹.vmcx"]


def _retired(scene: Scene, destination: Path) -> str:
    """A move whose source is to be deleted in an hour; its id."""
    assert move(scene, "start", scene.vm, str(destination), "--grace", "1h").code == 0
    database = scene.base / "state" / "catalog.sqlite"
    with sqlite3.connect(database) as connection:
        ((move_id, record),) = connection.execute("SELECT id, record FROM move").fetchall()
        assert '"phase":"retired"' in record
    connection.close()
    return str(move_id)


def test_a_source_is_kept_for_its_time_and_a_move_past_its_switch_is_not_taken_back(scene: Scene) -> None:
    wanted = contents(scene.source)
    move_id = _retired(scene, scene.base / "새 곳")
    assert {name.partition(".moved-")[0]: data for name, data in contents(scene.source).items()} == wanted
    told = move(scene, "cancel", move_id[:8])
    assert told.code == 1
    assert "the machine is switched, or being switched, already" in told.err
    assert move(scene, "resume", move_id[:8]).code == 0
    assert move(scene, "show", move_id, "--json").json()["source_deleted_after"] is not None
    assert len(list(scene.source.iterdir())) == 2


def test_a_move_that_can_not_end_can_be_gone_on_with_and_be_taken_back(scene: Scene) -> None:
    there, wanted = scene.base / "새 곳", contents(scene.source)
    scene.machine["consistency"] = "{method: command, freeze: ['false'], thaw: ['true'], switch: ['true']}"
    told = move(scene, "start", scene.vm, str(there))
    assert told.code != 0, told
    assert "'replicad move resume " in told.err
    assert "'replicad move cancel " in told.err
    (known,) = move(scene, "list", "--json").json()["moves"]
    assert known["error"] is not None
    elsewhere = move(scene, "start", scene.vm, str(scene.base / "다른 곳"))
    assert elsewhere.code == 1
    assert f"its move to {there} has not ended" in elsewhere.err
    assert move(scene, "cancel", known["id"]).code == 0
    assert move(scene, "show", known["id"], "--json").json()["phase"] == "cancelled"
    assert contents(scene.source) == wanted
    assert not there.exists()
    del scene.machine["consistency"]
    assert move(scene, "start", scene.vm, str(there)).code == 0
    assert contents(there) == wanted


def test_of_a_machine_that_is_in_use_nothing_is_remembered_so_that_what_it_gets_meanwhile_is_moved_as_well(
    scene: Scene,
) -> None:
    there = scene.base / "새 곳"
    with (scene.source / "디스크 1.vhdx").open("r+b"):
        assert move(scene, "start", scene.vm, str(there)).code == 5
    assert move(scene, "list", "--json").json() == {"moves": []}
    assert not there.exists()
    make_vhdx(scene.source / "새 디스크.vhdx", 4)
    wanted = contents(scene.source)
    assert move(scene, "start", scene.vm, str(there)).code == 0
    assert contents(there) == wanted


def _interrupted(scene: Scene, there: Path) -> None:
    """A move that a freeze has ended which fails."""
    scene.machine["consistency"] = "{method: command, freeze: ['false'], thaw: ['true'], switch: ['true']}"
    assert move(scene, "start", scene.vm, str(there)).code == 5
    scene.machine["consistency"] = "{method: command, freeze: ['true'], thaw: ['true'], switch: ['true']}"


def test_a_move_that_is_started_again_goes_on_in_the_way_that_is_wanted_now(scene: Scene) -> None:
    there, wanted = scene.base / "새 곳", contents(scene.source)
    _interrupted(scene, there)
    told = move(scene, "start", scene.vm, str(there), "--keep-source", "--max-freeze", "7s")
    assert told.code == 0, told
    assert "which was begun before" in told.err
    assert contents(there) == wanted
    assert {name.partition(".moved-")[0]: data for name, data in contents(scene.source).items()} == wanted
    (known,) = move(scene, "list", "--json").json()["moves"]
    assert (known["phase"], known["source_after"]) == ("done", "keep")


def _forget(scene: Scene) -> None:
    for path in (scene.base / "state").glob("catalog.sqlite*"):
        path.unlink()


def test_of_a_move_that_this_host_has_forgotten_what_lies_at_its_destination_is_gone_on_with(scene: Scene) -> None:
    there, wanted = scene.base / "새 곳", contents(scene.source)
    _interrupted(scene, there)
    (begun,) = move(scene, "list", "--json").json()["moves"]
    _forget(scene)
    assert move(scene, "list", "--json").json() == {"moves": []}
    told = move(scene, "start", scene.vm, str(there), "--grace", "1h")
    assert told.code == 0, told
    (known,) = move(scene, "list", "--json").json()["moves"]
    assert (known["id"], known["phase"]) == (begun["id"], "retired")
    _forget(scene)
    # Its source has to be deleted still.
    assert move(scene, "start", scene.vm, str(there)).code == 0
    assert list(scene.source.iterdir()) == []
    assert contents(there) == wanted


def test_a_machine_is_not_moved_to_where_the_disks_of_others_are(scene: Scene) -> None:
    there = scene.base / "머신들"
    (there / "메일").mkdir(parents=True)
    make_vhdx(there / "메일" / "디스크.vhdx", 3)
    with scene.untouched():
        told = move(scene, "start", scene.vm, str(there))
    assert told.code == 1, told
    assert f"there is a disk already, {Path('메일') / '디스크.vhdx'}" in told.err
    assert move(scene, "start", scene.vm, str(there / "웹")).code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_machine_of_more_files_than_a_shell_lets_programs_open_is_moved(scene: Scene) -> None:
    for number in range(300):
        (scene.source / f"{number}.xml").write_text(f"<{number}/>")
    wanted = contents(scene.source)
    scene.configure()
    there = scene.base / "새 곳"
    program = "import sys; from replicad.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "move", "start", scene.vm, str(there), "--config", str(scene.config)]
    told = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -Sn 200; exec "$@"', "sh", *command], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert contents(there) == wanted


def test_unknown_ids_and_sources_are_told(scene: Scene) -> None:
    for arguments, code in (
        (("show", "abcd"), 10), (("cancel", "abcd"), 10), (("resume", "abcd"), 10),
        (("start", "없음", "/x"), 10), (("start", "없*", "/x"), 10), (("start", f"{scene.base}/없*", "/x"), 10),
        (("start", scene.vm, "/x", "--keep-source", "--grace", "1h"), 2),
        (("start", scene.vm, "/x", "--max-freeze", "5"), 2), (("start", scene.vm, scene.vm), 2),
        (("start", scene.vm, "/x", "--at", "2020-01-01T00:00"), 2),
        (("start", f"{scene.base}/*", f"{scene.base}/없음"), 10),
        (("start", scene.vm, "/x", "--max-freeze", "11m"), 2),
    ):  # fmt: skip
        assert move(scene, *arguments).code == code, arguments
