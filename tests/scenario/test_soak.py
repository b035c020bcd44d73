"""The long runs: every topology, many seeds, whatever may happen to a sync, and every point compared in the end."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from random import Random

import pytest

from replicad.cli.demo.samba import PrivateSamba
from tests.support.interrupted import WatchedReplica, killed_sync, random_moment, stopped_sync
from tests.support.machine_model import MIB, MachineModel
from tests.support.relay import Traffic
from tests.support.topologies import TOPOLOGIES, Stage, staged

pytestmark = [pytest.mark.samba, pytest.mark.soak]

ROUNDS = 20
_log = logging.getLogger(__name__)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("topology", [*TOPOLOGIES, "local to local"])
def test_model_holds_whatever_happens_to_syncs(
    topology: str, seed: int, room: Path, samba_server: PrivateSamba
) -> None:
    random = Random(f"{topology} {seed}")
    with staged(topology, room, samba_server) as stage:
        model = MachineModel(stage.source, random, most_raw_bytes=48 * MIB, virtual_mib=128)
        model.begin()
        replica = WatchedReplica(stage.replica, model)
        usual = Traffic(200, 8 * MIB, 0)
        usual_s = 2.0
        for _ in range(ROUNDS):
            flags = ["--resync"] if random.random() < 0.2 else []
            for _ in range(random.choice([0, 0, 1, 1, 2])):
                replica.about_to_sync()
                _interrupt(stage, replica, random, usual, usual_s, flags)
                replica.check_names()
                if model.history and random.random() < 0.4:
                    _look(stage, model, random, room)
                if random.random() < 0.6:
                    model.some_changes()
            if random.random() < 0.3:
                stage.installation.run("sync", "--dry-run")
            if stage.relay is not None:
                stage.relay.reset()
            replica.about_to_sync()
            report = stage.installation.run("sync", "--json", *flags).facts
            replica.check_names()
            assert report["point"] == max(model.history)
            assert replica.pending() is None
            if stage.relay is not None:
                usual = stage.relay.traffic
            usual_s = 0.5 + report["duration_s"]
            if random.random() < 0.4:
                _look(stage, model, random, room)
            for _ in range(random.randint(0, 3)):
                model.some_changes()
        for point in model.history:
            model.check_point(point, stage.installation, room / "되살린 것")
        stage.installation.run("verify")


def _interrupt(
    stage: Stage, replica: WatchedReplica, random: Random, usual: Traffic, usual_s: float, flags: list[str]
) -> None:
    if stage.relay is not None and random.random() < 0.6:
        where, judge = random_moment(random, usual, replica)
        _log.info("kill %s", where)
        killed_sync(stage.installation, stage.relay, judge, *flags)
    else:
        after_s, by = random.uniform(0.2, usual_s * 1.2), random.choice([signal.SIGKILL, signal.SIGTERM])
        _log.info("%s after %.2f s", by.name, after_s)
        stopped_sync(stage.installation, after_s, by, *flags)


def _look(stage: Stage, model: MachineModel, random: Random, room: Path) -> None:
    """What a person may do at any time: all of it must find the replica sound."""
    point = random.choice(sorted(model.history))
    if random.random() < 0.5:
        stage.installation.run("verify", "--point", str(point))
    else:
        model.check_point(point, stage.installation, room / "되살린 것")
