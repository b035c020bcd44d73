"""Many machines in one daemon: on time, in little memory, at a low price, and quick to answer.

Run by itself for the figures of docs/operating.md: `make soak`, or
`.venv/bin/python -m pytest -m soak tests/scenario/test_fleet.py --junit-xml=figures.xml`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from replicad.model.runs import Outcome, Run
from replicad.model.schedule import Every, phase_s
from replicad.service.api.doors import SOCKET
from tests.support.accounts import of
from tests.support.daemon import Daemon, Site, site
from tests.support.fleet import PROGRAM, Usage, fleet_of, lateness_s, percentile, usage
from tests.support.live_api import unix_client

Record = Callable[[str, object], None]


@dataclass(frozen=True)
class Measured:
    """What a fleet did in the time after all its machines had their first point."""

    since: datetime
    until: datetime
    runs: list[Run]
    before: Usage
    after: Usage
    answered_s: dict[str, float]
    answered_bytes: dict[str, int]

    def on_time(self) -> list[Run]:
        """Cycles of due times in that time."""
        return [run for run in self.runs if self.since < run.due_at <= self.until]

    def late_s(self, percent: int) -> float:
        """How late so many percent of them began, at most."""
        return percentile([lateness_s(run.due_at, run.started_at) for run in self.on_time()], percent)

    @property
    def cpu_percent(self) -> float:
        """Of one core."""
        return 100 * (self.after.cpu_s - self.before.cpu_s) / (self.after.at_s - self.before.at_s)

    @property
    def cpu_ms_of_a_cycle(self) -> float:
        """All that the daemon used, by cycle."""
        return 1000 * (self.after.cpu_s - self.before.cpu_s) / len(self.on_time())

    def tell(self, record: Record) -> None:
        """Keep the figures with the test's result."""
        record("cycles", len(self.on_time()))
        record("late in s, 99 %", round(self.late_s(99), 3))
        record("late in s, most", round(self.late_s(100), 3))
        record("% of a core", round(self.cpu_percent, 1))
        record("CPU ms of a cycle, with all else", round(self.cpu_ms_of_a_cycle, 1))
        record("resident MiB", round(self.after.resident_mib, 1))
        for path, took_s in self.answered_s.items():
            record(f"GET {path} in ms", round(1000 * took_s))
            record(f"GET {path} in KiB", self.answered_bytes[path] // 1024)


def lived(place: Site, count: int, every_s: int, span: timedelta) -> Measured:
    """Have so many machines for so long after the first cycle of each."""
    place.write({}, fleet_of(count, f"{every_s}s"))
    daemon = place.ready()
    _wait_for_first_points(daemon, count)
    daemon.wait_until(lambda: {} if _none_waits(place) else None, "that no cycle waits for a place")
    since, before = datetime.now().astimezone(), usage(daemon.pid)
    time.sleep(span.total_seconds())
    until, after = datetime.now().astimezone(), usage(daemon.pid)
    answers = asyncio.run(_answers(place))
    code, _ = daemon.terminate()
    assert code == 0
    assert place.complaints() == []
    runs, _ = place.remembered()
    took = {path: took_s for path, (took_s, _) in answers.items()}
    return Measured(since, until, runs, before, after, took, {path: size for path, (_, size) in answers.items()})


def _wait_for_first_points(daemon: Daemon, count: int) -> None:
    daemon.wait_until(
        lambda: {} if len({e["vm"] for e in daemon.log.events() if e["event"] == "cycle done"}) == count else None,
        f"first points of {count} machines",
        600,
    )


def _none_waits(place: Site) -> bool:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(place.state_dir / SOCKET)), timeout=30) as client:
        machines = client.get("http://localhost/vms").json()
    now = datetime.now().astimezone()
    return all(machine["run"] or datetime.fromisoformat(machine["next_run"]) > now for machine in machines)


async def _answers(place: Site) -> dict[str, tuple[float, int]]:
    """The quickest of three answers of each, and how long it is."""
    found: dict[str, tuple[float, int]] = {}
    async with unix_client(place.state_dir / SOCKET) as client:
        for path in ("/vms", "/metrics"):
            for _ in range(3):
                began_s = time.monotonic()
                response = await client.get(path)
                took_s = time.monotonic() - began_s
                assert response.status_code == 200
                found[path] = min(found.get(path, (took_s, 0))[0], took_s), len(response.content)
    return found


def check_history(measured: Measured, count: int, every_s: int) -> None:
    """None was lost, doubled, or of another machine's time, and none ran beside another of its machine."""
    for name in fleet_of(count, ""):
        runs = of(name, measured.runs)
        every = Every(every_s, phase_s(name, every_s))
        assert all(run.outcome is Outcome.DONE for run in runs[:-1])
        assert [run.point for run in runs if run.point] == list(
            range(1, sum(run.point is not None for run in runs) + 1)
        )
        for one, following in pairwise(runs):
            assert one.ended_at is not None
            assert one.ended_at <= following.started_at
            assert following.due_at == every.next_after(one.started_at), "a due time was lost, or came twice"
            assert following.missed == every.count_between(following.due_at, following.started_at)
        due_until_then = every.count_between(measured.since, measured.until)
        stood_for = sum(1 + run.missed for run in runs if measured.since < run.due_at <= measured.until)
        assert stood_for >= due_until_then - 1  # the last one may have been about to begin


@pytest.mark.timeout(300)
def test_fleet_is_on_time_at_a_low_price(room: Path, record_property: Record) -> None:
    count, every_s = 60, 10
    with site(room / "설치", *PROGRAM) as place:
        measured = lived(place, count, every_s, timedelta(seconds=12))
    measured.tell(record_property)
    check_history(measured, count, every_s)
    assert len(measured.on_time()) >= count
    assert measured.late_s(99) < 2  # with four other tests on two cores
    assert measured.cpu_ms_of_a_cycle < 100
    assert measured.after.resident_mib < 150
    assert max(measured.answered_s.values()) < 1


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_thousand_machines_every_five_minutes(room: Path, record_property: Record) -> None:
    count, every_s = 1000, 300
    with site(room / "설치", *PROGRAM) as place:
        measured = lived(place, count, every_s, timedelta(seconds=330))
    measured.tell(record_property)
    check_history(measured, count, every_s)
    assert len(measured.on_time()) >= count
    assert measured.late_s(99) < 1
    assert measured.cpu_percent < 25
    assert measured.after.resident_mib < 300
    assert measured.answered_s["/vms"] < 0.2
    assert measured.answered_s["/metrics"] < 0.25
