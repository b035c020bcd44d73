"""Processes of one host that replicate to one replica: one writes at a time, and one that was stopped and slept through
the loss of its lock harms nobody when it wakes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from replicad.cli.demo.samba import PrivateSamba
from tests.support.faults import kill_children
from tests.support.installation import VM, Installation, Server, install
from tests.support.machine_model import MIB, FileState, tree_state
from tests.support.processes import other_process
from tests.support.relay import Deed, Relay, after_bytes, relay_to
from tests.support.samba import PLAIN, fresh_directory, running_samba
from tests.support.scene import tree_of

pytestmark = pytest.mark.samba

DISK = "디스크 💾.img"
_PROGRAM = "import sys; from replicad.cli.main import main; sys.exit(main())"
_HOLDING = """
import asyncio, sys
from datetime import UTC, datetime
from replicad.model.address import SmbAddress
from replicad.service.this_host import this_process_holder
from replicad.storage.smb import Endpoint, SmbPool

async def main(host, port, user, secret, share, lock):
    async def password():
        return secret
    pool = SmbPool({"nas": Endpoint("nas", host, int(port), user, password)})
    held = await (await pool.share(SmbAddress("nas", share, ""))).lock(lock, this_process_holder(datetime.now(UTC)))
    print("held", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await held.release()
    await pool.close()

asyncio.run(main(*sys.argv[1:]))
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process its own view of a directory")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code of a command, and what it said on stderr."""
    with process:
        try:
            _, stderr = process.communicate(timeout=200)
        except BaseException:
            process.kill()
            raise
    assert "Traceback" not in stderr, stderr
    return process.returncode, stderr


@contextmanager
def standing_still(process: subprocess.Popen[str]) -> Iterator[None]:
    """It runs, and does nothing meanwhile."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def refused(said: str, pid: int) -> None:
    """It must say who holds the lock, and since when."""
    (sentence,) = [line for line in said.splitlines() if line.startswith("replicad: ")]
    found = re.search(r"it is held by host (\S+), process (\d+), since (20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ)", sentence)
    assert found is not None, sentence
    assert (found[1], int(found[2])) == (socket.gethostname(), pid)


def test_of_two_processes_one_works_and_the_other_says_who_and_since_when(
    room: Path, samba_server: PrivateSamba
) -> None:
    with fresh_directory(samba_server) as directory:
        source = room / "원본"
        source.mkdir()
        (source / DISK).write_bytes(Random(1).randbytes(6 * MIB))
        address, servers = rf"\\nas\{PLAIN}\{directory.path.name}", {"nas": Server(samba_server)}
        slow = install(room / "느린 설치", str(source), address, servers, options={"bandwidth": "2M"})
        other = install(room / "설치", str(source), address, servers)
        working = slow.start("sync")
        _wait_for(lambda: any((directory.path / VM / "disks").glob("*.initial")), working)
        for _ in range(3):
            with standing_still(working):  # however long the others take on this machine
                code, said = ended(other.start("sync"))
            assert code == 11, said
            refused(said, working.pid)
        assert ended(working)[0] == 0
        assert other.run("sync", "--json").facts["point"] == 2


def test_of_many_processes_at_once_each_works_alone_or_is_refused(room: Path, samba_server: PrivateSamba) -> None:
    codes: Counter[int] = Counter()
    with fresh_directory(samba_server) as directory:
        source = room / "원본"
        source.mkdir()
        address, servers = rf"\\nas\{PLAIN}\{directory.path.name}", {"nas": Server(samba_server)}
        made = [install(room / f"설치 {number}", str(source), address, servers) for number in range(4)]
        for seed in range(3):
            (source / DISK).write_bytes(Random(seed).randbytes(2 * MIB))
            processes = [installation.start("sync") for installation in made]
            codes.update(ended(process)[0] for process in processes)
        assert set(codes) <= {0, 11}
        assert codes[0] >= 3
        points = sorted(int(path.name) for path in (directory.path / VM / "points").iterdir())
        assert points == list(range(1, codes[0] + 1))
        made[0].run("verify")
        made[0].run("restore", "--to", str(room / "되살린 것"))
        assert tree_state(room / "되살린 것") == tree_state(source)


def _wait_for(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 60
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def _start_with_source(
    installation: Installation, source: Path, seen_as: Path, *arguments: str
) -> subprocess.Popen[str]:
    """A sync that sees another directory in the place of its source."""
    command = [sys.executable, "-c", _PROGRAM, *installation.arguments("sync", *arguments)]
    return subprocess.Popen(
        ["unshare", "--mount", "--propagation", "slave", "sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"',
         "sh", str(source), str(seen_as), *command],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def _changed(source: Path, seed: int) -> dict[str, FileState]:
    (source / DISK).write_bytes(Random(seed).randbytes(12 * MIB))
    return tree_state(source)


@contextmanager
def other_holder(server: PrivateSamba) -> Iterator[int]:
    """Another process holds the replica's lock meanwhile; its number."""
    where = (server.host, str(server.port), server.username, server.password, PLAIN, f"{VM}/replica.lock")
    with other_process(_HOLDING, *where) as holder:
        assert holder.line() == "held"
        yield holder.pid
        holder.go_on()
        assert holder.process.wait(30) == 0


def _stop_at(relay: Relay, at_bytes: int, process: subprocess.Popen[str]) -> Deed:
    return Deed(after_bytes(at_bytes), lambda: process.send_signal(signal.SIGSTOP))


@pytest.mark.root
@needs_root
@pytest.mark.timeout(300)
@pytest.mark.parametrize("at_mib", [1, 11])
def test_stopped_writer_that_slept_through_the_loss_of_its_lock_harms_nobody(at_mib: int, room: Path) -> None:
    """It is stopped in the middle of its writing, its connections end, and another process commits another state."""
    source, theirs = room / "원본", room / "다른 원본"
    history: dict[int, dict[str, FileState]] = {}
    with running_samba() as server, relay_to(server.port) as relay:
        source.mkdir()
        theirs.mkdir()
        replica = server.share_directory(PLAIN) / VM
        stalled = install(room / "설치 1", str(source), rf"\\nas\{PLAIN}", {"nas": Server(server, relay.port)})
        other = install(room / "설치 2", str(source), rf"\\nas\{PLAIN}", {"nas": Server(server)})
        history[1] = _changed(source, 1)
        stalled.run("sync")
        _changed(source, 2)
        process = stalled.start("sync")
        deed = _stop_at(relay, at_mib * MIB + 65536, process)
        with relay.watched(deed):
            _wait_for(deed.was_done, process)
            relay.freeze()  # what it had sent is still on its way, too
            code, said = ended(other.start("sync"))
            assert code == 11, said
            refused(said, process.pid)  # it is alive, so its lock is its own as long as the server keeps it
            kill_children(server, relay)
            for point in (2, 3):
                history[point] = _changed(theirs, point)
                code, said = ended(_start_with_source(other, theirs, source))
                assert code == 0, said
            before = tree_of(replica)
            relay.thaw()
            # Somebody holds the lock while it wakes, so that it can't rightly begin again.
            with other_holder(server) as holder:
                process.send_signal(signal.SIGCONT)
                code, said = ended(process)
                assert code == 11, said
                refused(said, holder)
            assert tree_of(replica) == before
        for point, state in history.items():
            target = room / f"되살린 것 {point}"
            other.run("restore", "--point", str(point), "--to", str(target))
            assert tree_state(target) == state
        other.run("verify")
        assert stalled.run("sync", "--json").facts["point"] == 4  # as it should have, in its time
