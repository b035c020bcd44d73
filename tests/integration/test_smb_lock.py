"""The lock on a real server: it ends with its holder, however that ends, and with nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from replicad.cli.demo.samba import PrivateSamba
from replicad.model.address import SmbAddress
from replicad.model.errors import LockedError, NotFoundError, UnreachableError
from replicad.service.this_host import this_process_holder
from replicad.storage.holder import decode, encode
from replicad.storage.port import LockHolder, OpenMode
from replicad.storage.processes import start_of_process
from replicad.storage.smb.bundle import Bundle
from replicad.storage.smb.lock import EXTRA_SESSIONS, UNKNOWN_HOLDER, SmbLock, sessions_of
from replicad.storage.smb.share import SmbShare
from tests.support.files import HOLDER, get, pattern, put
from tests.support.samba import (
    ENCRYPTED,
    PLAIN,
    SambaDirectory,
    open_share,
    pids_serving,
    pool_of,
    running_samba,
)
from tests.support.smb_relay import smb_relay

pytestmark = pytest.mark.samba

LOCK = "웹 01/replica.lock"
MIB = 1 << 20
HOLDING = """
import asyncio, sys
from datetime import UTC, datetime
from replicad.model.address import SmbAddress
from replicad.service.this_host import this_process_holder
from replicad.storage.port import OpenMode
from replicad.storage.smb import Endpoint, SmbPool

async def main(host, port, user, share, directory, lock, writing):
    typed = sys.stdin.readline().strip()
    async def password():
        return typed
    pool = SmbPool({"nas": Endpoint("nas", host, int(port), user, password)})
    where = await pool.share(SmbAddress("nas", share, directory))
    held = await where.lock(lock, this_process_holder(datetime.now(UTC)))
    writer = await where.open("disk", OpenMode.WRITE)
    if writing:
        await asyncio.gather(*(write_on(writer, number) for number in range(4)))
    print("held", flush=True)
    await asyncio.sleep(600)

