"""Whatever dies, and whenever, of replicad, the server and the connections between them: every point is what it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from tests.support.faults import Fault, Troubles, impatient
from tests.support.installation import VM, Server, install
from tests.support.interrupted import WatchedReplica
from tests.support.machine_model import MachineModel
from tests.support.relay import relay_to
from tests.support.samba import PLAIN, running_samba

pytestmark = pytest.mark.samba

Record = Callable[[str, object], None]


def brought(plan: Sequence[Fault], seed: int, room: Path) -> Counter[str]:
    """Syncs with the faults of the plan, in a random order, until each of them has come in time; what was done."""
    random = Random(seed)
    left = list(plan)
    random.shuffle(left)
    done: Counter[str] = Counter()
    scratch = room / "되살린 것"
    with running_samba() as server, relay_to(server.port) as relay:
        share = server.share_directory(PLAIN) / f"{uuid4().hex[:12]} 사본"
        share.mkdir()
        model = MachineModel(room / "원본", random, most_raw_bytes=4 << 20, virtual_mib=8, most_disks=4)
        model.begin()
        replica = WatchedReplica(share / VM, model)
        address = rf"\\nas\{PLAIN}\{share.name}"
        installation = install(room / "설치", str(model.directory), address, {"nas": Server(server, relay.port)})
        troubles = Troubles(server, relay, installation, replica, random)
        while left:
            fault = left[-1]
            replica.about_to_sync()
            came = troubles.bring(fault)
            replica.check_names()
            done["rounds"] += 1
            if came:
                done[left.pop().name] += 1
                if model.history and random.random() < 0.2:
                    model.check_point(random.choice(sorted(model.history)), installation, scratch)
                    done["points restored"] += 1
                if random.random() < 0.5:
                    troubles.let_go()
                if not fault.ends_sync or random.random() < 0.3:
                    model.some_changes()
                    continue  # maybe before a sync succeeds
            replica.about_to_sync()
            report = troubles.quiet_sync()
            troubles.let_go()
            replica.check_names()
            assert replica.pending() is None
            assert report["point"] == max(model.history)
            model.some_changes()
        troubles.let_go()
        replica.about_to_sync()
        troubles.quiet_sync()
        replica.check_names()
        for point in random.sample(sorted(model.history), min(12, len(model.history))):
            model.check_point(point, installation, scratch)
            done["points restored"] += 1
        installation.run("verify")  # every undo log of every point
    return done


@pytest.mark.timeout(600)
def test_no_fault_at_any_moment_loses_a_point(
    room: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    impatient(monkeypatch)
    for what, count in brought([*Fault], 1, room).items():
        record_property(what, count)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 18))
def test_hundreds_of_faults_lose_no_point(
    seed: int, room: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    """Of all seeds together: 400 kills and 128 faults of the network."""
    impatient(monkeypatch)
    plan = [fault for fault in Fault for _ in range(4 if fault.is_of_network else 7 if fault is Fault.CHILD else 6)]
    for what, count in brought(plan, seed, room).items():
        record_property(what, count)
