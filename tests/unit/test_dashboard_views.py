"""What the dashboard shows, as pure functions."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import replicad.service.api.dashboard as dashboard
from replicad.model.health import Health, State
from replicad.model.known_moves import KnownMove
from replicad.model.moves import MovePhase, MoveRecord
from replicad.model.points import Consistency, CycleKind
from replicad.model.runs import Outcome, Run, Trigger
from replicad.service.api.dashboard import views, words
from replicad.service.api.dashboard.series import MOST_TEETH, series_of
from replicad.service.api.move_shapes import MoveViewShape
from replicad.service.api.shapes import MachineShape, RecoveryPointShape, RunBegunShape, StatisticsShape
from replicad.service.moving.queue import MoveView
from replicad.service.watch import Progress

NOW = datetime(2026, 11, 23, 20, tzinfo=UTC)
ASSETS = Path(dashboard.__file__).parent / "assets"


def _machine(vm: str, health: Health = Health.NORMAL, **facts: Any) -> MachineShape:
    counted = StatisticsShape(
        since=NOW, done=0, failed=0, interrupted=0, missed=0, average_sent_bytes=None, largest_sent_bytes=0,
        average_duration_s=None, longest_duration_s=None, rpo_kept_percent=None,
    )  # fmt: skip
    known = {
        "vm": vm, "state": State.REPLICATING, "health": health, "reasons": [], "warnings": [], "statistics": counted,
        "tracking": [],
    }  # fmt: skip
    return MachineShape.model_validate({**dict.fromkeys(MachineShape.model_fields), **known, **facts})


def _run(ended: float, took: float = 10, outcome: Outcome = Outcome.DONE, sent: int = 1000) -> Run:
    """A cycle that ended so many minutes before now, and took so many seconds."""
    at = NOW - timedelta(minutes=ended)
    began = at - timedelta(seconds=took)
    return Run("웹", Trigger.SCHEDULE, began, began, ended_at=at, outcome=outcome, sent_bytes=sent)


def test_the_worst_come_first_and_then_names() -> None:
    machines = [_machine("b"), _machine("가", Health.WARNING), _machine("A"), _machine("z", Health.CRITICAL)]
    shown = views.fleet(machines, "", "all", 3)
    assert [row.machine.vm for row in shown.rows] == ["z", "가", "A"]
    assert shown.matching == 4
    assert shown.healths == {"critical": 1, "warning": 1, "normal": 2}


@pytest.mark.parametrize(
    ("query", "show", "vms"),
    [
        ("", "troubles", ["full", "paused"]),
        ("", "running", ["busy"]),
        ("", "paused", ["paused"]),
        ("", "nonsense", ["full", "paused", "busy", "회계 서버"]),
        ("회계", "all", ["회계 서버"]),
        ("SPACE full", "all", ["full"]),
        ("space", "paused", []),
        ("critical", "all", ["full"]),
        (".*", "all", []),
    ],
)
def test_words_and_chips_choose_what_is_shown(query: str, show: str, vms: list[str]) -> None:
    begun = RunBegunShape(number=1, trigger=Trigger.REQUEST, started_at=NOW, due_at=NOW, missed=0)
    machines = [
        _machine("full", Health.CRITICAL, reasons=["no space is left"], state=State.ERROR),
        _machine("paused", Health.WARNING, paused_since=NOW, state=State.PAUSED),
        _machine("busy", run=begun),
        _machine("회계 서버"),
    ]
    assert [row.machine.vm for row in views.fleet(machines, query, show, 100).rows] == vms


def test_a_row_is_marked_anew_when_it_says_something_else_and_not_when_time_passes() -> None:
    def mark(**facts: Any) -> str:
        return views.fleet([_machine("웹", **facts)], "", "all", 1).rows[0].mark

    assert mark(lag_s=1) == mark(lag_s=2)
    assert len({mark(), mark(reasons=["it is slow"]), mark(paused_since=NOW), mark(next_run=NOW)}) == 4


def test_ids_and_paths_are_harmless_whatever_a_machine_is_called() -> None:
    names = ["web", "Web", "웹 서버", "a b", "a%20b", "';\"<&>", "../x"]
    ids = [views.element_id(name) for name in names]
    assert len(set(ids)) == len(names)
    assert all(re.fullmatch(r"m-[0-9a-f]{18}", one) for one in ids)
    assert all(re.fullmatch(r"/vms/[\w%.~-]*", views.machine_path(name), re.ASCII) for name in names)


def test_lag_grows_until_a_cycle_ends_and_falls_to_that_cycles_length() -> None:
    runs = [_run(120), _run(60, took=30), _run(20), _run(40, outcome=Outcome.FAILED)]
    series = series_of(runs, None, NOW - timedelta(minutes=100), NOW)
    minutes = [((at - NOW.timestamp()) / 60, lag) for at, lag in series.lag]
    assert minutes == [(-100, 1210), (-60, 3610), (-60, 30), (-20, 2430), (-20, 10), (0, 1210)]
    assert series.largest_lag_s == 3610
    assert list(series.rate) == [
        ((NOW - timedelta(minutes=60)).timestamp(), 1000 / 30),
        ((NOW - timedelta(minutes=20)).timestamp(), 100),
    ]
    assert series.failures == ((NOW - timedelta(minutes=40)).timestamp(),)


def test_without_cycles_lag_is_that_of_the_latest_point_if_there_is_one() -> None:
    since = NOW - timedelta(hours=6)
    assert series_of([], None, since, NOW).lag == ()
    assert series_of([], None, since, NOW).largest_lag_s is None
    latest = NOW - timedelta(days=2)
    assert series_of([], latest, since, NOW).lag == ((since.timestamp(), 42 * 3600), (NOW.timestamp(), 48 * 3600))


def test_of_many_cycles_no_peak_is_left_out_and_times_ascend() -> None:
    ends = [n * 0.5 for n in range(20_000)]
    runs = [_run(end, sent=10**9 if end == 777 else 1000) for end in ends if not 4000 < end < 4100]
    runs += [_run(5000.25 + n, outcome=Outcome.FAILED) for n in range(1000)]
    series = series_of(runs, None, NOW - timedelta(days=7), NOW)
    assert len(series.lag) <= 2 * (MOST_TEETH + 1)
    assert max(lag for _, lag in series.lag) == 100.0 * 60 + 10
    assert max(rate for _, rate in series.rate) == 10**8
    assert len(series.failures) <= MOST_TEETH
    for line in ([at for at, _ in series.lag], [at for at, _ in series.rate], list(series.failures)):
        assert line == sorted(line)


def test_a_cycle_of_a_clock_that_was_set_back_breaks_nothing() -> None:
    series = series_of([_run(10, took=-600), _run(5)], None, NOW - timedelta(hours=1), NOW)
    assert all(lag >= 0 for _, lag in series.lag)
    assert series.rate[0][1] == 0


def _point(number: int, age: timedelta) -> RecoveryPointShape:
    return RecoveryPointShape(
        number=number, time=NOW - age, kind=CycleKind.DELTA, consistency=Consistency.COLD, changed_bytes=0,
        sent_bytes=0, undo_bytes=0, disks=[], removed=[], kept_by=["latest"], warnings=[],
    )  # fmt: skip


def test_points_lie_by_their_age_and_ticks_keep_apart() -> None:
    ages = [timedelta(days=400), timedelta(days=30), timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)]
    line = views.time_line([_point(n, age) for n, age in enumerate([*ages, timedelta(0), timedelta(-1)])], NOW)
    places = [dot.x_percent for dot in line.dots]
    assert places == sorted(places)
    assert 2 <= places[0] < 10
    assert places[-1] == 98
    ticks = [place for place, _ in line.ticks]
    assert all(before - after >= 14 for before, after in pairwise(ticks))
    assert line.ticks[0] == (98.0, "now")
    only_new = views.time_line([_point(1, timedelta(0))], NOW)
    assert [dot.x_percent for dot in only_new.dots] == [98]


def test_words() -> None:
    assert [words.bytes_in_words(n) for n in (0, 999, 1000, 1536, 640 << 30)] == [
        "0 B", "999 B", "1 KiB", "1.5 KiB", "640 GiB",
    ]  # fmt: skip
    assert [words.of_time(percent) for percent in (100, 99.999, 0)] == ["100 %", "99.9 %", "0.0 %"]
    assert [words.took(seconds) for seconds in (None, 0.04, 9.94, 72)] == ["–", "0.0 s", "9.9 s", "1 min 12 s"]
    assert words.counted(1, "point", "points") == "1 point"
    assert words.counted(1000, "point", "points") == "1,000 points"


def test_programs_of_others_are_as_their_authors_made_them() -> None:
    told = dict(re.findall(r"^  ([\w.-]+) +([0-9a-f]{64})$", (ASSETS / "VENDORED.txt").read_text(), re.MULTILINE))
    theirs = {path.name for path in ASSETS.iterdir()} - {
        "VENDORED.txt", "charts.js", "dashboard.css", "dashboard.js", "icon.svg",
    }  # fmt: skip
    assert set(told) == theirs
    for name, digest in told.items():
        assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == digest, name


def test_nothing_of_the_page_lies_elsewhere_or_is_inline() -> None:
    ours = [
        *(ASSETS.parent / "templates").iterdir(),
        *(ASSETS / name for name in ("dashboard.css", "dashboard.js", "charts.js")),
    ]
    for path in ours:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?:|//[a-z]+\.[a-z]|@import", text), path
        assert not re.search(
            r"\son[a-z]+=|\sstyle=|<script(?! defer src=)|javascript:|hx-on|\|safe|eval\(|innerHTML", text
        ), path


def _seen(number: int, **more: Any) -> MoveViewShape:
    record = MoveRecord(
        f"{number:032x}", f"웹 {number}", "/원본", ("/새",), NOW - timedelta(minutes=number),
        phase=more.pop("phase", MovePhase.WAITING),
    )  # fmt: skip
    progress = more.pop("progress", None)
    return MoveViewShape.seen(MoveView(KnownMove(record, **more), progress))


def test_moves_under_way_come_first_then_those_with_errors_and_old_ones_are_left_out() -> None:
    moves = [
        _seen(1), _seen(2, error="그 서버가 없다", phase=MovePhase.BULK),
        _seen(3, phase=MovePhase.BULK, progress=Progress("copying", 0, 0, None)),
        _seen(4, phase=MovePhase.DONE, ended=NOW - timedelta(hours=23)),
        _seen(5, phase=MovePhase.DONE, ended=NOW - timedelta(hours=25)), _seen(6, phase=MovePhase.RETIRED),
        _seen(7, phase=MovePhase.SWITCHED, error="그 서버가 없다"),
    ]  # fmt: skip
    shown = [
        (row.view.move.vm, row.state, row.can_be_cancelled, row.can_be_resumed) for row in views.moves_shown(moves, NOW)
    ]
    assert shown == [
        ("웹 3", "copying", True, False), ("웹 2", "stopped by an error", True, True),
        ("웹 7", "stopped by an error", False, True), ("웹 1", "waiting", True, False),
        ("웹 6", "done; the source is kept for a while", False, False), ("웹 4", "done", False, False),
    ]  # fmt: skip
