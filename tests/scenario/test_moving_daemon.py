"""The daemon moves machines: asked by the command line, killed in the middle, and put off to another time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from replicad.cli.main import main
from tests.support.daemon import Daemon, Facts, Site, site
from tests.support.scene import contents, make_vhdx

NAMES = ("웹 1", "웹 2", "웹 3")
NOT_SEEN = ("progress", "predicted_freeze_s", "retry_at")


@dataclass
class Place:
    """A daemon that keeps three machines, all in local directories."""

    site: Site
    daemon: Daemon
    base: Path
    machines: dict[str, dict[str, Any]]
    capsys: pytest.CaptureFixture[str]

    def asked(self, *arguments: str) -> tuple[int, Any]:
        """`move …`: its exit code, and what it prints."""
        self.capsys.readouterr()
        code = main(["move", *arguments, "--config", str(self.site.config), "--json"])
        out, err = self.capsys.readouterr()
        assert "in this process" not in err, err
        return code, json.loads(out) if out else err

    def source(self, vm: str) -> Path:
        return self.base / "원본" / vm

    def wait_for(self, phase: str, vm: str) -> Facts:
        """The move of that machine, once it is that far."""

        def seek() -> Facts | None:
            moves = self.asked("list")[1]["moves"]
            return next((dict(m) for m in moves if (m["vm"], m["phase"]) == (vm, phase)), None)

        return self.daemon.wait_until(seek, f"{phase} of {vm}")


def _lines(path: Path, count: int) -> Facts | None:
    lines = path.read_text().splitlines() if path.exists() else []
    return {"lines": sorted(lines)} if len(lines) >= count else None


def write(site: Site, base: Path, machines: dict[str, dict[str, Any]]) -> None:
    """The configuration, as it is to be from now on."""
    note = f'echo "$REPLICAD_VM $REPLICAD_PHASE $REPLICAD_ERROR" >> "{base}/told"'
    site.write({}, machines, max_moves=1, hooks={"on_move": ["/bin/sh", "-c", note]})


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    machines: dict[str, dict[str, Any]] = {}
    for number, vm in enumerate(NAMES):
        source = tmp_path / "원본" / vm
        source.mkdir(parents=True)
        make_vhdx(source / "디스크.vhdx", number)
        machines[vm] = {"source": str(source), "replica": str(tmp_path / "사본"), "consistency": {"wait": "1s"}}
    (tmp_path / "사본").mkdir()
    (tmp_path / "새 곳").mkdir()
    with site(tmp_path / "하나") as made:
        write(made, tmp_path, machines)
        yield Place(made, made.ready(), tmp_path, machines, capsys)
        assert made.complaints() == []


def test_machines_of_a_pattern_are_moved_by_the_daemon_and_followed(place: Place) -> None:
    wanted = [contents(place.source(vm)) for vm in NAMES]
    code, told = place.asked("start", "웹*", str(place.base / "새 곳"))
    assert (code, [move["vm"] for move in told["moves"]], told["failed"]) == (0, list(NAMES), [])
    told_to_hook = place.daemon.wait_until(lambda: _lines(place.base / "told", len(NAMES)), "what the hook was told")
    assert told_to_hook == {"lines": [f"{vm} done " for vm in NAMES]}
    assert {move["phase"] for move in told["moves"]} == {"done"}
    assert [contents(place.base / "새 곳" / vm) for vm in NAMES] == wanted
    assert not any(list(place.source(vm).iterdir()) for vm in NAMES)


def test_status_says_which_line_to_change_once_a_machine_is_elsewhere(place: Place) -> None:
    assert place.asked("start", "웹 1", str(place.base / "새 곳" / "웹"))[0] == 0
    assert main(["sync", "웹 1", "--config", str(place.site.config)]) == 0
    place.capsys.readouterr()
    assert main(["status", "웹 1", "--json", "--config", str(place.site.config)]) == 0
    (machine,) = json.loads(place.capsys.readouterr().out)
    lines = place.site.config.read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if '"source"' in text and text.rstrip(",").endswith('웹 1"'))
    assert any(f"replicad.yaml:{line} says where it was" in text for text in machine["warnings"]), machine


def test_a_move_that_is_put_off_is_there_after_a_death_and_can_be_cancelled(place: Place) -> None:
    wanted = contents(place.source("웹 1"))
    code, told = place.asked("start", "웹 1", str(place.base / "새 곳" / "웹"), "--at", "2099-01-01T00:00")
    assert code == 0
    (move,) = told["moves"]
    assert (move["phase"], move["due"] is not None) == ("waiting", True)
    twin = place.asked("start", "웹 1", str(place.base / "다른 곳"), "--no-wait")
    assert twin[0] == 1
    place.daemon.kill()
    place.daemon = place.site.ready()
    assert place.wait_for("waiting", "웹 1")["id"] == move["id"]
    assert place.asked("cancel", move["id"][:8])[1]["phase"] == "cancelled"
    assert contents(place.source("웹 1")) == wanted
    assert list((place.base / "새 곳").iterdir()) == []


def test_what_is_in_use_is_tried_again_and_moved_by_a_later_daemon(place: Place) -> None:
    with (place.source("웹 2") / "디스크.vhdx").open("r+b"):
        code, told = place.asked("start", "웹 2", str(place.base / "새 곳" / "웹"))
        assert code == 5, told
        (waiting,) = place.asked("list")[1]["moves"]
        assert (waiting["progress"], waiting["retry_at"] is not None) == (None, True)
        place.daemon.kill()
        # Nobody works on it now, and nobody knows when it will be tried again.
        assert main(["move", "show", waiting["id"], "--config", str(place.site.config), "--json"]) == 0
        shown = json.loads(place.capsys.readouterr().out)
        assert {key: shown[key] for key in NOT_SEEN} == dict.fromkeys(NOT_SEEN)
        assert shown | {"retry_at": waiting["retry_at"]} == waiting
        make_vhdx(place.source("웹 2") / "그새 생긴 것.vhdx", 7)
        wanted = contents(place.source("웹 2"))
    place.daemon = place.site.ready()
    place.wait_for("done", "웹 2")
    assert contents(place.base / "새 곳" / "웹") == wanted


def test_how_far_a_move_is_is_told_while_it_is_under_way_and_it_can_be_taken_back_then(place: Place) -> None:
    """The machine's own command never comes to an end with stopping it."""
    wanted = contents(place.source("웹 3"))
    there = place.base / "새 곳" / "웹"
    stopping = place.base / "stopping"
    place.machines["웹 3"]["consistency"] = {
        "method": "command", "timeout": "10m", "thaw": ["true"], "switch": ["true"],
        "freeze": ["/bin/sh", "-c", f'touch "{stopping}"; exec sleep 600'],
    }  # fmt: skip
    write(place.site, place.base, place.machines)
    assert main(["reload", "--config", str(place.site.config)]) == 0
    code, told = place.asked("start", "웹 3", str(there), "--max-freeze", "5m", "--no-wait")
    assert code == 0, told
    (move,) = told["moves"]
    place.daemon.wait_until(lambda: {} if stopping.exists() else None, "the freeze")
    shown = place.asked("show", move["id"][:8])[1]
    whole = sum(map(len, wanted.values()))
    # How many rounds there were depends on how quick they are.
    assert shown["progress"].pop("phase") in ("copying", "round 2", "round 3")
    assert shown["progress"] == {"done_bytes": whole, "sent_bytes": 0, "total_bytes": whole}
    assert place.asked("cancel", move["id"][:8])[1]["phase"] == "cancelled"
    assert place.asked("show", move["id"][:8])[1]["progress"] is None
    assert contents(place.source("웹 3")) == wanted
    assert not there.exists()


def test_what_can_not_be_moved_is_told_with_its_reason(place: Place) -> None:
    there = place.base / "새 곳"
    (there / "디스크.vhdx").write_text("somebody's")
    code, told = place.asked("start", "웹 3", str(there))
    assert code == 1, told
    assert place.wait_for("failed", "웹 3")["error"].startswith("cannot move to")
    assert place.asked("resume", "없음")[0] == 10
    assert (there / "디스크.vhdx").read_text() == "somebody's"
