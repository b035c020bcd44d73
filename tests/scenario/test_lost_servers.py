"""A server that dies in the middle of a sync: if it comes back the sync ends well in one go, else with one clear
sentence, "try again later", and nothing lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from replicad.cli.demo.samba import PrivateSamba
from replicad.model.patience import Patience
from replicad.storage.processes import start_of_process
from replicad.workflows import retries
from tests.support.installation import VM, Installation, Outcome, Server, install
from tests.support.interrupted import WatchedReplica
from tests.support.machine_model import MIB, MachineModel
from tests.support.relay import Relay, after_bytes, after_messages, relay_to
from tests.support.samba import PLAIN, pids_serving, running_samba

pytestmark = pytest.mark.samba

Kill = Callable[[PrivateSamba, Relay], None]


def kill_the_child(server: PrivateSamba, relay: Relay) -> None:
    """SIGKILL for the processes that serve the relay's connections."""
    children = pids_serving(server, relay.server_sides())
    assert children
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    # A process that is in the middle of an fsync ends, and frees its locks, only when that is done.
    deadline = time.monotonic() + 30
    while any(start_of_process(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.01)


def kill_the_server(server: PrivateSamba, relay: Relay) -> None:
    """SIGKILL for all of its processes."""
    server.kill()


def restart_the_server(server: PrivateSamba, relay: Relay) -> None:
    """The same, and it is back at once."""
    server.restart()


@pytest.mark.parametrize("side", ["source", "replica"])
@pytest.mark.parametrize("kill", [kill_the_child, restart_the_server])
def test_server_that_comes_back_in_the_middle_does_not_end_the_sync(kill: Kill, side: str, room: Path) -> None:
    for report in _syncs_that_lose_their_server(kill, side, room, expect=0):
        assert report["attempts"] == 2


@pytest.mark.parametrize("side", ["source", "replica"])
def test_server_that_stays_away_is_told_and_the_next_sync_goes_on(
    side: str, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "PATIENCE", Patience(0.05, 0.1, failures=3, seconds=0.5))
    for report in _syncs_that_lose_their_server(kill_the_server, side, room, expect=5):
        assert report["attempts"] == 1


def _syncs_that_lose_their_server(kill: Kill, side: str, room: Path, *, expect: int) -> Iterator[dict[str, Any]]:
    """Four syncs, each with changes before it, and what the last run for each of them said; then all points are
    checked. The server is killed in the first run, which must end with exit code `expect`."""
    random = Random(f"{kill.__name__} {side}")
    with running_samba() as server, relay_to(server.port) as relay:
        installation, source, replica_dir = _lay_out(room, server, relay, side)
        model = MachineModel(source, random)
        model.begin()
        replica = WatchedReplica(replica_dir, model)
        for attempt in range(4):
            if attempt:
                model.some_changes()
                model.in_place()
            # A source is read by few and short messages, each answered by much: a sync sends it little.
            judge = after_messages(random.randrange(14, 26)) if side == "source" else after_bytes(random.randrange(MIB))
            relay.cut(judge, lambda: kill(server, relay))
            replica.about_to_sync()
            outcome = installation.run("sync", "--json", expect=expect)
            assert relay.was_cut()
            warned = [line for line in outcome.stderr.splitlines() if "trying again" in line]
            assert [line.startswith("warning: cannot ") and "nas" in line for line in warned] == [True]
            if expect:
                _check_complaint(outcome)
                server.restart()
                replica.check_names()
                replica.about_to_sync()
                outcome = installation.run("sync", "--json")
            replica.check_names()
            assert outcome.facts["point"] == max(model.history)
            yield outcome.facts
        for point in model.history:
            model.check_point(point, installation, room / "되살린 것")


def _check_complaint(outcome: Outcome) -> None:
    said = outcome.stderr.strip().splitlines()[-1]
    assert said.startswith("replicad: "), outcome.stderr
    assert [line for line in outcome.stderr.splitlines() if "replicad: " in line] == [said]
    assert "server 127.0.0.1:" in said


def _lay_out(room: Path, server: PrivateSamba, relay: Relay, side: str) -> tuple[Installation, Path, Path]:
    here, there = room / "여기", server.share_directory(PLAIN) / "저기 🗄"
    here.mkdir()
    there.mkdir()
    address = rf"\\nas\{PLAIN}\{there.name}"
    servers = {"nas": Server(server, relay.port)}
    if side == "source":
        return install(room / "설치", address, str(here), servers), there, here / VM
    return install(room / "설치", str(here), address, servers), here, there / VM
