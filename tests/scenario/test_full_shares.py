"""A share that becomes full at any moment of a cycle, and a full target of a restore: one sentence that says so, every
point as it was, and all is well as soon as there is room."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.support.filesystems import mounted
from tests.support.full import fill, make_room
from tests.support.installation import Outcome
from tests.support.machine_model import MIB, tree_state
from tests.support.samba import PLAIN
from tests.support.stage import SmallStage, small_stage

pytestmark = [
    pytest.mark.samba,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]
Record = Callable[[str, object], None]

PLACES = {
    r"\.undo\b": "undo log",
    r"\.updating\b": "disk",
    r"\.initial\b": "new disk",
    r"manifests": "manifest",
    r"cycle\.json": "cycle's record",
    r"point\.json": "point's record",
    r"replica\.json|RECOVERY\.txt": "replica's record",
    r"replica\.lock": "lock",
    r"\.pending: ": "cycle's directory",
    r"points\\\d+\b": "commit",
    r"new disks? to": "room for new disks",
}


def _place(complaint: str) -> str:
    return next((place for pattern, place in PLACES.items() if re.search(pattern, complaint)), complaint)


def _check_complaint(outcome: Outcome) -> str:
    """What was said of a full share; returns the place where it was met."""
    said = outcome.complaint
    assert outcome.code == 1, said
    assert re.search(r"no space is left on the share|bytes are needed and \d+ are free", said), said
    if re.match(r"replicad: cannot (write|copy|zero) ", said):
        assert re.search(r"(\d+) bytes (more were to be written, and|are needed and) \d+ (are|are) free", said), said
    assert re.search(
        r"Make room( for (at least )?\d+ bytes( more)?)? there and run 'replicad sync' again|Make room for", said
    )
    return _place(said)


def fill_at(stage: SmallStage, file_system: Path, messages: Iterable[int]) -> Counter[str]:
    """A sync of some changes for each of these moments, at which the share becomes full; where each one noticed."""
    met: Counter[str] = Counter()
    for at_message in messages:
        stage.model.some_changes()
        outcome = stage.tried("sync", at_message=at_message, do=lambda: fill(file_system))
        if outcome is not None and outcome.code != 0:
            met[_check_complaint(outcome)] += 1
            stage.check_point(stage.troubles.random.choice(sorted(stage.model.history)))
            again = stage.tried("sync", at_message=0, do=lambda: None)
            assert again is not None
            if again.code != 0:
                _check_complaint(again)
        else:
            met["done all the same"] += 1
        make_room(file_system)
        stage.sync()
    return met


def _full_at_moments(room: Path, kind: str, step: Callable[[int], int], seed: int) -> Counter[str]:
    with mounted(kind) as small, small_stage(room, f"{kind} {seed}", share=small) as stage:
        stage.sync()
        stage.model.some_changes()
        usual = stage.sync()
        met = fill_at(stage, small, range(seed, usual, step(usual)))
        stage.check_all_points()
    return met


@pytest.mark.timeout(300)
def test_a_share_that_becomes_full_in_a_cycle(room: Path, record_property: Record) -> None:
    met = _full_at_moments(room, "ext4", lambda usual: max(1, usual // 9), 1)
    for place, count in met.items():
        record_property(place, count)
    assert {"undo log", "manifest"} <= set(met), met


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_share_that_becomes_full_at_every_moment_of_a_cycle(room: Path, kind: str, record_property: Record) -> None:
    met = _full_at_moments(room, kind, lambda usual: 1, 0)
    for place, count in met.items():
        record_property(place, count)
    if kind == "ext4":
        wanted = {"undo log", "manifest", "cycle's record", "point's record", "cycle's directory"}
        assert wanted <= set(met), met


def _full_in_initial_copies(room: Path, kind: str, parts: int) -> Counter[str]:
    met: Counter[str] = Counter()
    with mounted(kind) as small, small_stage(room, f"initial {kind}", share=small) as stage:
        usual = stage.sync()
        for part in range(parts):
            shutil.rmtree(stage.replica.path)
            stage.model.history.clear()
            stage.replica.syncs.clear()
            outcome = stage.tried("sync", at_message=part * usual // parts, do=lambda: fill(small))
            if outcome is not None and outcome.code != 0:
                met[_check_complaint(outcome)] += 1
            make_room(small)
            if not stage.model.history:
                stage.sync()
            stage.check_all_points()
    return met


@pytest.mark.timeout(300)
def test_a_share_that_becomes_full_in_an_initial_copy(room: Path) -> None:
    assert len(_full_in_initial_copies(room, "ext4", 5)) >= 2


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_share_that_becomes_full_at_any_moment_of_an_initial_copy(
    room: Path, kind: str, record_property: Record
) -> None:
    for place, count in _full_in_initial_copies(room, kind, 80).items():
        record_property(place, count)


def test_a_target_that_has_no_room_is_refused_before_a_byte_is_written(room: Path) -> None:
    with mounted("ext4") as small, small_stage(room, "target") as stage:
        stage.sync()
        (small / "되살린 것").mkdir()
        fill(small)
        said = stage.installation.run("restore", "--to", str(small / "없음"), expect=1).complaint
        assert "no space is left there. Make room there" in said
        assert not (small / "없음").exists()
        target = small / "되살린 것"
        said = stage.installation.run("restore", "--to", str(target), expect=1).complaint
        found = re.search(r"(\d+) bytes are needed and (\d+) are free. Make room for (\d+) bytes more", said)
        assert found is not None, said
        needed, free, missing = map(int, found.groups())
        assert missing == needed - free > 0
        assert "nothing was written" in said
        assert list(target.iterdir()) == []
        make_room(small)
        stage.installation.run("restore", "--to", str(target))
        assert tree_state(target) == stage.model.history[1]


@pytest.mark.timeout(300)
def test_a_target_that_becomes_full_keeps_only_files_that_are_whole(room: Path) -> None:
    """The target is on the server, too, so that the moment can be chosen."""
    refused = 0
    with mounted("ext4") as small, small_stage(room, "target on a share", share=small) as stage:
        stage.sync()
        stage.relay.reset()
        wanted = stage.model.history[1]
        address, target = rf"\\nas\{PLAIN}\되살린 것", stage.share / "되살린 것"
        target.mkdir()
        stage.installation.run("restore", "--to", address)
        usual = stage.relay.traffic.messages
        for part in range(8):
            shutil.rmtree(target)
            target.mkdir()
            at_message = part * usual // 8
            outcome = stage.tried("restore", "--to", address, at_message=at_message, do=lambda: fill(small))
            assert outcome is not None
            found = tree_state(target)
            if outcome.code != 0:
                refused += 1
                said = outcome.complaint
                assert outcome.code == 1
                assert re.search(r"no space is left|bytes are needed", said), said
                assert re.search(r"Make room|bytes", said), said
            else:
                assert found == wanted
            assert all(wanted[path] == state for path, state in found.items())
            make_room(small)
        shutil.rmtree(target)
        target.mkdir()
        stage.installation.run("restore", "--to", address)
        assert tree_state(target) == wanted
    assert refused >= 2


def test_the_bytes_that_are_missing_are_enough(room: Path) -> None:
    """Who makes as much room as the sentence asks for, each time, gets the cycle through."""
    with mounted("ext4") as small, small_stage(room, "missing", share=small) as stage:
        stage.sync()
        raw = next(stage.model.directory.rglob("raw *"))
        raw.write_bytes(stage.troubles.random.randbytes(3 * MIB))
        fill(small)
        stage.replica.about_to_sync()
        met: list[str] = []
        for _ in range(20):
            outcome = stage.installation.tried("sync")
            if outcome.code == 0:
                break
            met.append(_check_complaint(outcome))
            missing = re.search(r"Make room for (?:at least )?(\d+) bytes", outcome.complaint)
            freed = int(missing[1]) if missing else 64 * 1024
            filler = max(small.glob("채움*"), key=lambda path: path.stat().st_size)
            os.truncate(filler, max(0, filler.stat().st_size - freed))
        else:
            pytest.fail(f"still no room: {outcome.complaint}")
        assert {"undo log", "disk"} <= set(met), met
        stage.replica.check_names()
        make_room(small)
        stage.check_all_points()
