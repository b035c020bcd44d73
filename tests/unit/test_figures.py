"""The text of the figures: what Prometheus' own library makes of them, and sooner."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from replicad.model.agenda import Agenda, LatestPoint
from replicad.model.health import Health, Standing, State
from replicad.model.points import Consistency
from replicad.model.runs import Outcome
from replicad.model.statistics import Statistics
from replicad.model.verification import VerificationPlan
from replicad.service.control import MachineView
from replicad.service.kept_clones import KeptRoom
from replicad.service.metrics import Counts, Picture, text_of
from replicad.service.moving.queue import MoveCounts

NOW = datetime(2026, 1, 5, 12, 0, 0, 250_000, tzinfo=UTC)
DAY = Statistics(
    NOW - timedelta(days=1), NOW, 288, judged=timedelta(days=1), kept=timedelta(hours=23)
)  # fmt: skip


def picture(*names: str) -> Picture:
    """Machines of all kinds, by these names."""
    views = [
        MachineView(
            name, Standing(State.REPLICATING, [*Health][n % 3], (), 5 if n % 2 else None),
            Agenda(name, NOW, NOW if n % 2 else None, latest=LatestPoint(n, NOW, Consistency.COLD) if n % 2 else None),
            None, None, (), NOW if n % 2 else None, 300, DAY, VerificationPlan(name), None,
            KeptRoom(n << 30, NOW) if n % 2 else None,
        )
        for n, name in enumerate(names)
    ]  # fmt: skip
    counts = {name: Counts() for name in names}
    for n, one in enumerate(counts.values()):
        one.ended[Outcome.DONE], one.sent_bytes, one.duration_s = n, n << 40, n * 1.25
    return Picture(views, counts, 4, 7, MoveCounts(1, 2, 3))


def test_text_is_that_of_the_library_whatever_the_names_are() -> None:
    shown = picture("웹 서버 🖥", 'a"b', "c\\d", "e\nf", "g{h=1}", "보통")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(shown)
    assert text_of(shown) == generate_latest(registry)
    read = {family.name: family for family in text_string_to_metric_families(text_of(shown).decode())}
    points = read["replicad_vm_last_point_number"].samples
    assert {sample.labels["vm"] for sample in points} == {'a"b', "e\nf", "보통"}
    kept = {sample.labels["vm"]: sample.value for sample in read["replicad_vm_kept_clones_bytes"].samples}
    assert kept == {'a"b': 1 << 30, "e\nf": 3 << 30, "보통": 5 << 30}
    assert not any(math.isnan(sample.value) for family in read.values() for sample in family.samples)


def test_a_thousand_machines_are_told_in_no_time() -> None:
    shown = picture(*(f"기계 {n}" for n in range(1000)))
    took_s = []
    for _ in range(3):
        began_s = time.thread_time()
        text = text_of(shown)
        took_s.append(time.thread_time() - began_s)
    assert len(text) > 1_000_000
    assert min(took_s) < 0.4  # a tenth of a second where nothing else runs