async def write_on(file, number):
    data = b"dead" * (1 << 20)
    rounds = 0
    while True:
        await file.write(data, number * len(data))
        rounds += 1
        if rounds == 3 and number == 0:
            print("held", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - nobody there could set an event
            await asyncio.sleep(0.001)


def me() -> LockHolder:
    return this_process_holder(datetime.now(UTC))


@asynccontextmanager
async def holding_elsewhere(
    samba: SambaDirectory, share: str, port: int = 0, *, writing: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that holds the lock, and has `disk` open for writing or is at it: 16 MiB, again and again."""
    address = samba.address(share)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDING, samba.server.host, str(port or samba.server.port), samba.server.username,
        share, address.path, LOCK, "writing" if writing else "",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(samba.server.password.encode() + b"\n")
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"held\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_lock_is_regained_at_once_after_its_holder_is_killed(samba: SambaDirectory) -> None:
    async with open_share(samba.server, samba.address()) as share:
        await share.make_dir("웹 01")
        await put(share, "disk", b"1")
        async with holding_elsewhere(samba, ENCRYPTED) as process:
            with pytest.raises(
                LockedError, match=rf"cannot lock .*replica\.lock: it is held by host .*process {process.pid}, since 20"
            ):
                await share.lock(LOCK, me())
            process.send_signal(signal.SIGKILL)
            await process.wait()
            async with asyncio.timeout(3), await share.lock(LOCK, me()) as lock:
                await lock.check()


async def test_a_lock_is_taken_over_from_a_dead_process_of_this_host_that_the_server_still_believes_in(
    samba: SambaDirectory,
) -> None:
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address()) as share,
    ):
        await share.make_dir("웹 01")
        await put(share, "disk", b"1")
        async with holding_elsewhere(samba, ENCRYPTED, relay.port) as process:
            relay.freeze()  # from here on the server hears nothing of its client, not even its end
            process.kill()
            await process.wait()
            seen = await share.lock_holder(LOCK)
            assert seen is not None
            assert seen.pid == process.pid
            assert seen.session_id
            stranger = replace(me(), machine_id="another machine")
            with pytest.raises(LockedError, match=f"process {process.pid}, .*If its machine is gone"):
                await share.lock(LOCK, stranger)
            async with asyncio.timeout(5), await share.lock(LOCK, me()) as lock:
                await lock.check()
                # The dead process's other files went with its session: nobody writes the disk any more.
                await (await share.open("disk", OpenMode.HOLD)).close()
                relay.thaw()
                await lock.check()


@pytest.mark.parametrize("share_name", [PLAIN, ENCRYPTED])
async def test_nothing_that_a_dead_process_had_on_its_way_over_any_connection_lands_after_its_lock_was_taken_over(
    samba: SambaDirectory, share_name: str
) -> None:
    ours = pattern(16 * MIB)
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address()) as share,
    ):
        await share.make_dir("웹 01")
        await put(share, "disk", bytes(16 * MIB))
        async with holding_elsewhere(samba, share_name, relay.port, writing=True) as process:
            await until(lambda: all(relay.carried_bytes[number] > MIB for number in (0, 1)))
            relay.freeze(answers=False)
            # Nothing but writes goes over either of them now; how much of one the relay has read is chance.
            await until(lambda: all(relay.held_bytes[number] > 0 for number in (0, 1)))
            process.kill()
            await process.wait()
            async with asyncio.timeout(10), await share.lock(LOCK, me()) as lock:
                async with await share.open("disk", OpenMode.WRITE) as file:
                    await file.write(ours, 0)
                    await file.flush()
                    relay.thaw()
                    await until(lambda: relay.ended == relay.connections == 2)
                    await file.flush()
                await lock.check()
    assert (samba.path / "disk").read_bytes() == ours


@asynccontextmanager
async def holding_on_two_connections(server: PrivateSamba) -> AsyncIterator[tuple[Bundle, int, int]]:
    """Somebody else holds `replica.lock`: the connections, and the processes of the server that serve them."""
    async with open_share(server, SmbAddress("nas", PLAIN)) as share:
        await share.lock("replica.lock", replace(HOLDER, host="elsewhere"))
        bundle = await share.bundle()
        ports = [link.connection.transport._sock.getsockname()[1] for link in bundle.links]
        (main_pid,), (extra_pid,) = (pids_serving(server, [port]) for port in ports)
        assert main_pid != extra_pid
        try:
            yield bundle, main_pid, extra_pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(extra_pid, signal.SIGCONT)


async def test_a_lock_is_not_free_while_a_further_connection_of_its_killed_holder_is_still_served() -> None:
    """What came over that one may not have been written yet."""
    with running_samba() as server:
        async with (
            open_share(server, SmbAddress("nas", PLAIN)) as other,
            holding_on_two_connections(server) as (bundle, main_pid, extra_pid),
        ):
            os.kill(extra_pid, signal.SIGSTOP)
            bundle.discard()  # as the system does to the connections of a process that was killed
            await until(lambda: start_of_process(main_pid) is None)
            with pytest.raises(LockedError):
                await other.lock("replica.lock", HOLDER)
            os.kill(extra_pid, signal.SIGCONT)
            async with asyncio.timeout(10), await other.lock("replica.lock", HOLDER) as lock:
                await lock.check()


async def test_a_lock_is_not_free_while_another_process_of_the_server_than_the_one_that_crashed_serves_its_holder() -> (
    None
):
    with running_samba() as server:
        async with (
            open_share(server, SmbAddress("nas", PLAIN)) as other,
            holding_on_two_connections(server) as (bundle, main_pid, extra_pid),
        ):
            os.kill(extra_pid, signal.SIGSTOP)  # so that it does not hear that its client gives up
            os.kill(main_pid, signal.SIGKILL)
            await until(lambda: bool(bundle.condemned))
            await until(lambda: start_of_process(main_pid) is None)
            assert (server.share_directory(PLAIN) / "replica.lock").exists()
            with pytest.raises(LockedError):
                await other.lock("replica.lock", HOLDER)
            os.kill(extra_pid, signal.SIGCONT)
            async with asyncio.timeout(10), await other.lock("replica.lock", HOLDER) as lock:
                await lock.check()


async def test_a_live_process_of_this_host_keeps_its_lock(samba: SambaDirectory) -> None:
    async with open_share(samba.server, samba.address()) as share:
        await share.make_dir("웹 01")
        await put(share, "disk", b"1")
        async with holding_elsewhere(samba, ENCRYPTED) as process:
            process.send_signal(signal.SIGSTOP)  # alive all the same
            with pytest.raises(LockedError):
                await share.lock(LOCK, me())
            process.send_signal(signal.SIGCONT)
            assert (await share.lock_holder(LOCK)) is not None


async def test_our_own_lock_is_regained_after_our_connection_was_lost_without_the_server_knowing(
    samba: SambaDirectory,
) -> None:
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address(), port=relay.port, timeout_s=1.5) as share,
    ):
        lock = await share.lock("replica.lock", me())
        relay.freeze()
        with pytest.raises(Exception, match="gave no answer"):
            await lock.check()
        relay.thaw_new_connections()
        with pytest.raises(UnreachableError):
            await lock.check()
        await lock.release()
        async with await share.lock("replica.lock", me()) as again:
            await again.check()
            with pytest.raises(LockedError, match="it was given up"):
                await lock.check()
            await lock.release()
            await again.check()


async def test_a_lock_whose_file_was_replaced_is_known_to_be_lost(samba: SambaDirectory) -> None:
    async with (
        open_share(samba.server, samba.address()) as share,
        open_share(samba.server, samba.address()) as other,
        await share.lock("replica.lock", me()) as lock,
    ):
        await lock.check()
        await put(other, "impostor", b"{}")
        await other.rename("impostor", "replica.lock", replace=True)
        with pytest.raises(LockedError, match="the server has taken it away"):
            await lock.check()


async def test_a_lock_whose_file_was_removed_on_the_server_is_known_to_be_lost(samba: SambaDirectory) -> None:
    async with open_share(samba.server, samba.address()) as share, await share.lock("replica.lock", me()) as lock:
        (samba.path / "replica.lock").unlink()
        with pytest.raises(LockedError, match="the server has taken it away"):
            await lock.check()


async def test_a_holder_that_wrote_nothing_is_still_a_holder(samba: SambaDirectory) -> None:
    async with (
        open_share(samba.server, samba.address()) as share,
        open_share(samba.server, samba.address()) as other,
        await share.lock("replica.lock", me()),
    ):
        (samba.path / "replica.lock").write_bytes(b"")
        assert await other.lock_holder("replica.lock") == UNKNOWN_HOLDER
        with pytest.raises(LockedError, match="held by host unknown"):
            await other.lock("replica.lock", me())


@pytest.mark.parametrize("connections", [1, 2, 8])
async def test_the_lock_file_names_the_sessions_so_that_they_can_be_ended(
    samba: SambaDirectory, connections: int
) -> None:
    async with open_share(samba.server, samba.address(), connections=connections) as share:
        holder = me()
        async with await share.lock("replica.lock", holder):
            written = decode((samba.path / "replica.lock").read_bytes())
            assert written is not None
            links = (await share.bundle()).links
            assert len({link.session_id for link in links}) == connections
            assert sessions_of(written) == tuple(link.session_id for link in reversed(links))
            assert written.session_id == links[0].session_id
            assert replace(written, session_id=0, extra=holder.extra) == holder
            assert (EXTRA_SESSIONS in written.extra) == (connections > 1)
        assert not (samba.path / "replica.lock").exists()


async def test_a_forged_lock_file_ends_no_session(samba: SambaDirectory) -> None:
    """Whoever can write on the share can name any session; only one of our own user's would end, and only while the
    file is really held."""
    async with (
        open_share(samba.server, samba.address()) as share,
        open_share(samba.server, samba.address()) as victim,
    ):
        session_id = (await victim.tree()).link.session_id
        (samba.path / "replica.lock").write_bytes(encode(replace(me(), pid=1 << 22, session_id=session_id)))
        async with await share.lock("replica.lock", me()) as lock:
            await lock.check()
        assert await victim.list("") == []
        assert not (await victim.tree()).link.condemned


async def test_a_lock_whose_text_names_sessions_in_a_way_of_its_own_is_never_taken_over(samba: SambaDirectory) -> None:
    async with (
        open_share(samba.server, samba.address()) as share,
        open_share(samba.server, samba.address()) as other,
        await share.lock("replica.lock", me()) as lock,
    ):
        written = decode((samba.path / "replica.lock").read_bytes())
        assert written is not None
        for words in ("0", "-1", "1,2", "x", "18446744073709551616", "1 2 3 4 5 6 7 8"):
            dead = replace(written, pid=1 << 22, extra={**written.extra, EXTRA_SESSIONS: words})
            (samba.path / "replica.lock").write_bytes(encode(dead))
            with pytest.raises(LockedError):
                await other.lock("replica.lock", me())
            await lock.check()


async def test_all_connections_of_a_released_lock_have_given_it_up(samba: SambaDirectory) -> None:
    async with (
        open_share(samba.server, samba.address(), connections=4) as share,
        open_share(samba.server, samba.address()) as other,
    ):
        for _ in range(20):
            await (await share.lock("replica.lock", me())).release()
            assert not (samba.path / "replica.lock").exists()
            await (await other.lock("replica.lock", me())).release()


async def test_taking_a_lock_that_is_cancelled_leaves_nothing_behind(samba: SambaDirectory) -> None:
    async with (
        open_share(samba.server, samba.address(), connections=4) as share,
        open_share(samba.server, samba.address()) as other,
    ):
        await (await share.bundle()).settle()
        for number in range(60):
            task = asyncio.ensure_future(share.lock("replica.lock", me()))
            await asyncio.sleep(0.0003 * number)
            task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(result, SmbLock):
                await result.release()
            await (await other.lock("replica.lock", me())).release()
        assert not list(samba.path.iterdir())


async def test_a_lock_in_a_directory_that_is_not_there_is_not_found(samba: SambaDirectory) -> None:
    async with open_share(samba.server, samba.address()) as share:
        with pytest.raises(NotFoundError):
            await share.lock("없음/replica.lock", me())


@pytest.mark.parametrize(
    "call",
    [
        lambda share: share.rename("a", "b"),
        lambda share: share.remove("a"),
        lambda share: share.make_dir("새로"),
        lambda share: share.flush_directory(""),
        lambda share: share.open("a", OpenMode.WRITE),
        lambda share: share.open("c", OpenMode.CREATE),
        lambda share: share.stat("a"),
        lambda share: share.lock("second.lock", me()),
    ],
    ids=["rename", "remove", "make_dir", "flush_directory", "write", "create", "stat", "lock"],
)
async def test_who_lost_the_lock_with_its_connection_does_nothing_on_a_new_one_before_giving_it_up(
    samba: SambaDirectory, call: Callable[[SmbShare], Awaitable[object]]
) -> None:
    (samba.path / "a").write_bytes(b"theirs by now")
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address(), port=relay.port, connections=2) as share,
        open_share(samba.server, samba.address()) as other,
    ):
        lost = await share.lock("replica.lock", me())
        relay.cut()
        async with asyncio.timeout(10), await locked_when_free(other) as theirs:
            before = sorted((path.name, path.stat().st_mtime_ns) for path in samba.path.iterdir())
            made = relay.connections
            await until(lambda: bool(lost.condemned))
            with pytest.raises(UnreachableError, match="its lock was lost with the connection"):
                await call(share)
            assert sorted((path.name, path.stat().st_mtime_ns) for path in samba.path.iterdir()) == before
            assert relay.connections == made
            await lost.release()
            with pytest.raises(LockedError):
                await share.lock("replica.lock", me())
            await theirs.check()
        async with await share.lock("replica.lock", me()):
            await share.rename("a", "b")


async def locked_when_free(share: SmbShare) -> SmbLock:
    """The lock, as soon as the server has noticed that its holder's connection has ended."""
    while True:
        with contextlib.suppress(LockedError):
            return await share.lock("replica.lock", replace(HOLDER, host="elsewhere"))


async def test_a_source_on_the_same_server_is_read_on_while_the_replicas_lock_is_lost(samba: SambaDirectory) -> None:
    (samba.path / "disk").write_bytes(b"1")
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        pool_of(samba.server, port=relay.port) as pool,
    ):
        replica, source = await pool.share(samba.address()), await pool.share(samba.address())
        lock = await replica.lock("replica.lock", me())
        relay.cut()
        await until(lambda: bool(lock.condemned))
        assert await get(source, "disk") == b"1"  # on a new connection, which both shares have in common
        with pytest.raises(UnreachableError, match="its lock was lost"):
            await replica.remove("disk")
        with pytest.raises(UnreachableError):
            await lock.check()
        await lock.release()
        async with await replica.lock("replica.lock", me()):
            await replica.remove("disk")
