"""What was measured, as it is written to and read from JSON, and the figures that are made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any

from .measuring import Measurement

_GIB = 1 << 30


class Kind(StrEnum):
    """Who takes part."""

    COMMAND = "command"
    """A verb of replicad's, as users type it."""
    DATA_PATH = "data path"
    """replicad's storage port, driven by `benchmarks.data_path`."""
    OTHER = "other"
    """Another program, or a way that replicad does not go."""


@dataclass(frozen=True, slots=True)
class Standing:
    """All runs of one contestant, round by round."""

    name: str
    kind: Kind
    runs: tuple[Measurement, ...]

    @property
    def seconds(self) -> float:
        """The median."""
        return median(run.seconds for run in self.runs)

    @property
    def peak_rss_bytes(self) -> int:
        """The highest of all."""
        return max(run.peak_rss_bytes for run in self.runs)

    def cpu_s_per_gib(self, size_bytes: int) -> float:
        """The median of what the program spent, for each GiB of the contest's size."""
        return median(run.cpu_s for run in self.runs) / size_bytes * _GIB

    def server_cpu_s_per_gib(self, size_bytes: int) -> float:
        """The same for its server."""
        return median(run.server_cpu_s for run in self.runs) / size_bytes * _GIB


@dataclass(frozen=True, slots=True)
class Outcome:
    """One contest. `left_out` says who did not take part, and why."""

    case: str
    variant: str
    size_bytes: int
    standings: tuple[Standing, ...]
    left_out: tuple[str, ...] = ()

    def of_kind(self, kind: Kind) -> Standing | None:
        """The first contestant of a kind."""
        return next((s for s in self.standings if s.kind is kind), None)

    def times_as_fast(self, ours: Standing, other: Standing) -> float:
        """How many times as fast `ours` is as `other`: the median of the ratios of each round."""
        return median(b.seconds / a.seconds for a, b in zip(ours.runs, other.runs, strict=True))


@dataclass(frozen=True, slots=True)
class Results:
    """One run of the benchmarks. `left_out` are sentences about whole cases."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    outcomes: tuple[Outcome, ...]
    left_out: tuple[str, ...] = ()

    def updated_by(self, later: Results) -> Results:
        """With what another run has measured anew; the facts are that one's."""
        measured = {(outcome.case, outcome.variant): outcome for outcome in (*self.outcomes, *later.outcomes)}
        return Results(later.machine, later.settings, tuple(measured.values()), later.left_out)

    def write(self, path: Path) -> None:
        """As JSON: every measurement, and the ratios for those who don't want to compute them."""
        document = asdict(self)
        for written, outcome in zip(document["outcomes"], self.outcomes, strict=True):
            written["ratios"] = dict(_ratios(outcome))
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> Results:
    """What `Results.write` wrote."""
    document = json.loads(path.read_text(encoding="utf-8"))
    outcomes = tuple(
        Outcome(
            one["case"], one["variant"], one["size_bytes"],
            tuple(
                Standing(s["name"], Kind(s["kind"]), tuple(Measurement(**run) for run in s["runs"]))
                for s in one["standings"]
            ),
            tuple(one["left_out"]),
        )
        for one in document["outcomes"]
    )  # fmt: skip
    return Results(document["machine"], document["settings"], outcomes, tuple(document["left_out"]))


def _ratios(outcome: Outcome) -> Iterator[tuple[str, dict[str, float]]]:
    for ours in outcome.standings:
        if ours.kind is not Kind.OTHER:
            others = [other for other in outcome.standings if other is not ours]
            yield ours.name, {other.name: round(outcome.times_as_fast(ours, other), 3) for other in others}
