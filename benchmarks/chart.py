"""A bar chart as SVG, for light and for dark pages: `python -m benchmarks.chart RESULTS.json FILE.svg`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from .report import megabytes_per_s
from .results import Kind, Outcome, Results, read

_WIDTH = 960
_MARGIN = 24
_GAP = 32
_PANEL_WIDTH = (_WIDTH - 2 * _MARGIN - _GAP) // 2
_NAME_WIDTH = 164
_FIGURE_WIDTH = 62
_BAR_WIDTH = _PANEL_WIDTH - _NAME_WIDTH - _FIGURE_WIDTH
_LINE = 22
_HEAD = 58
_STYLE = """
  svg { --page: #ffffff; --ink: #1f2328; --faint: #656d76; --rule: #d1d9e0;
        --ours: #0969da; --path: #54aeff; --other: #c4cad1; }
  @media (prefers-color-scheme: dark) {
    svg { --page: #0d1117; --ink: #e6edf3; --faint: #8d96a0; --rule: #30363d;
          --ours: #4493f8; --path: #1f5ba8; --other: #4a525c; }
  }
  .page { fill: var(--page); stroke: var(--rule); }
  text { font: 13px system-ui, -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; fill: var(--ink); }
  .title { font-size: 17px; font-weight: 600; }
  .case { font-weight: 600; }
  .faint { fill: var(--faint); }
  .figure { font-variant-numeric: tabular-nums; }
  .command { fill: var(--ours); } .path { fill: var(--path); } .other { fill: var(--other); }
"""
_CLASS = {Kind.COMMAND: "command", Kind.DATA_PATH: "path", Kind.OTHER: "other"}


def draw(results: Results) -> str:
    """Two columns of panels, one a contest of several; the bars are MB/s of the disk, longer is faster."""
    shown = [outcome for outcome in results.outcomes if len(outcome.standings) > 1 and outcome.size_bytes]
    columns = _columns(shown)
    height = _HEAD + max((sum(map(_height, column)) for column in columns), default=0) + _MARGIN - _LINE
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
            f'height="{height}" role="img" aria-label="MB/s of replicad and other programs">',
            f"<style>{_STYLE}</style>",
            f'<rect class="page" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="8"/>',
            *_legend(),
            *(
                line
                for n, column in enumerate(columns)
                for line in _column(column, _MARGIN + n * (_PANEL_WIDTH + _GAP))
            ),
            "</svg>\n",
        ]
    )


def _columns(outcomes: Sequence[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """In order, about half of the height in each."""
    half = sum(map(_height, outcomes)) / 2
    left: list[Outcome] = []
    for outcome in outcomes:
        if sum(map(_height, left)) >= half:
            break
        left.append(outcome)
    return left, list(outcomes[len(left) :])


def _height(outcome: Outcome) -> int:
    return _LINE * (len(outcome.standings) + 2)


def _legend() -> Iterator[str]:
    yield f'<text class="title" x="{_MARGIN}" y="36">MB/s, more is better</text>'
    x = _WIDTH - _MARGIN - 430
    for kind, words, width in (
        (Kind.COMMAND, "replicad’s commands", 165),
        (Kind.DATA_PATH, "its data path alone", 160),
        (Kind.OTHER, "others", 0),
    ):
        yield f'<rect class="{_CLASS[kind]}" x="{x}" y="25" width="12" height="12" rx="2"/>'
        yield f'<text class="faint" x="{x + 18}" y="36">{words}</text>'
        x += width


def _column(outcomes: Sequence[Outcome], x: int) -> Iterator[str]:
    y = _HEAD
    for outcome in outcomes:
        yield from _panel(outcome, x, y)
        y += _height(outcome)


def _panel(outcome: Outcome, x: int, y: int) -> Iterator[str]:
    speeds = [megabytes_per_s(standing, outcome.size_bytes) for standing in outcome.standings]
    yield f'<text class="case" x="{x}" y="{y + 15}">{escape(f"{outcome.case}, {outcome.variant}")}</text>'
    for number, (standing, speed) in enumerate(zip(outcome.standings, speeds, strict=True), start=1):
        top = y + number * _LINE
        width = max(1.0, _BAR_WIDTH * speed / max(speeds))
        bar_x = x + _NAME_WIDTH
        yield f'<text x="{x}" y="{top + 15}">{escape(standing.name)}</text>'
        yield (
            f'<rect class="{_CLASS[standing.kind]}" x="{bar_x}" y="{top + 4}" width="{width:.1f}" height="14" rx="2"/>'
        )
        yield f'<text class="figure faint" x="{bar_x + width + 6:.1f}" y="{top + 15}">{speed:,.0f}</text>'


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw(read(Path(sys.argv[1]))), encoding="utf-8")
