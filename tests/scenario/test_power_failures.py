"""The replica's server loses power at any moment of a cycle: what it had not made durable is gone, and every committed
point is there.

What was not flushed is dropped for real: the share lies on a file system in an image file, and a clone of that file has
what had reached the disk by then, and nothing of what was in the server's memory only.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.filesystems import PowerFailures, losing_power
from tests.support.installation import VM, install
from tests.support.interrupted import Phase, WatchedReplica
from tests.support.relay import Deed, Traffic
from tests.support.stage import SmallStage, small_stage

pytestmark = [
    pytest.mark.samba,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]
Record = Callable[[str, object], None]


def _sync_with_failures(stage: SmallStage, failures: PowerFailures, moments: Iterable[int]) -> None:
    """One sync, and what would be found after a power failure before each of these messages."""
    left = sorted(moments, reverse=True)

    def keep(traffic: Traffic, length: int) -> int | None:
        if left and traffic.messages >= left[-1]:
            left.pop()
            failures.keep()
        return None

    stage.replica.about_to_sync()
    with stage.relay.watched(Deed(keep, lambda: None)):
        stage.installation.run("sync")
    stage.replica.check_names()


def _check_found(stage: SmallStage, found: Path, before: int, room: Path) -> Phase:
    """Every point is there, and the cycle that was under way can be gone on with."""
    path = found / "공유" / VM
    points = WatchedReplica(path, stage.model).points()
    assert max(points, default=0) >= before, "a committed point is gone"
    history = {point: stage.model.history[point] for point in points}
    model = replace(stage.model, history=history)
    replica = WatchedReplica(path, model, list(stage.replica.syncs))
    phase = replica.phase(before)
    replica.check_names()
    installation = install(room / f"설치 {found.name}", str(model.directory), str(path.parent), {})
    for point in points:
        model.check_point(point, installation, room / "되살린 것")
    replica.about_to_sync()
    installation.run("sync")
    replica.check_names()
    assert replica.pending() is None
    for point in model.history:
        model.check_point(point, installation, room / "되살린 것")
    installation.run("verify")
    return phase


def power_failures(kind: str, cycles: int, step: int, room: Path) -> Counter[Phase]:
    """Failures at every `step`-th message of so many cycles, and how far each cycle had got."""
    phases: Counter[Phase] = Counter()
    with losing_power(kind) as (where, failures), small_stage(room, f"power {kind}", share=where) as stage:
        usual = stage.sync()
        for cycle in range(cycles):
            stage.model.some_changes()
            before, kept = max(stage.model.history), failures.kept
            _sync_with_failures(stage, failures, range(cycle % step, 2 * usual, step))
            for number in range(kept, failures.kept):
                with failures.found(number) as found:
                    phases[_check_found(stage, found, before, room)] += 1
            usual = max(usual, stage.relay.traffic.messages)
    return phases


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_failure_at_any_moment_loses_no_point(kind: str, room: Path, record_property: Record) -> None:
    phases = power_failures(kind, 1, 24, room)
    for phase, count in phases.items():
        record_property(phase.name, count)
    assert phases[Phase.WRITING] >= 2


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_failures_at_hundreds_of_moments_lose_no_point(kind: str, room: Path, record_property: Record) -> None:
    phases = power_failures(kind, 3, 4, room)
    for phase, count in phases.items():
        record_property(phase.name, count)
    assert min(phases[phase] for phase in (Phase.WRITING, Phase.SEALING, Phase.SETTLING)) >= 2
