"""Commands that can't do what they are told: where to, which point, who else is at it, and how they are written."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from replicad.replica.layout import Layout
from tests.support.filesystems import mounted, resize
from tests.support.processes import other_process
from tests.support.scene import VM, Outcome, Scene, change, contents, local_scene

DISK = "디스크 1.vhdx"
KIB = 1024
INVALID = Path(__file__).parents[2] / "config" / "invalid"
WRITER = """
import sys
with open(sys.argv[1], "r+b"):
    print("open", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A local scene with one point."""
    made = local_scene(tmp_path)
    made.sync()
    return made


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A directory with a file of somebody else in it, which no test touches."""
    made = tmp_path / "대상"
    made.mkdir()
    (made / "메모.txt").write_text("mine")
    yield made
    assert (made / "메모.txt").read_text() == "mine"


def _restore(scene: Scene, to: Path | str, *more: str) -> Outcome:
    with scene.untouched():
        return scene.here("restore", VM, "--standalone", "--to", str(to), *more)


def test_restore_overwrites_nothing(scene: Scene, target: Path) -> None:
    (target / DISK).write_text("mine too")
    _restore(scene, target).refused(1, f"cannot restore {target}/{DISK}", "a file of that name already", "empty")
    assert (target / DISK).read_text() == "mine too"
    (target / DISK).unlink()
    (target / DISK).symlink_to(scene.base / "nowhere")
    _restore(scene, target).refused(1, f"cannot restore {target}/{DISK}", "a file of that name already")
    assert not (scene.base / "nowhere").exists()
    assert sorted(p.name for p in target.iterdir()) == sorted([DISK, "메모.txt"])


def test_restore_does_not_follow_a_link_in_place_of_its_partial_file(scene: Scene, target: Path) -> None:
    (target / f"{DISK}.restoring").symlink_to(target / "메모.txt")
    _restore(scene, target).done()
    assert (target / DISK).read_bytes() == scene.history[1][DISK]


@pytest.mark.parametrize(
    ("to", "code", "said"),
    [
        ("대상/메모.txt", 1, ("cannot make the directory", "메모.txt: a file is in its way", "Name a directory")),
        ("대상/메모.txt/안", 1, ("cannot make the directory", "a file is in its way")),
        (f"복제 2/{VM}", 2, ("cannot restore to", "it is the replica itself, or lies inside it")),
        (f"복제 2/{VM}/disks/새", 2, ("cannot restore to", "it is the replica itself, or lies inside it")),
        (r"\\nas2\vms\새", 2, ("cannot use server nas2", "is not described in", "under 'servers:'")),
    ],
)
def test_restore_to_where_nothing_can_be(scene: Scene, target: Path, to: str, code: int, said: tuple[str, ...]) -> None:
    _restore(scene, to if to.startswith("\\") else scene.base / to).refused(code, *said)


def test_what_is_not_there(scene: Scene) -> None:
    to = ("--to", str(scene.base / "새"), "--standalone")
    for verb, *options in (["restore", *to], ["verify", "--standalone"]):
        scene.here(verb, VM, "--point", "9", *options).refused(
            10, f"recovery point 9 in {scene.replica}: the latest is 1", "See 'replicad points'"
        )
    for verb, *options in (["sync", "--standalone"], ["points"], ["verify"], ["restore", *to], ["status"]):
        for name in ("web02", "../x", "/etc"):
            scene.here(verb, name, *options).refused(
                10, f"virtual machine '{name}' in", f"the configured ones are: {VM}", "Check the name"
            )
    for verb, *options in (["points"], ["verify"], ["restore", *to]):
        nowhere = f"{scene.replica_share}/없음"
        scene.here(verb, "--replica", nowhere, *options).refused(
            10, f"cannot find a replica in {nowhere}: there is no replica.json", "Check the address"
        )
    assert not (scene.base / "새").exists()


def test_replica_without_a_point_yet(scene: Scene) -> None:
    shutil.rmtree(scene.replica)
    (scene.source / DISK).write_bytes(b"no disk")
    assert scene.here("sync", VM, "--standalone").code == 3
    for verb, *options in (["verify"], ["restore", "--to", str(scene.base / "새")]):
        scene.here(verb, VM, "--standalone", *options).refused(10, "a recovery point", "there is none yet", "first")
    assert scene.here("points", VM, "--json").done().json() == []


def test_second_sync_says_who_is_at_it_and_interrupting_the_first_one_frees_the_replica(scene: Scene) -> None:
    scene.machine["consistency"] = "{wait: 60s}"
    with other_process(WRITER, str(scene.source / DISK)) as writer:
        assert writer.line() == "open"
        first = scene.start("sync", VM, "--standalone")
        assert first.stderr is not None
        while first.stderr.readline() != "holding the source\n":
            assert first.poll() is None
        with scene.untouched():
            for verb, *options in (["sync"], ["verify"], ["restore", "--to", str(scene.base / "새")]):
                scene.here(verb, VM, "--standalone", *options).refused(
                    11, f"cannot lock {scene.replica}/replica.lock: it is held by host {os.uname().nodename}",
                    f"process {first.pid}, since 20", "Wait until it is done.",
                )  # fmt: skip
            assert len(scene.here("points", VM, "--json").done().json()) == 1
            first.send_signal(signal.SIGINT)
            out, err = first.communicate(timeout=30)
        assert (first.returncode, out, err.strip()) == (130, "", "replicad: interrupted")
    assert scene.sync() == 2
    scene.check_points()


@pytest.mark.parametrize(
    "verb", [["points", VM], ["status"], ["sync", VM, "--standalone", "--json"]], ids=lambda v: v[0]
)
def test_reader_that_goes_away_is_no_reason_to_complain(scene: Scene, verb: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = scene.start(*verb, stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=60)
    assert scene.checked(Outcome(process.returncode, "", err)).complaints == []
    assert process.returncode == 1


def test_output_that_can_not_be_written_is_told(scene: Scene) -> None:
    with Path("/dev/full").open("w") as full:
        process = scene.start("points", VM, stdout=full.fileno())
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "replicad: cannot write the output: No space left on device\n")


def test_json_is_all_of_stdout_or_nothing_is(scene: Scene) -> None:
    for verb in (["status"], ["points", VM], ["verify", VM], ["sync", VM], ["sync", VM, "--dry-run"]):
        standalone = ["--standalone"] if verb[0] in ("verify", "sync") else []
        assert scene.run(*verb, *standalone, "--json").done().json()
    for path in (Layout("").record, Layout("").record_copy):
        (scene.replica / path).unlink()
    for verb in (["points", VM], ["verify", VM, "--standalone"], ["sync", VM, "--standalone"]):
        outcome = scene.here(*verb, "--json")
        assert (outcome.code in (1, 10), outcome.out) == (True, "")


@pytest.mark.parametrize(
    "typed",
    [["snyc", VM], ["sync"], ["sync", VM, "--fast"], ["restore", VM], ["points"], ["verify", VM, "--point", "0"],
     ["points", VM, "--replica", "/srv/other"], ["verify", VM, "--repair", "--point", "1"]],
    ids=" ".join,
)  # fmt: skip
def test_usage_that_makes_no_sense(scene: Scene, typed: list[str]) -> None:
    with scene.untouched():
        outcome = scene.here(*typed)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("name", ["../x", "/abs", "..", "a\\b", "con", "web.", "a/b", "웹\u200b\n"])
def test_virtual_machine_with_a_name_that_leaves_its_directory(scene: Scene, name: str) -> None:
    before = sorted(p.name for p in scene.base.iterdir())
    scene.vm = name
    scene.configure()
    text = scene.config.read_text().replace(f"'{name}'", '"' + name.replace("\\", "\\\\").replace("\n", "\\n") + '"')
    scene.config.write_text(text)
    for verb in (["check-config"], ["sync", name, "--standalone"], ["points", name]):
        outcome = scene.as_configured(*verb)
        assert (outcome.code, outcome.out) == (2, ""), outcome
        assert outcome.err.startswith(f"{scene.config}:3: virtual_machines.")
        assert len(outcome.err.splitlines()) == 1
    assert sorted(p.name for p in scene.base.iterdir()) == before


@pytest.mark.parametrize("file", sorted(INVALID.glob("*.yaml")), ids=lambda f: f.stem)
def test_configuration_with_mistakes(scene: Scene, file: Path) -> None:
    lines = file.read_bytes().decode("utf-8", "replace").splitlines()
    expected = [line.removeprefix("# expect: ") for line in lines if line.startswith("# expect: ")]
    wanted = [f"{scene.config}:{text if text[0].isdigit() else f' {text}'}" for text in expected]
    scene.config.write_bytes(file.read_bytes())
    for verb in (["check-config"], ["sync", VM, "--standalone"], ["status"]):
        outcome = scene.as_configured(*verb)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.splitlines() == wanted


def test_configuration_that_can_not_be_read(scene: Scene) -> None:
    scene.config.unlink()
    outcome = scene.as_configured("sync", VM)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"{scene.config}: there is no such file; check the path, or give another with --config\n"
    assert scene.as_configured("check-config", "--json").json()["good"] is False


class TestFullDisks:
    """On small file systems of their own."""

    pytestmark: ClassVar = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")]

    def test_restore_to_a_full_one_leaves_nothing_behind(self, scene: Scene) -> None:
        with mounted("tmpfs", 400 * KIB) as small:
            _restore(scene, small).refused(
                1, f"cannot restore to {small}: ", "bytes are needed and", "Make room for", "nothing was written"
            )
            assert list(small.iterdir()) == []

    def test_initial_copy_that_does_not_fit_is_refused_before_it_begins(self, scene: Scene) -> None:
        with mounted("tmpfs", 300 * KIB) as small:
            scene.machine["replica"] = f"'{small}'"
            scene.here("sync", VM, "--standalone").refused(
                1,
                f"cannot copy 1 new disk to {small}/{VM}",
                "bytes are needed and",
                "Make room for",
                "nothing was sent",
            )
            assert list((small / VM / "disks").iterdir()) == []
            resize(small, 8192 * KIB)
            scene.here("sync", VM, "--standalone").done()

    def test_delta_that_does_not_fit_goes_on_once_there_is_room(self, scene: Scene) -> None:
        with mounted("tmpfs", 1300 * KIB) as small:
            scene.replica_share, scene.machine["replica"], scene.history = small, f"'{small}'", {}
            scene.sync()
            change(scene.source / DISK, 9, length=700 * 1024)
            for _ in range(2):
                scene.run("sync", VM, "--standalone").refused(
                    1,
                    f"cannot write {small}/{VM}",
                    "no space is left",
                    "run 'replicad sync' again",
                    "points are intact",
                )
                scene.check_points()
            reasons = scene.here("status", "--json").done().json()[0]["reasons"]
            assert reasons == ["the cycle of point 2 was interrupted; the next one goes on with it"]
            resize(small, 8192 * KIB)
            outcome = scene.here("sync", VM, "--standalone", "--json").done()
            assert (outcome.json()["point"], outcome.json()["resumed"]) == (2, True)
            scene.history[2] = contents(scene.source)
            scene.check_points()
