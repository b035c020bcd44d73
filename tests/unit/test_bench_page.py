"""The page that shows the measurements."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.chart import draw
from benchmarks.measuring import Measurement
from benchmarks.page import renewed
from benchmarks.results import Kind, Outcome, Results, Standing, read

_DOCS = Path(__file__).parents[2] / "docs"
_FACTS = {
    "date": "2026-11-20", "processor": "CPU", "cores": 2, "memory_gib": 23.5, "file_system": "tmpfs",
    "load_before": 0.1, "system": "Debian", "kernel": "6.1", "python": "3.11", "replicad": "0",
    "programs": {"rclone": "1.60"},
}  # fmt: skip
_RESULTS = Results(
    _FACTS, {"quick": False},
    (Outcome("put", "서명", 1 << 30, (Standing("a | b", Kind.OTHER, (Measurement(6, 3, 1, 1 << 20),)),)),),
    ("move on XFS: only root can mount",),
)  # fmt: skip


def test_a_page_keeps_all_but_its_figures() -> None:
    page = "# 성능\n\n<!-- figures: written by benchmarks.page -->\nold\n<!-- end of figures -->\nafter\n"
    new = renewed(page, _RESULTS)
    assert new.startswith("# 성능\n\n<!-- figures: written by benchmarks.page -->\n\n- CPU, 2 cores")
    assert new.endswith("- Left out: move on XFS: only root can mount.\n\n<!-- end of figures -->\nafter\n")
    assert "old" not in new
    assert "| 서명 (1 GiB) | a \\| b | 6.00 |" in new
    assert renewed(new, _RESULTS) == new


def test_a_page_without_a_place_for_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        renewed("# 성능\n", _RESULTS)


def test_the_page_and_its_chart_show_what_was_measured() -> None:
    results = read(_DOCS / "performance.json")
    page = (_DOCS / "performance.md").read_text(encoding="utf-8")
    assert renewed(page, results) == page
    assert draw(results) == (_DOCS / "performance.svg").read_text(encoding="utf-8")
    assert re.search(r"!\[[^\]]+\]\(performance\.svg\)", page)
