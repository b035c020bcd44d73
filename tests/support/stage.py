"""One virtual machine's disks in a directory, and its replica on a Samba server of its own behind a relay: for tests
that break what is between them, or what the share lies on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from replicad.cli.demo.samba import PrivateSamba, SambaShare
from tests.support.faults import Troubles
from tests.support.installation import VM, Installation, Outcome, Server, install
from tests.support.interrupted import WatchedReplica
from tests.support.machine_model import MachineModel
from tests.support.relay import Deed, Relay, after_messages, relay_to
from tests.support.samba import PLAIN, running_samba


@dataclass(frozen=True, slots=True)
class SmallStage:
    """`share` is what the server shares, as a directory of this machine."""

    server: PrivateSamba
    relay: Relay
    installation: Installation
    share: Path
    model: MachineModel
    replica: WatchedReplica
    troubles: Troubles
    scratch: Path

    def sync(self) -> int:
        """A sync without trouble, and a look at what it left; how many messages it sent."""
        self.replica.about_to_sync()
        report = self.troubles.quiet_sync()
        messages = self.relay.traffic.messages
        self.replica.check_names()
        assert self.replica.pending() is None
        assert report["point"] == max(self.model.history)
        return messages

    def tried(self, verb: str, *arguments: str, at_message: int, do: Callable[[], object]) -> Outcome | None:
        """A run of a verb during which something is done; None if it was over before, and then it must be well."""
        deed = Deed(after_messages(at_message), do)
        if verb == "sync":
            self.replica.about_to_sync()
        with self.relay.watched(deed):
            outcome = self.installation.tried(verb, *arguments)
        self.replica.check_names()
        if deed.was_done():
            return outcome
        assert outcome.code == 0, outcome.stderr
        return None

    def check_point(self, point: int) -> None:
        """It restores to what the source held at it."""
        self.model.check_point(point, self.installation, self.scratch)

    def check_all_points(self) -> None:
        """All of them, and every byte of the replica."""
        for point in self.model.history:
            self.check_point(point)
        self.installation.run("verify")


@contextmanager
def small_stage(
    room: Path,
    seed: object,
    *,
    share: Path | None = None,
    prepare: Callable[[PrivateSamba], object] = lambda server: None,
    settings: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[SmallStage]:
    """`share`: where the shared directory is made, if not beside the server; `prepare`: what is done to the server
    before anybody connects; `settings` are the server's, `options` the virtual machine's."""
    random = Random(str(seed))
    shares = {PLAIN: SambaShare(share / "공유")} if share is not None else None
    with running_samba(shares, settings=settings) as server, relay_to(server.port) as relay:
        prepare(server)
        there = server.share_directory(PLAIN)
        model = MachineModel(room / "원본", random, most_raw_bytes=3 << 20, virtual_mib=8, most_disks=3)
        model.begin()
        installation = install(
            room / "설치", str(model.directory), rf"\\nas\{PLAIN}", {"nas": Server(server, relay.port)}, options=options
        )
        replica = WatchedReplica(there / VM, model)
        troubles = Troubles(server, relay, installation, replica, random)
        yield SmallStage(server, relay, installation, there, model, replica, troubles, room / "되살린 것")
