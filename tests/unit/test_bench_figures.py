"""From measurements to figures and a chart."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.chart import draw
from benchmarks.contest import Contest, Contestant, hold
from benchmarks.measuring import Measurement
from benchmarks.report import tables
from benchmarks.results import Kind, Outcome, Results, Standing, read

_FACTS = {
    "date": "2026-11-20", "processor": "CPU", "cores": 2, "memory_gib": 23.5, "file_system": "tmpfs",
    "load_before": 0.1, "system": "Debian", "kernel": "6.1", "python": "3.11", "replicad": "0",
    "programs": {"rclone": "1.60"},
}  # fmt: skip


def _standing(name: str, kind: Kind, *seconds: float, peak_rss_bytes: int = 1 << 20) -> Standing:
    return Standing(name, kind, tuple(Measurement(s, s / 2, s / 4, peak_rss_bytes) for s in seconds))


def _outcome(variant: str = "서명 <&>") -> Outcome:
    return Outcome(
        "put", variant, 1 << 30,
        (
            _standing("replicad sync", Kind.COMMAND, 2.0, 4.0, 3.0),
            _standing("replicad data path", Kind.DATA_PATH, 1.0, 2.0, 1.0),
            _standing("a | b", Kind.OTHER, 8.0, 4.0, 6.0),
        ),
        ("rclone: it is not installed",),
    )  # fmt: skip


def _results(*outcomes: Outcome) -> Results:
    return Results(_FACTS, {"quick": False}, outcomes, ("move on XFS: only root can mount",))


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_the_medians() -> None:
    ours = _standing("a", Kind.COMMAND, 1.0, 10.0, 2.0)
    other = _standing("b", Kind.OTHER, 3.0, 10.0, 8.0)
    outcome = Outcome("put", "signed", 1, (ours, other))
    assert outcome.times_as_fast(ours, other) == 3.0
    assert other.seconds / ours.seconds == 4.0


def test_processor_time_is_a_median_for_each_gib_and_memory_the_highest() -> None:
    runs = tuple(Measurement(1, cpu_s, cpu_s * 3, peak) for cpu_s, peak in ((1.0, 5), (4.0, 9), (2.0, 7)))
    standing = Standing("a", Kind.COMMAND, runs)
    assert standing.cpu_s_per_gib(4 << 30) == 0.5
    assert standing.server_cpu_s_per_gib(4 << 30) == 1.5
    assert standing.peak_rss_bytes == 9


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "결과.json"
    results = _results(_outcome())
    results.write(file)
    assert read(file) == results
    assert '"replicad data path": {\n     "replicad sync": 2.0,\n     "a | b": 6.0' in file.read_text()


def test_what_is_measured_anew_replaces_what_was_in_its_place() -> None:
    renewed_outcome = Outcome("put", "b", 5, ())
    older = Results({}, {}, (_outcome("a"), _outcome("b"), _outcome("c")))
    both = older.updated_by(Results(_FACTS, {}, (renewed_outcome,)))
    assert both.outcomes == (_outcome("a"), renewed_outcome, _outcome("c"))
    assert both.machine == _FACTS


def test_a_table_has_a_row_for_each_contestant_and_no_empty_column() -> None:
    (table,) = tables([_outcome("a"), _outcome("b")])
    assert table.headers[1:4] == ("program", "seconds", "MB/s")
    assert [row[:4] for row in table.rows[:3]] == [
        ("a (1 GiB)", "replicad sync", "3.00", "358"),
        ("", "replicad data path", "1.00", "1074"),
        ("", "a | b", "6.00", "179"),
    ]
    assert [row[-2:] for row in table.rows[:3]] == [("", "2.00 ×"), ("0.50 ×", ""), ("2.00 ×", "6.00 ×")]
    assert table.left_out == ("a: rclone: it is not installed", "b: rclone: it is not installed")
    (alone,) = tables([Outcome("start", "x", 0, (_standing("replicad points", Kind.COMMAND, 1.0),))])
    assert alone.headers == ("what", "program", "seconds", "peak memory")


def test_a_chart_has_a_bar_for_each_contestant_whose_length_is_its_speed() -> None:
    alone = Outcome("memory", "8 GiB", 1 << 30, (_standing("replicad sync", Kind.COMMAND, 1.0),))
    root = ElementTree.fromstring(draw(_results(_outcome(), alone)))  # noqa: S314 - our own
    svg = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{svg}text")]
    assert "put, 서명 <&>" in texts
    assert "a | b" in texts
    assert not [text for text in texts if text and "memory" in text]
    bars = [rect for rect in root.iter(f"{svg}rect") if rect.get("height") == "14"]
    widths = [float(str(bar.get("width"))) for bar in bars]
    assert [bar.get("class") for bar in bars] == ["command", "path", "other"]
    assert widths[1] == max(widths)
    assert widths[0] == pytest.approx(widths[1] / 3, abs=0.1)
    assert widths[2] == pytest.approx(widths[1] / 6, abs=0.1)


def test_each_round_begins_with_another_one_and_one_that_is_missing_is_named() -> None:
    heard: list[str] = []

    def contestant(name: str, needs: str = "") -> Contestant:
        def run() -> Measurement:
            heard.append(f"run {name}")
            return Measurement(1, 1, 1, 1)

        return Contestant(
            name, Kind.OTHER, run, begin=lambda: heard.append(f"begin {name}"),
            prepare=lambda: heard.append(f"prepare {name}"), check=lambda: heard.append(f"check {name}"), needs=needs,
        )  # fmt: skip

    contest = Contest(
        "put", "signed", 5, (contestant("a", "sh"), contestant("b", "no-such-program"), contestant("c")),
        before_round=lambda: heard.append("round"),
    )  # fmt: skip
    outcome = hold(contest, 2)
    a, c = ([f"{what} {name}" for what in ("prepare", "run", "check")] for name in "ac")
    assert heard == ["begin a", "begin c", "round", *a, *c, "round", *c, *a]
    assert outcome.left_out == ("b: no-such-program is not installed",)
    assert [(standing.name, len(standing.runs)) for standing in outcome.standings] == [("a", 2), ("c", 2)]
