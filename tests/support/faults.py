"""What may die between replicad and the replica's server in the middle of a sync, at a moment that a test chooses."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from enum import Enum
from random import Random
from typing import Any

import pytest

from replicad.cli.demo.samba import PrivateSamba
from replicad.model.patience import Patience
from replicad.service.compose import Shares
from replicad.storage import retrying
from replicad.storage.processes import start_of_process
from replicad.storage.smb import Endpoint
from replicad.workflows import retries
from tests.support.installation import Installation
from tests.support.interrupted import WatchedReplica, killed_sync, random_moment
from tests.support.relay import Deed, Judge, Relay, Traffic
from tests.support.samba import pids_serving

_log = logging.getLogger(__name__)

_AT_THE_BEGINNING = re.compile("replicad: cannot (connect to|negotiate with|sign in to|talk to|open the share) ")
ANSWER_WITHIN_S = 1.0
"""How long `impatient` lets a request of this process wait, where it is 30 s."""


class Fault(Enum):
    """One thing that happens once in a sync."""

    PROCESS = "kill -9 of replicad"
    PROCESS_BEHIND_CUT_CABLE = "kill -9 of replicad while nothing gets through, not even its end"
    CHILD = "kill -9 of the server's processes for this client"
    SERVER = "kill -9 of the whole server, which comes back"
    RESET = "TCP reset of all connections"
    STALL = "connections that stand still, and pass on what they held when replicad has gone on without them"

    @property
    def is_of_network(self) -> bool:
        """Whether nobody dies of it."""
        return self in (Fault.RESET, Fault.STALL)

    @property
    def ends_sync(self) -> bool:
        """Whether replicad itself dies."""
        return self in (Fault.PROCESS, Fault.PROCESS_BEHIND_CUT_CABLE)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process give up silent servers, and try again, sooner than it should in a large network."""
    original = Shares.endpoint

    def endpoint(shares: Shares, server: str) -> Endpoint:
        return replace(original(shares, server), timeout_s=ANSWER_WITHIN_S, slow_timeout_s=3 * ANSWER_WITHIN_S)

    monkeypatch.setattr(Shares, "endpoint", endpoint)
    for room in (retries, retrying):
        monkeypatch.setattr(room, "PATIENCE", Patience(0.02, 0.5, failures=20, seconds=60))


def kill_children(server: PrivateSamba, relay: Relay) -> None:
    """SIGKILL for the server's processes that serve the relay's connections; on return they are gone."""
    children = pids_serving(server, relay.server_sides())
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # A process that is in the middle of an fsync ends, and frees its locks, only when that is done.
    deadline_s = time.monotonic() + 30
    while any(start_of_process(pid) for pid in children) and time.monotonic() < deadline_s:
        time.sleep(0.01)


@dataclass(slots=True)
class Troubles:
    """Brings faults over syncs of one installation."""

    server: PrivateSamba
    relay: Relay
    installation: Installation
    replica: WatchedReplica
    random: Random
    usual: Traffic = field(default_factory=lambda: Traffic(150, 6 << 20, 0))

    def bring(self, fault: Fault, *arguments: str) -> bool:
        """A sync with this fault at a random moment; whether it came before the sync was done.

        Unless replicad itself dies the sync must end well, or, if the connection is lost before there is a share to
        come back to, say "try again later". What connections held back is let go only by `let_go`.
        """
        where, judge = random_moment(self.random, self.usual, self.replica)
        _log.info("%s %s", fault.name, where)
        if fault is Fault.PROCESS:
            return killed_sync(self.installation, self.relay, judge, *arguments)
        if fault is Fault.PROCESS_BEHIND_CUT_CABLE:
            return self._killed_behind_cut_cable(judge, *arguments)
        deed = Deed(judge, self._deeds()[fault])
        with self.relay.watched(deed):
            outcome = self.installation.tried("sync", "--json", *arguments)
        came = deed.was_done()
        if outcome.code != 0:
            assert came, outcome.stderr
            assert outcome.code == 5, outcome.stderr
            assert _AT_THE_BEGINNING.match(outcome.complaint), outcome.stderr
        return came

    def let_go(self) -> None:
        """Pass on what connections held back."""
        self.relay.thaw()

    def quiet_sync(self, *arguments: str) -> dict[str, Any]:
        """A sync without trouble; what it says in JSON."""
        self.relay.reset()
        facts: dict[str, Any] = self.installation.run("sync", "--json", *arguments).facts
        self.usual = self.relay.traffic
        return facts

    def _deeds(self) -> dict[Fault, Callable[[], None]]:
        return {
            Fault.CHILD: lambda: kill_children(self.server, self.relay),
            Fault.SERVER: self.server.restart,
            Fault.RESET: self.relay.reset_connections,
            Fault.STALL: self.relay.freeze,
        }

    def _killed_behind_cut_cable(self, judge: Judge, *arguments: str) -> bool:
        pid: Future[int] = Future()

        def do() -> None:
            self.relay.freeze()
            os.kill(pid.result(60), signal.SIGKILL)

        deed = Deed(judge, do)
        with self.relay.watched(deed), self.installation.start("sync", *arguments) as process:
            pid.set_result(process.pid)
            try:
                _, stderr = process.communicate(timeout=120)
            except BaseException:
                process.kill()
                raise
        assert process.returncode == 0 or (process.returncode == -signal.SIGKILL and deed.was_done()), stderr
        return process.returncode != 0
