"""Connections that are cut again and again in the middle of long transfers on a real server: each one ends well in one
go, exact, and sends or reads again little more than what was under way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from replicad.cli.demo.samba import PrivateSamba
from tests.support.installation import Installation, Outcome, Server, install
from tests.support.machine_model import CHUNK, MIB, tree_state
from tests.support.relay import Judge, Relay, Traffic, after_bytes, relay_to
from tests.support.samba import ENCRYPTED, PLAIN, running_samba

pytestmark = pytest.mark.samba

_log = logging.getLogger(__name__)

FLUSHED_EVERY_BYTES = 16 * MIB
BATCH_BYTES = 4 * MIB
IN_DOUBT_BYTES = 2 * FLUSHED_EVERY_BYTES + 4 * BATCH_BYTES
"""What was not flushed yet, or not said to be (the next batch says it), and the batches that were being written."""
UNDER_WAY_BYTES = 24 * MIB
"""What a reader has asked for at a time, and the buffers in the relay of each of its connections."""


class Cuts:
    """Cuts at `judge` as often as there are `then`s, each of them called while nothing gets through."""

    def __init__(self, relay: Relay, judge: Judge, thens: list[Callable[[], None]]) -> None:
        self._relay = relay
        self._judge = judge
        self._left = list(thens)
        self.seen: list[Traffic] = []
        relay.cut(judge, self._cut)

    def _cut(self) -> None:
        self.seen.append(self._relay.traffic)
        self._left.pop(0)()
        if self._left:
            self._relay.cut(self._judge, self._cut)

    def traffic(self) -> Traffic:
        """All of it, after the last transfer has ended."""
        parts = [*self.seen, self._relay.traffic]
        return Traffic(*(sum(getattr(part, name) for part in parts) for name in Traffic.__slots__))


def nothing() -> None:
    """The connection is cut, and the server is as it was."""


def fill(path: Path, seed: int, mib: int) -> None:
    """A disk that can't be compressed, with holes and zeros in it."""
    random = Random(seed)
    with path.open("wb") as file:
        for number in range(mib):
            if number % 16 == 3:
                file.seek(MIB, 1)
            file.write(bytes(MIB) if number % 16 == 7 else random.randbytes(MIB))


def lay_out(room: Path, server: PrivateSamba, relay: Relay, share: str) -> tuple[Installation, Path]:
    """An installation whose replica lies behind the relay, and its source."""
    source, there = room / "원본", server.share_directory(share) / f"{uuid4().hex[:12]} 사본 🗄"
    source.mkdir()
    there.mkdir()
    address = rf"\\nas\{share}\{there.name}"
    return install(room / "설치", str(source), address, {"nas": Server(server, relay.port)}), source


def check_told(outcome: Outcome, losses: int) -> None:
    """One warning for each loss, and no complaint."""
    lines = [line for line in outcome.stderr.splitlines() if "trying again" in line]
    assert len(lines) == losses, outcome.stderr
    assert all(line.startswith("warning: ") and r"\\nas" in line for line in lines), outcome.stderr
    assert "replicad: " not in outcome.stderr


def test_an_initial_copy_that_is_cut_several_times_sends_again_only_what_is_in_doubt(
    room: Path, samba_server: PrivateSamba, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicad.replica.disk_update._FLUSH_EVERY_BYTES", FLUSHED_EVERY_BYTES)
    monkeypatch.setattr("replicad.workflows.collecting._BATCH_BYTES", BATCH_BYTES)
    with relay_to(samba_server.port) as relay:
        installation, source = lay_out(room, samba_server, relay, ENCRYPTED)
        fill(source / "디스크 1.img", 1, 140)
        fill(source / "디스크 2.img", 2, 60)
        cuts = Cuts(relay, after_bytes(64 * MIB), [nothing] * 3)
        outcome = installation.run("sync", "--json")
        report = outcome.facts
        # The lock is had at once each time, or there would be more attempts.
        assert (report["point"], report["attempts"], len(cuts.seen)) == (1, 4, 3)
        check_told(outcome, losses=3)
        changed_bytes = sum(_data_bytes(path) for path in source.iterdir())
        again_bytes, wire_bytes = report["sent_bytes"] - changed_bytes, cuts.traffic().to_server_bytes - changed_bytes
        _log.info("%d bytes of %d sent again, %d on the wire", again_bytes, changed_bytes, wire_bytes)
        assert changed_bytes < report["sent_bytes"] <= changed_bytes + 3 * IN_DOUBT_BYTES
        assert cuts.traffic().to_server_bytes <= 1.03 * (changed_bytes + 3 * IN_DOUBT_BYTES)
        installation.run("restore", "--to", str(room / "되살린 것"))
        assert tree_state(room / "되살린 것") == tree_state(source)


def _data_bytes(path: Path) -> int:
    """The bytes of chunks that are not zeros."""
    with path.open("rb") as file:
        return sum(len(chunk) for chunk in iter(lambda: file.read(CHUNK), b"") if any(chunk))


@pytest.mark.parametrize("what", ["cut", "restarted"])
def test_restoring_and_verifying_through_losses_reads_again_only_what_was_under_way(what: str, room: Path) -> None:
    with running_samba() as server, relay_to(server.port) as relay:
        installation, source = lay_out(room, server, relay, PLAIN)
        disk = source / "디스크.img"
        fill(disk, 3, 60)
        installation.run("sync")
        older = tree_state(source)
        with disk.open("r+b") as file:
            file.write(Random(4).randbytes(20 * MIB))
        installation.run("sync")
        then = server.restart if what == "restarted" else nothing
        for verb in (["restore", "--point", "1", "--to", str(room / "되살린 것")], ["verify"]):
            cuts = Cuts(relay, lambda traffic, length: 0 if traffic.to_client_bytes > 15 * MIB else None, [then] * 2)
            outcome = installation.run(*verb)
            assert len(cuts.seen) == 2
            check_told(outcome, losses=2)
            assert outcome.stderr.count("can be reached again; reading goes on where it was") == 2
            needed_bytes = _data_bytes(disk) + (20 * MIB if verb == ["verify"] else 0)
            more_bytes = cuts.traffic().to_client_bytes - needed_bytes
            _log.info("%s: %d bytes more than %d were read", verb[0], more_bytes, needed_bytes)
            assert cuts.traffic().to_client_bytes <= 1.03 * needed_bytes + 2 * UNDER_WAY_BYTES
        assert tree_state(room / "되살린 것") == older
