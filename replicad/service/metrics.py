"""Figures for Prometheus: how all machines stand, and what their cycles came to since the daemon began.

docs/metrics.md lists them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from replicad import __version__
from replicad.model.agenda import Agenda
from replicad.model.health import Health, State
from replicad.model.runs import Outcome, Run
from replicad.model.verification import VerificationOutcome

from .control import Control, MachineView
from .events import CycleEnded, Event
from .moving.queue import MoveCounts

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_VM = ["vm"]


@dataclass(slots=True)
class Counts:
    """What the cycles of one machine came to."""

    ended: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    missed: int = 0
    scanned_bytes: int = 0
    changed_bytes: int = 0
    sent_bytes: int = 0
    duration_s: float = 0.0

    def add(self, run: Run) -> None:
        if run.outcome is None or run.ended_at is None:
            return
        self.ended[run.outcome] += 1
        self.missed += run.missed
        if run.outcome is Outcome.DONE:
            self.scanned_bytes += run.scanned_bytes
            self.changed_bytes += run.changed_bytes
            self.sent_bytes += run.sent_bytes
            self.duration_s += max(0.0, (run.ended_at - run.started_at).total_seconds())


class Figures:
    """Counts what it hears, and tells it together with how all machines stand. For one event loop.

    `log_lines_dropped` is how many lines the log has lost so far.
    """

    def __init__(self, log_lines_dropped: Callable[[], int]) -> None:
        self._log_lines_dropped = log_lines_dropped
        self._counts: dict[str, Counts] = {}
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)

    def hear(self, event: Event) -> None:
        """As a listener of the hub."""
        if isinstance(event, CycleEnded):
            self._counts.setdefault(event.run.vm, Counts()).add(event.run)

    async def exposition(self, control: Control) -> bytes:
        """All figures of the machines that are kept now, in the text format (CONTENT_TYPE), in UTF-8."""
        views = await control.machines()
        there = {view.vm for view in views}
        for vm in self._counts.keys() - there:
            del self._counts[vm]
        counts = {vm: deepcopy(self._counts.get(vm, Counts())) for vm in sorted(there)}
        picture = Picture(views, counts, control.most_at_once, self._log_lines_dropped(), control.move_counts())
        # With 1,000 machines it is 1.8 MB, which take some 100 ms.
        return await asyncio.to_thread(lambda: text_of(picture) + generate_latest(self._process))


def text_of(collector: Collector) -> bytes:
    """What `generate_latest` makes of figures such as those here, in a third of the time."""
    lines: list[str] = []
    escaped: dict[str, str] = {}
    for family in collector.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        lines.append(f"# HELP {name} {family.documentation}\n# TYPE {name} {family.type}\n")
        for sample in family.samples:
            labels = []
            for key, value in sorted(sample.labels.items()):
                if (text := escaped.get(value)) is None:
                    text = escaped[value] = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
                labels.append(f'{key}="{text}"')
            braces = f"{{{','.join(labels)}}}" if labels else ""
            value_text = floatToGoString(sample.value)  # type: ignore[no-untyped-call]  # as the library has it
            lines.append(f"{sample.name}{braces} {value_text}\n")
    return "".join(lines).encode()


@dataclass(frozen=True, eq=False)
class Picture(Collector):
    """The figures of one moment."""

    views: list[MachineView]
    counts: dict[str, Counts]
    most_at_once: int
    log_lines_dropped: int
    moves: MoveCounts

    def collect(self) -> Iterator[Metric]:
        yield from self._about_the_daemon()
        yield from self._about_standing()
        yield from self._about_points()
        yield from self._about_what_is_ahead()
        yield from self._about_cycles()
        yield from self._about_verifications()

    def _about_the_daemon(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("replicad_build_info", "1; the version is a label.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        running = sum(view.run is not None for view in self.views)
        yield GaugeMetricFamily("replicad_machines", "Virtual machines that are kept.", len(self.views))
        yield GaugeMetricFamily("replicad_cycles_running", "Cycles under way.", running)
        yield GaugeMetricFamily("replicad_cycles_running_limit", "How many may be at most.", self.most_at_once)
        yield GaugeMetricFamily("replicad_moves_running", "Moves under way.", self.moves.running)
        yield GaugeMetricFamily("replicad_moves_waiting", "Moves that wait.", self.moves.waiting)
        yield GaugeMetricFamily("replicad_moves_stopped", "Moves that somebody must look after.", self.moves.stopped)
        yield CounterMetricFamily(
            "replicad_log_lines_dropped", "Lines that the log lost, because its reader was too slow.",
            self.log_lines_dropped,
        )  # fmt: skip

    def _about_standing(self) -> Iterator[Metric]:
        state = GaugeMetricFamily("replicad_vm_state", "1 for the state that it is in.", labels=["vm", "state"])
        health = GaugeMetricFamily("replicad_vm_health", "1 for the health that it has.", labels=["vm", "health"])
        for view in self.views:
            for one in State:
                state.add_metric([view.vm, one.value], one is view.standing.state)
            for other in Health:
                health.add_metric([view.vm, other.value], other is view.standing.health)
        yield state
        yield health
        yield self._gauge("running", "1 while a cycle is under way.", lambda view: float(view.run is not None))
        yield self._gauge("paused", "1 while paused.", lambda view: float(view.agenda.paused_at is not None))
        yield self._gauge(
            "tracker_mistake", "1 while nobody has acknowledged that a tracker of changes was found wrong.",
            lambda view: float(view.agenda.mistake is not None),
        )  # fmt: skip
        yield self._gauge(
            "kept_clones_bytes", "What clones kept at the source take that no other file has a share in.",
            lambda view: view.kept_clones.kept_bytes if view.kept_clones is not None else None,
        )  # fmt: skip
        yield self._gauge(
            "failures", "Transient failures in a row, which are tried again.", lambda view: view.agenda.failures
        )

    def _about_points(self) -> Iterator[Metric]:
        yield self._gauge("lag_seconds", "Age of the latest recovery point.", lambda view: view.standing.lag_s)
        yield self._gauge("objective_seconds", "How old it may become (RPO).", lambda view: view.rpo_s)
        yield self._gauge(
            "objective_kept_ratio", "In how much of the last day it was no older, from 0 to 1.",
            lambda view: _ratio(view.statistics.rpo_kept_percent),
        )  # fmt: skip
        yield self._gauge("last_point_number", "Number of the latest recovery point.", _point_number)
        yield self._gauge("last_point_timestamp_seconds", "Time of the latest recovery point.", _point_time)

    def _about_what_is_ahead(self) -> Iterator[Metric]:
        yield self._gauge(
            "next_cycle_timestamp_seconds", "When the next cycle is wanted.",
            lambda view: view.next_run.timestamp() if view.next_run is not None else None,
        )  # fmt: skip
        yield self._gauge("retry_timestamp_seconds", "When a failed cycle is tried again.", _retry_time)

    def _about_cycles(self) -> Iterator[Metric]:
        cycles = CounterMetricFamily("replicad_cycles", "Cycles that ended, by outcome.", labels=["vm", "outcome"])
        duration = SummaryMetricFamily("replicad_cycle_duration_seconds", "Time of cycles that are done.", labels=_VM)
        for vm, counts in self.counts.items():
            for outcome, count in counts.ended.items():
                cycles.add_metric([vm, outcome.value], count)
            duration.add_metric([vm], counts.ended[Outcome.DONE], counts.duration_s)
        yield cycles
        yield duration
        yield self._counter("missed_cycles", "Due times that passed without a cycle of their own.", lambda c: c.missed)
        yield self._counter("scanned_bytes", "Bytes of disks that cycles looked at.", lambda c: c.scanned_bytes)
        yield self._counter("changed_bytes", "Bytes of disks that had changed.", lambda c: c.changed_bytes)
        yield self._counter("sent_bytes", "Bytes sent to replicas.", lambda c: c.sent_bytes)

    def _about_verifications(self) -> Iterator[Metric]:
        outcome = GaugeMetricFamily(
            "replicad_verification_outcome", "1 for what the last verification came to.", labels=["vm", "outcome"]
        )
        for view in self.views:
            if (last := view.verification.last) is not None:
                for one in VerificationOutcome:
                    outcome.add_metric([view.vm, one.value], one is last.outcome)
        yield outcome
        yield self._gauge_of(
            "verification_timestamp_seconds", "When the last verification ended.",
            lambda view: view.verification.last.at.timestamp() if view.verification.last is not None else None,
        )  # fmt: skip
        yield self._gauge_of(
            "verification_sound_timestamp_seconds", "When the last one ended that found the replica sound.",
            lambda view: view.verification.sound_at.timestamp() if view.verification.sound_at is not None else None,
        )  # fmt: skip
        yield self._gauge_of(
            "verification_damaged_chunks", "Chunks that are known to be damaged.",
            lambda view: view.verification.damage.damaged_chunks if view.verification.damage is not None else 0,
        )  # fmt: skip
        yield self._gauge_of(
            "verification_damaged", "1 while the replica is known to be damaged.",
            lambda view: float(view.verification.damage is not None),
        )  # fmt: skip

    def _gauge(self, name: str, text: str, of: Callable[[MachineView], float | None]) -> Metric:
        return self._gauge_of(f"vm_{name}", text, of)

    def _gauge_of(self, name: str, text: str, of: Callable[[MachineView], float | None]) -> Metric:
        family = GaugeMetricFamily(f"replicad_{name}", text, labels=_VM)
        for vm, value in _known((view.vm, of(view)) for view in self.views):
            family.add_metric([vm], value)
        return family

    def _counter(self, name: str, text: str, of: Callable[[Counts], int]) -> Metric:
        family = CounterMetricFamily(f"replicad_{name}", text, labels=_VM)
        for vm, counts in self.counts.items():
            family.add_metric([vm], of(counts))
        return family


def _known(values: Iterable[tuple[str, float | None]]) -> Iterator[tuple[str, float]]:
    """What is not known is left out: no number means that."""
    return ((vm, value) for vm, value in values if value is not None)


def _ratio(percent: float | None) -> float | None:
    return percent / 100 if percent is not None else None


def _point_number(view: MachineView) -> float | None:
    return view.agenda.latest.number if view.agenda.latest is not None else None


def _point_time(view: MachineView) -> float | None:
    return view.agenda.latest.time.timestamp() if view.agenda.latest is not None else None


def _retry_time(view: MachineView) -> float | None:
    """Only where a retry is going to begin a cycle."""
    agenda: Agenda = view.agenda
    if agenda.paused_at is not None or agenda.retry_at is None:
        return None
    return agenda.retry_at.timestamp()
