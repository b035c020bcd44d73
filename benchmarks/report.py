"""The figures as tables, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from replicad.cli.output import print_line, print_table
from replicad.model.sizes import human_bytes

from .machine import told
from .results import Kind, Outcome, Results, Standing

_HEADERS = (
    "what", "program", "seconds", "MB/s", "CPU s/GiB", "server CPU s/GiB", "peak memory", "command is", "data path is",
)  # fmt: skip
_ALWAYS_SHOWN = 2
LEGEND = (
    "'command is' and 'data path is': how many times as fast as this program replicad's whole command (sync, restore) "
    "and its data path alone are; the median of the rounds' ratios. Seconds and processor time are medians, memory is "
    "the highest peak of all rounds. Programs are measured from their start to their end; the data path from when it "
    "runs and is signed in, as a service is ('start' tells what that takes)."
)


@dataclass(frozen=True, slots=True)
class Table:
    """All contests of one case. The first two columns are words, the others figures; empty columns are left out."""

    case: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: tuple[str, ...]


def tables(outcomes: Sequence[Outcome]) -> Iterator[Table]:
    """A table for each case, in order."""
    for case, contests in groupby(outcomes, key=lambda outcome: outcome.case):
        shown = list(contests)
        rows = [row for outcome in shown for row in _rows(outcome)]
        kept = [n for n in range(len(_HEADERS)) if n < _ALWAYS_SHOWN or any(row[n] for row in rows)]
        yield Table(
            case,
            tuple(_HEADERS[n] for n in kept),
            tuple(tuple(row[n] for n in kept) for row in rows),
            tuple(f"{outcome.variant}: {why}" for outcome in shown for why in outcome.left_out),
        )


def facts(results: Results) -> list[str]:
    """What was measured on, and how often."""
    rounds = sorted({len(standing.runs) for outcome in results.outcomes for standing in outcome.standings})
    return [*told(results.machine), f"Rounds: {' or '.join(map(str, rounds)) or 'none'}, the programs in turns."]


def print_results(results: Results) -> None:
    """Everything, on stdout."""
    for line in (*facts(results), LEGEND):
        print_line(line)
    for table in tables(results.outcomes):
        print_line("")
        print_line(table.case)
        print_table(table.headers, table.rows, right=range(_ALWAYS_SHOWN, len(table.headers)))
        for sentence in table.left_out:
            print_line(f"left out: {sentence}")
    for sentence in results.left_out:
        print_line("")
        print_line(f"left out: {sentence}")


def megabytes_per_s(standing: Standing, size_bytes: int) -> float:
    """Of the disk, in the median run."""
    return size_bytes / standing.seconds / 1e6


def _rows(outcome: Outcome) -> Iterator[tuple[str, ...]]:
    what = f"{outcome.variant} ({human_bytes(outcome.size_bytes)})" if outcome.size_bytes else outcome.variant
    for number, standing in enumerate(outcome.standings):
        yield (
            "" if number else what,
            standing.name,
            f"{standing.seconds:.2f}",
            *(_per_size(standing, outcome.size_bytes) if outcome.size_bytes else ("", "", "")),
            human_bytes(standing.peak_rss_bytes),
            *(_ratio(outcome, kind, standing) for kind in (Kind.COMMAND, Kind.DATA_PATH)),
        )


def _per_size(standing: Standing, size_bytes: int) -> tuple[str, str, str]:
    server = standing.server_cpu_s_per_gib(size_bytes)
    return (
        f"{megabytes_per_s(standing, size_bytes):.0f}",
        f"{standing.cpu_s_per_gib(size_bytes):.2f}",
        f"{server:.2f}" if server else "",
    )


def _ratio(outcome: Outcome, kind: Kind, other: Standing) -> str:
    ours = outcome.of_kind(kind)
    if ours is None or ours is other:
        return ""
    return f"{outcome.times_as_fast(ours, other):.2f} ×"
