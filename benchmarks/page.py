"""Renews the figures of docs/performance.md and its chart: `python -m benchmarks.page RESULTS.json [MORE.json …]`.

Contests of a later file replace those of an earlier one. What is shown is kept in docs/performance.json.
"""

from __future__ import annotations

import sys
from functools import reduce
from pathlib import Path

from .chart import draw
from .report import LEGEND, Table, facts, tables
from .results import Results, read

_DOCS = Path(__file__).parents[1] / "docs"
_BEGIN, _END = "<!-- figures: written by benchmarks.page -->", "<!-- end of figures -->"


def renewed(page: str, results: Results) -> str:
    """The page with these figures between its two marks. ValueError if they are not there."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError("the page has no place for figures")
    return f"{before}{begin}\n\n{_figures(results)}\n{end}{after}"


def _figures(results: Results) -> str:
    lines = [*(f"- {line}" for line in facts(results)), "", LEGEND, ""]
    for table in tables(results.outcomes):
        lines += [f"### {table.case}", "", *_markdown(table), ""]
        lines += [f"- Left out: {sentence}." for sentence in table.left_out]
    lines += [f"- Left out: {sentence}." for sentence in results.left_out]
    return "\n".join(lines).rstrip("\n") + "\n"


def _markdown(table: Table) -> list[str]:
    aligned = ["---" if n < 2 else "---:" for n in range(len(table.headers))]
    rows = (table.headers, aligned, *table.rows)
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]


def main(files: list[str]) -> None:
    """Write the page, its chart and its measurements."""
    results = reduce(Results.updated_by, (read(Path(file)) for file in files))
    page = _DOCS / "performance.md"
    page.write_text(renewed(page.read_text(encoding="utf-8"), results), encoding="utf-8")
    (_DOCS / "performance.svg").write_text(draw(results), encoding="utf-8")
    results.write(_DOCS / "performance.json")


if __name__ == "__main__":
    main(sys.argv[1:])
