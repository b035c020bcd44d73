"""kill -9 at any moment of a sync: the next one succeeds, no point is lost, no unfinished disk bears its own name."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from replicad.cli.demo.samba import PrivateSamba
from tests.support.installation import VM, Server, install
from tests.support.interrupted import Phase, WatchedReplica, killed_sync, random_moment
from tests.support.machine_model import MachineModel
from tests.support.relay import Traffic, relay_to
from tests.support.samba import ENCRYPTED

pytestmark = pytest.mark.samba

_log = logging.getLogger(__name__)

Record = Callable[[str, object], None]


def kill_syncs(kills: int, seed: int, room: Path, samba: PrivateSamba) -> Counter[Phase]:
    """So many syncs killed, with changes before each; returns how far they had got."""
    random = Random(seed)
    source, scratch = room / "원본", room / "되살린 것"
    share = samba.share_directory(ENCRYPTED) / f"{uuid4().hex} 사본"
    share.mkdir()
    model = MachineModel(source, random, most_raw_bytes=4 << 20, virtual_mib=8, most_disks=4)
    model.begin()
    replica = WatchedReplica(share / VM, model)
    phases: Counter[Phase] = Counter()
    with relay_to(samba.port) as relay:
        address = rf"\\nas\{ENCRYPTED}\{share.name}"
        installation = install(room / "설치", str(source), address, {"nas": Server(samba, relay.port)})
        usual = Traffic(150, 6 << 20, 0)
        while phases.total() < kills:
            latest = max(model.history, default=0)
            where, judge = random_moment(random, usual, replica)
            replica.about_to_sync()
            killed = killed_sync(installation, relay, judge)
            replica.check_names()
            if killed:
                phase = replica.phase(latest)
                phases[phase] += 1
                _log.info("kill %d %s: %s; %d points", phases.total(), where, phase.value, len(model.history))
                if model.history and random.random() < 0.3:
                    # Every point can be had before anybody has gone on with the cycle.
                    model.check_point(random.choice(sorted(model.history)), installation, scratch)
                if random.random() < 0.3:
                    model.some_changes()
                    continue  # killed again, before one succeeds
                if random.random() < 0.5:
                    model.some_changes()
            relay.reset()
            replica.about_to_sync()
            report = installation.run("sync", "--json").facts
            usual = relay.traffic
            replica.check_names()
            assert replica.pending() is None
            assert report["point"] == max(model.history)
            model.some_changes()
        for point in model.history:
            model.check_point(point, installation, scratch)
        installation.run("verify")
    return phases


@pytest.mark.timeout(600)
def test_kill_at_any_moment_loses_nothing(room: Path, samba_server: PrivateSamba, record_property: Record) -> None:
    phases = kill_syncs(30, 1, room, samba_server)
    for phase, count in phases.items():
        record_property(phase.name, count)
    interrupted = [phases[phase] for phase in (Phase.WRITING, Phase.SEALING, Phase.SETTLING)]
    assert sum(interrupted) >= 15
    assert min(interrupted) >= 2


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 6))
def test_hundreds_of_kills_lose_nothing(seed: int, room: Path, samba_server: PrivateSamba) -> None:
    kill_syncs(55, seed, room, samba_server)
