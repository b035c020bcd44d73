"""The daemon over real servers, while everything around it breaks, and it itself is killed: what it made is exact, and
what it remembers is true.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any

import pytest

from replicad.cli.daemon_client import SOCKET, path_of
from replicad.cli.daemon_client import Daemon as ApiOf
from replicad.cli.main import main
from replicad.model.runs import Outcome
from replicad.model.schedule import Every, phase_s
from tests.support.accounts import Keeping, check_points, check_schedule, of, points_in
from tests.support.daemon import Daemon, Facts, Site, Stopwatch, moment_of, site
from tests.support.installation import Server, described_server
from tests.support.relay import Deed, Relay, after_bytes, after_messages, relay_to
from tests.support.samba import PLAIN, running_samba
from tests.support.scene import make_vhdx
from tests.support.writers import Journal, LocalWriter, SmbWriter, Writer, writing

pytestmark = pytest.mark.samba

Record = Callable[[str, object], None]

A, B, C = "웹 서버 🖥", "데이터베이스 2", "메일 💌"
EVERY_S = 2
STOPS_WITHIN_S = 5.0
SERVER_NOTICES_AFTER_S = 330.0
"""When a cable that is cut is taken up again at the latest; it is longer than the daemon waits for a flush."""
GOES_ON_WITHIN_S = 450.0
STARTS_WITHIN_S = 20.0
"""How long after its time a cycle may begin, on a machine that does much else."""


class Trouble(Enum):
    """What happens in the middle of it."""

    RESET = "TCP reset of all connections"
    SERVER = "kill -9 of the server, which comes back"
    STALL = "connections that stand still, and pass on what they held when all has gone on without them"
    CHANGE = "SIGHUP with another configuration of one machine"
    BAD_FILE = "SIGHUP with a file that is no configuration"
    REMOVE = "SIGHUP without a machine, and later with it"
    KILL = "kill -9 of the daemon"
    KILL_BEHIND_CUT_CABLE = "kill -9 of the daemon while nothing gets through, not even its end"
    STOP = "SIGTERM"
    STOP_BEHIND_CUT_CABLE = "SIGTERM while nothing gets through"


QUICK = [trouble for trouble in Trouble if trouble not in (Trouble.STALL, Trouble.KILL_BEHIND_CUT_CABLE)]
"""Those after which nobody has to wait until a server is given up."""


@dataclass
class Service:
    """A daemon that keeps three machines, and how to disturb it."""

    site: Site
    relay: Relay
    restart_server: Callable[[], None]
    servers: dict[str, Any]
    machines: dict[str, dict[str, Any]]
    random: Random
    keeping: dict[str, Keeping] = field(default_factory=lambda: {vm: Keeping() for vm in (A, B, C)})
    counts: Counter[str] = field(default_factory=Counter)
    slowest_stop_s: float = 0.0

    def configure(self, *, without: str | None = None) -> None:
        """Write the configuration."""
        self.site.write(self.servers, {vm: keys for vm, keys in self.machines.items() if vm != without})

    def start(self) -> None:
        """Start a daemon, and wait until it works."""
        self.daemon: Daemon = self.site.start()
        ready_at = moment_of(self.daemon.wait_for("ready"))
        for keeping in self.keeping.values():
            keeping.since.append(ready_at)

    def bring(self, trouble: Trouble) -> None:
        """Have it happen while something is sent, and wait until all machines have ended a cycle well after it."""
        ways: dict[Trouble, Callable[[], None]] = {
            Trouble.RESET: lambda: self._at_some_message(self.relay.reset_connections),
            Trouble.SERVER: lambda: self._at_some_message(self.restart_server),
            Trouble.STALL: lambda: self._at_some_message(self.relay.freeze),
            Trouble.CHANGE: self._change,
            Trouble.BAD_FILE: self._bad_file,
            Trouble.REMOVE: self._remove,
            Trouble.KILL: lambda: self._killed(cut=False),
            Trouble.KILL_BEHIND_CUT_CABLE: lambda: self._killed(cut=True),
            Trouble.STOP: lambda: self._stopped(cut=False),
            Trouble.STOP_BEHIND_CUT_CABLE: lambda: self._stopped(cut=True),
        }
        ways[trouble]()
        self.counts[trouble.name] += 1
        # A lock whose holder's name was still on its way when the cable was cut is free when the server notices.
        notices = threading.Timer(SERVER_NOTICES_AFTER_S, self.relay.thaw)
        notices.start()
        try:
            self.wait_for_cycles(self.machines)
        finally:
            notices.cancel()
            notices.join()
        self.relay.thaw()

    def wait_for_cycles(self, vms: Sequence[str] | dict[str, Any]) -> None:
        """Until each of these has ended a cycle well after now."""
        mark = self.daemon.mark()
        for vm in vms:
            self.daemon.wait_for("cycle done", mark, GOES_ON_WITHIN_S, vm=vm)

    def _at_some_message(self, do: Callable[[], object]) -> None:
        """Do it in the middle of what is sent in the next seconds."""
        done = threading.Event()

        def deed() -> None:
            try:
                do()
            finally:
                done.set()

        count = self.random.randrange(0, 300)
        where = after_messages(count) if self.random.random() < 0.5 else after_bytes(count * 4096)
        one = Deed(where, deed)
        with self.relay.watched(one):
            assert done.wait(60), f"{count} messages were not sent"
        assert one.was_done()

    def _hang_up(self, answer: str) -> Facts:
        mark = self.daemon.mark()
        self.daemon.hang_up()
        return self.daemon.wait_for(answer, mark)

    def _change(self) -> None:
        self.machines[B]["bandwidth"] = self.random.choice(["20M", "50M", "off"])
        self.configure()
        self._at_some_message(self.daemon.hang_up)
        self._hang_up("configuration taken")

    def _bad_file(self) -> None:
        good = self.site.config.read_text()
        bad = self.random.choice([good[: len(good) // 2], good.replace('"every"', '"evry"', 1), "\0", "[]", ""])
        self.site.write_text(bad)
        event = self._hang_up("the configuration stays as it was")
        assert str(self.site.config) in event["event"]
        self.site.write_text(good)

    def _remove(self) -> None:
        gone = self.random.choice(list(self.machines))
        self.configure(without=gone)
        self._at_some_message(self.daemon.hang_up)
        self._hang_up("configuration taken")
        mark = self.daemon.mark()
        self.wait_for_cycles([vm for vm in self.machines if vm != gone])
        assert not [event for event in self.daemon.log.events()[mark:] if event.get("vm") == gone]
        self.configure()
        self.keeping[gone].since.append(datetime.now(UTC))
        self._hang_up("configuration taken")

    def _killed(self, *, cut: bool) -> None:
        def die() -> None:
            if cut:
                self.relay.freeze()
            os.kill(self.daemon.pid, signal.SIGKILL)

        self._at_some_message(die)
        assert self.daemon.ended()[0] == -signal.SIGKILL
        for run in self.site.remembered()[0]:
            if run.outcome is None:
                self.keeping[run.vm].killed.add(run.number)
                self.counts["cycles that were killed"] += 1
        self.start()

    def _stopped(self, *, cut: bool) -> None:
        told: list[Stopwatch] = []

        def tell() -> None:
            if cut:
                self.relay.freeze()
            told.append(self.daemon.stopwatch())
            os.kill(self.daemon.pid, signal.SIGTERM)

        self._at_some_message(tell)
        took_s = stopped_well(self.daemon, self.daemon.ended(told[0]))
        self.slowest_stop_s = max(self.slowest_stop_s, took_s)
        assert all(run.outcome is not None for run in self.site.remembered()[0])
        self.start()


def stopped_well(daemon: Daemon, ended: tuple[int, float]) -> float:
    """Assert that it stopped in time, and in order; how long it took."""
    code, took_s = ended
    assert (code, took_s < STOPS_WITHIN_S) == (0, True), f"{code} after {took_s:.1f} s: {daemon.said()}"
    return took_s


@dataclass
class Fleet:
    """The service, and who writes its machines' disks; `replicas` are the replicas as the server's disk has them."""

    service: Service
    writers: dict[str, Writer]
    replicas: dict[str, Path]


@contextmanager
def fleet(room: Path, seed: int) -> Iterator[Fleet]:
    """Two machines with their disks on a server, and one with local ones, all replicated to that server."""
    random, guard = Random(seed), threading.Lock()
    with running_samba() as server, relay_to(server.port) as relay, site(room / "설치") as place:
        data = server.share_directory(PLAIN)
        sources = {A: data / "원본 가", B: data / "원본 나", C: room / "원본 다"}
        addresses = {
            vm: rf"\\nas\{PLAIN}\{path.name}" if path.parent == data else str(path) for vm, path in sources.items()
        }
        journals = {vm: Journal(path) for vm, path in sources.items()}
        (data / "사본").mkdir()
        writers: dict[str, Writer] = {}
        for vm, journal in journals.items():
            journal.begin(random.getrandbits(16))
            writer_seed = random.getrandbits(16)
            writers[vm] = (
                LocalWriter(journal, writer_seed) if vm == C else SmbWriter(journal, writer_seed, server, PLAIN, guard)
            )
        machines = {
            vm: {
                "source": address, "replica": rf"\\nas\{PLAIN}\사본", "disks": ["*.vhdx", "*.img"],
                "every": f"{EVERY_S}s", "keep": {"latest": 100_000},
            }
            for vm, address in addresses.items()
        }  # fmt: skip

        def restart() -> None:
            with guard:
                server.restart()

        described = {"nas": described_server(place.base, "nas", Server(server, relay.port))}
        service = Service(place, relay, restart, described, machines, random)
        yield Fleet(service, writers, {vm: data / "사본" / vm for vm in sources})


def lived_through(rounds: int, troubles: Sequence[Trouble], seed: int, room: Path) -> Counter[str]:
    """So many times all the troubles in a random order; then everything is checked. What was done."""
    with fleet(room, seed) as made:
        service = made.service
        service.configure()
        with writing(*made.writers.values()):
            service.start()
            service.wait_for_cycles(service.machines)
            for _ in range(rounds):
                for trouble in service.random.sample(troubles, len(troubles)):
                    service.bring(trouble)
                service.counts["rounds"] += 1
            stopped_well(service.daemon, service.daemon.terminate())
        assert service.site.complaints() == []
        check_history(made)
        check_contents(made, room)
        service.counts["slowest stop in ms"] = round(service.slowest_stop_s * 1000)
        return service.counts


def check_history(made: Fleet) -> None:
    """What the catalog remembers is what was due, and what the replicas have."""
    runs, agendas = made.service.site.remembered()
    counts = made.service.counts
    counts.update(f"runs {run.outcome}" for run in runs)
    assert [run.number for run in runs] == sorted({run.number for run in runs})
    for vm, replica in made.replicas.items():
        points = points_in(replica)
        counts["points of no run that is done"] += check_points(of(vm, runs), points)
        every = Every(EVERY_S, phase_s(vm, EVERY_S))
        keeping = made.service.keeping[vm]
        counts["due times"] += check_schedule(of(vm, runs), agendas[vm], every, keeping, STARTS_WITHIN_S)
        counts["missed"] += sum(run.missed for run in of(vm, runs) if run.number not in keeping.killed)


def check_contents(made: Fleet, room: Path) -> None:
    """Every point restores to what the disks were at its moment."""
    target = room / "되살린 것"
    for vm, replica in made.replicas.items():

        def restored(number: int, replica: Path = replica) -> dict[str, bytes]:
            assert main(["restore", "--replica", str(replica), "--point", str(number), "--to", str(target)]) == 0
            files = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
            shutil.rmtree(target)
            return files

        points = {point.number: point.time for point in points_in(replica)}
        made.writers[vm].journal.check(points, restored)
        assert main(["verify", "--replica", str(replica)]) == 0
        made.service.counts["points restored"] += len(points)
        made.service.counts["writes"] += len(made.writers[vm].journal.changes)


@pytest.mark.timeout(1200)
def test_three_machines_whose_disks_are_written_all_the_time_lose_nothing_whatever_happens(
    room: Path, record_property: Record
) -> None:
    for what, count in lived_through(1, QUICK, 1, room).items():
        record_property(what, count)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 6))
def test_minutes_of_trouble_lose_nothing(seed: int, room: Path, record_property: Record) -> None:
    for what, count in lived_through(6, [*Trouble], seed, room).items():
        record_property(what, count)


# --- one daemon, and another one ------------------------------------------------------------------------------------


@pytest.fixture
def place(room: Path) -> Iterator[Site]:
    with site(room / "설치") as made:
        yield made


def local_machine(room: Path, name: str, **keys: Any) -> dict[str, Any]:
    """A machine with one disk of its own, replicated to another directory of this host."""
    source = room / f"원본 {name}"
    source.mkdir()
    (room / "사본").mkdir(exist_ok=True)
    make_vhdx(source / "디스크.vhdx", 1)
    replica, keep = str(room / "사본"), {"latest": 100_000}
    return {"source": str(source), "replica": replica, "disks": ["*.vhdx"], "every": "1s", "keep": keep, **keys}


def refused(daemon: Daemon, code: int) -> str:
    """What a daemon says that does not begin; asserts its exit code, and that it is one line."""
    assert daemon.ended()[0] == code
    (line,) = daemon.log.path.read_text().splitlines()
    return line


def test_of_two_daemons_on_one_configuration_the_second_refuses_and_says_who_is_there(place: Site, room: Path) -> None:
    place.write({}, {A: local_machine(room, "가")})
    first = place.ready()
    mark = first.mark()
    said = refused(place.start(), 11)
    assert said.startswith(f"replicad: cannot start a daemon on state_dir {place.state_dir}: one is running already ")
    assert f"(process {first.pid})" in said
    first.wait_for("cycle done", mark, vm=A)
    first.kill()
    third = place.ready()  # what was killed holds nothing
    stopped_well(third, third.terminate())


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("state_dir: {state}\nvirtual_machines:\n  a:\n    source: /a\n    evry: 5m\n", "replicad.yaml:5: "),
        ("virtual_machines: [\n", "replicad.yaml:"),
    ],
    ids=["wrong key", "no YAML"],
)
def test_bad_configuration_at_the_start_is_refused_with_its_line(place: Site, text: str, part: str) -> None:
    place.write_text(text.format(state=place.state_dir))
    daemon = place.start()
    assert daemon.ended()[0] == 2
    said = daemon.log.path.read_text()
    assert part in said
    assert "Traceback" not in said
    assert not place.state_dir.exists()


def test_of_two_daemons_that_keep_one_machine_one_works_and_the_other_says_who_and_takes_over(room: Path) -> None:
    with (
        running_samba() as server,
        relay_to(server.port) as relay,
        site(room / "한 곳") as here,
        site(room / "다른 곳") as there,
    ):
        data = server.share_directory(PLAIN)
        replica = data / "사본" / A
        (data / "원본").mkdir()
        replica.parent.mkdir()
        make_vhdx(data / "원본" / "디스크.vhdx", 1)
        machine = {"source": rf"\\nas\{PLAIN}\원본", "replica": rf"\\nas\{PLAIN}\사본", "every": f"{EVERY_S}s"}
        for place, port in ((here, relay.port), (there, server.port)):
            place.write({"nas": described_server(place.base, "nas", Server(server, port))}, {A: machine})
        stopped = threading.Event()
        first = here.start()

        def stop() -> None:
            os.kill(first.pid, signal.SIGSTOP)  # so that it is at work for as long as it takes us
            stopped.set()

        with relay.watched(Deed(lambda traffic, length: 0 if any(replica.glob("disks/*.initial")) else None, stop)):
            assert stopped.wait(120)
        second = there.start()
        refused = second.wait_for("it is held by", vm=A)
        found = re.search(r"it is held by host (\S+), process (\d+), since 20\d\d-\d\d-\d\dT\S+Z", refused["event"])
        assert found is not None, refused
        assert (found[1], int(found[2])) == (socket.gethostname(), first.pid)
        assert (refused["error"], refused["means"]) == ("LockedError", "transient")
        first.kill()
        assert second.wait_for("cycle done", vm=A)["point"] == 1
        stopped_well(second, second.terminate())
        assert next(run.point for run in there.remembered()[0] if run.point is not None) == 1
        assert check_points(there.remembered()[0], points_in(replica)) == 0
        assert [*here.complaints(), *there.complaints()] == []


# --- signals --------------------------------------------------------------------------------------------------------


def test_hang_up_adds_removes_and_changes_machines_while_a_cycle_of_another_goes_on(place: Site, room: Path) -> None:
    slow = local_machine(room, "가", every="1h", bandwidth="64K")
    changed = local_machine(room, "나")
    place.write({}, {A: slow, B: changed, C: local_machine(room, "다")})
    daemon = place.ready()
    began = daemon.wait_for("cycle began", vm=A)
    for vm in (B, C):
        daemon.wait_for("cycle done", vm=vm)
    added = "새 기계"
    place.write({}, {A: slow, B: {**changed, "every": "2h"}, added: local_machine(room, "라")})
    daemon.hang_up()
    taken = daemon.wait_for("configuration taken")
    assert taken["machines"] == 3
    mark = daemon.log.events().index(taken)
    daemon.wait_for("cycle done", mark, vm=added)
    done = daemon.wait_for("cycle done", vm=A)
    assert done["run"] == began["run"]
    assert daemon.log.events().index(done) > mark, "the cycle was meant to be slow"
    assert not [event for event in daemon.log.events()[mark + 1 :] if event.get("vm") == C]
    stopped_well(daemon, daemon.terminate())
    runs, agendas = place.remembered()
    assert [run.outcome for run in of(A, runs)] == [Outcome.DONE]
    due_at = agendas[B].due_at
    assert due_at == Every(7200, phase_s(B, 7200)).next_after(of(B, runs)[-1].started_at)
    for vm in (B, C, added):
        check_points(of(vm, runs), points_in(room / "사본" / vm))
    assert place.complaints() == []


def test_cycle_of_a_daemon_that_was_killed_is_gone_on_with_at_once_also_after_a_hang_up(
    place: Site, room: Path
) -> None:
    slow = local_machine(room, "가", every="1h", bandwidth="64K")
    place.write({}, {A: slow})
    first = place.ready()
    began = first.wait_for("cycle began", vm=A)
    for every in ("10m", "4m"):  # the agenda is saved in the middle of the cycle, with the due time to come
        place.write({}, {A: {**slow, "every": every}})
        mark = first.mark()
        first.hang_up()
        first.wait_for("configuration taken", mark)
    first.kill()
    due_at = place.remembered()[1][A].due_at
    assert due_at is not None
    assert due_at > moment_of(began)
    place.write({}, {A: {**slow, "every": "4m", "bandwidth": "off"}})
    second = place.ready()
    again = second.wait_for("cycle began", vm=A)
    assert moment_of(again) - moment_of(second.wait_for("ready")) < timedelta(seconds=STARTS_WITHIN_S)
    assert second.wait_for("cycle done", vm=A)["point"] == 1
    stopped_well(second, second.terminate())
    outcomes = [(run.number, run.outcome) for run in place.remembered()[0]]
    assert outcomes == [(began["run"], Outcome.INTERRUPTED), (again["run"], Outcome.DONE)]


def test_pause_outlives_a_while_out_of_the_configuration(place: Site, room: Path) -> None:
    machines = {A: local_machine(room, "가"), B: local_machine(room, "나")}
    place.write({}, machines)
    daemon = place.ready()
    daemon.wait_for("cycle done", vm=A)
    api = ApiOf(place.state_dir / SOCKET)
    api.post(path_of(A, "pause"))
    for there in ({B: machines[B]}, machines):
        place.write({}, there)
        mark = daemon.mark()
        daemon.hang_up()
        daemon.wait_for("configuration taken", mark)
    assert api.get(path_of(A))["state"] == "paused"
    assert not [event for event in daemon.log.events()[mark:] if event.get("vm") == A]
    api.post(path_of(A, "resume"))
    assert daemon.wait_for("cycle done", mark, vm=A)
    stopped_well(daemon, daemon.terminate())
    assert place.remembered()[1][A].left_at is None


@pytest.mark.parametrize("text", ["", "virtual_machines: [", "evry: 5m\n"], ids=["empty", "no YAML", "wrong key"])
def test_bad_file_at_hang_up_changes_nothing_and_is_told_with_its_line(place: Site, room: Path, text: str) -> None:
    place.write({}, {A: local_machine(room, "가")})
    daemon = place.ready()
    place.write_text(text)
    daemon.hang_up()
    told = daemon.wait_for("the configuration stays as it was")
    assert (told["level"], f"{place.config}:" in told["event"]) == ("error", True)
    daemon.wait_for("cycle done", daemon.mark(), vm=A)
    stopped_well(daemon, daemon.terminate())


@contextmanager
def cut_off(room: Path) -> Iterator[tuple[Site, Daemon]]:
    """A daemon whose server says nothing any more, and has not said goodbye, in the middle of a first cycle."""
    with running_samba() as server, relay_to(server.port) as relay, site(room / "설치") as place:
        data = server.share_directory(PLAIN)
        (data / "사본").mkdir()
        machine = {**local_machine(room, "가"), "replica": rf"\\nas\{PLAIN}\사본"}
        place.write({"nas": described_server(place.base, "nas", Server(server, relay.port))}, {A: machine})
        frozen = threading.Event()

        def freeze() -> None:
            relay.freeze()
            frozen.set()

        with relay.watched(Deed(lambda traffic, length: 0 if any(data.glob("사본/*/disks/*")) else None, freeze)):
            daemon = place.start()
            assert frozen.wait(120)
        yield place, daemon


def test_sigterm_ends_it_in_time_when_its_server_is_silent(room: Path) -> None:
    with cut_off(room) as (place, daemon):
        stopped_well(daemon, daemon.terminate())
        (run,) = place.remembered()[0]
        assert run.outcome is Outcome.INTERRUPTED
        assert place.complaints() == []


def test_second_sigterm_ends_it_at_once(room: Path) -> None:
    with cut_off(room) as (_, daemon):
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_until(lambda: {} if daemon.takes_no_sigterm_any_more() else None, "that it stops")
        code, took_s = daemon.terminate()
        assert code == -signal.SIGTERM
        assert took_s < 0.5
