"""A connection that is lost, silent, tampered with or crowded: nothing hangs, and nothing untrue is believed."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from random import Random

import pytest

from replicad.cli.demo.samba import PrivateSamba
from replicad.model.address import SmbAddress
from replicad.model.errors import ReplicadError, TimedOutError, TransientError, UnreachableError
from replicad.storage.port import OpenMode, Share, ShareFile
from replicad.storage.smb.connection import CREDIT_TARGET
from replicad.storage.smb.file import SmbFile
from replicad.storage.smb.link import THREADS
from replicad.storage.smb.lock import SmbLock
from tests.support.files import HOLDER, get, names, pattern, put
from tests.support.samba import ENCRYPTED, PLAIN, SambaDirectory, open_share, running_samba
from tests.support.smb_relay import smb_relay

pytestmark = pytest.mark.samba

MIB = 1024 * 1024
ADDRESS = SmbAddress("nas", PLAIN)


def tell_all(server: PrivateSamba, number: signal.Signals) -> None:
    for pid in server.pids():  # the first one first, so that it starts no others meanwhile
        with suppress(ProcessLookupError):  # one that served a connection that has just ended
            os.kill(pid, number)


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that another process or thread does."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - nobody there could set an event
            await asyncio.sleep(0.001)


# --- a server that says nothing --------------------------------------------------------------------------------------


async def test_a_stopped_server_times_out_every_call_and_is_used_again_once_it_goes_on() -> None:
    with running_samba() as server:
        async with open_share(server, ADDRESS, timeout_s=1, slow_timeout_s=1.2) as share:
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: get(share, "disk"),
                lambda: put(share, "new", bytes(8 * MIB)),
                lambda: share.list(""),
                lambda: share.lock("lock", HOLDER),
                lambda: share.flush_directory(""),
            ]
            for call in calls:
                await share.make_dir("")  # signed in and idle
                file = await _open_anew(share, "disk")
                tell_all(server, signal.SIGSTOP)
                began_s = time.monotonic()
                with pytest.raises(TimedOutError, match=r"gave no answer for [1-9.]+ s|took nothing for 1 s"):
                    await call()
                with pytest.raises(UnreachableError, match=r"gave no answer|took nothing"):
                    await file.flush()
                await file.close()
                assert time.monotonic() - began_s < 10
                tell_all(server, signal.SIGCONT)
            assert await names(share)


async def _open_anew(share: Share, path: str) -> ShareFile:
    try:
        return await share.open(path, OpenMode.WRITE)
    except ReplicadError:
        return await share.open(path, OpenMode.CREATE)


async def test_connecting_to_a_stopped_server_times_out() -> None:
    with running_samba() as server:
        tell_all(server, signal.SIGSTOP)
        # On a crowded machine it may already be the connection that takes longer than the second it has.
        with pytest.raises(TimedOutError, match=r"no answer (for|within) 1(\.\d)? s"):
            async with open_share(server, ADDRESS, connect_timeout_s=1):
                pass


async def test_a_server_that_stops_in_the_middle_of_large_writes_times_them_out() -> None:
    with running_samba() as server:
        async with open_share(server, ADDRESS, timeout_s=1) as share:
            async with await share.open("disk", OpenMode.CREATE) as file:
                data = pattern(16 * MIB)
                writes = [asyncio.ensure_future(file.write(data, index * 16 * MIB)) for index in range(8)]
                await until(lambda: (server.share_directory(PLAIN) / "disk").stat().st_size > 0)
                tell_all(server, signal.SIGSTOP)
                async with asyncio.timeout(5):
                    results = await asyncio.gather(*writes, return_exceptions=True)
                assert any(isinstance(one, TransientError) for one in results)
                assert all(one is None or isinstance(one, TransientError) for one in results)
            tell_all(server, signal.SIGCONT)


# --- a server that goes away -----------------------------------------------------------------------------------------


async def test_a_server_killed_in_the_middle_of_writes_fails_them_and_is_used_again_after_its_restart() -> None:
    with running_samba() as server:
        async with open_share(server, ADDRESS) as share:
            await put(share, "kept", b"kept")
            file = await share.open("disk", OpenMode.CREATE)
            lock = await share.lock("replica.lock", HOLDER)
            writes = [asyncio.ensure_future(file.write(pattern(16 * MIB), n * 16 * MIB)) for n in range(4)]
            await until(lambda: (server.share_directory(PLAIN) / "disk").stat().st_size > 0)
            server.kill()
            results = await asyncio.gather(*writes, return_exceptions=True)
            assert any(isinstance(one, UnreachableError) for one in results)
            for call in (file.flush, lock.check, file.identity):
                with pytest.raises(UnreachableError, match=r"the server (closed|reset) the connection\. The next"):
                    await call()
            await lock.release()  # before that nothing is done on a new connection
            with pytest.raises(UnreachableError, match="the port is closed"):
                await share.list("")
            server.restart()
            assert await get(share, "kept") == b"kept"
            with pytest.raises(UnreachableError):
                await file.write(b"late", 0)
            await file.close()
            await lock.release()
            async with await share.lock("replica.lock", HOLDER) as again:
                await again.check()


async def test_an_idle_connection_that_was_dropped_is_made_anew_without_an_error() -> None:
    with running_samba() as server:
        async with open_share(server, ADDRESS) as share:
            await put(share, "disk", b"1")
            link = (await share.tree()).link
            server.restart()
            await until(lambda: bool(link.condemned))
            assert await get(share, "disk") == b"1"


async def test_a_reset_connection_is_told_as_one(samba: SambaDirectory) -> None:
    async with smb_relay(samba.server.host, samba.server.port) as relay:
        async with open_share(samba.server, samba.address(), port=relay.port) as share:
            file = await share.open("disk", OpenMode.CREATE)
            relay.cut()
            with pytest.raises(UnreachableError, match=r"the server (closed|reset) the connection"):
                await file.write(b"1", 0)
            await file.close()
            assert await names(share) == ["disk"]
        assert relay.connections == 2


async def test_what_a_lost_connection_still_had_on_its_way_never_lands_after_the_next_one(
    samba: SambaDirectory,
) -> None:
    async with smb_relay(samba.server.host, samba.server.port) as relay:
        endpoint = {"port": relay.port, "timeout_s": 1.5}
        async with open_share(samba.server, samba.address(), **endpoint) as share:
            file = await share.open("disk", OpenMode.CREATE)
            await file.write(b"old", 0)
            relay.freeze()
            with pytest.raises(TimedOutError):
                await file.write(b"bad", 0)
            relay.thaw_new_connections()
            await file.close()
            async with await share.open("disk", OpenMode.WRITE) as again:
                await again.write(b"new", 0)
                relay.thaw()
                await until(lambda: relay.ended == 1)
                await again.flush()
            assert await get(share, "disk") == b"new"


# --- answers that are not what they should be ------------------------------------------------------------------------


def _is_smb(message: bytes) -> bool:
    return message[:4] == b"\xfeSMB"


def _command(message: bytes) -> int:
    return int(struct.unpack_from("<H", message, 12)[0])


def unsigned(message: bytes) -> bytes:
    """What somebody between would do who wants to change an answer."""
    if not _is_smb(message) or _command(message) in (0, 1):
        return message
    flags = struct.unpack_from("<I", message, 16)[0] & ~0x8
    return message[:16] + struct.pack("<I", flags) + message[20:48] + bytes(16) + message[64:]


def changed(message: bytes) -> bytes:
    return message[:-1] + bytes([message[-1] ^ 1]) if _is_smb(message) and _command(message) > 1 else message


def disguised(message: bytes) -> bytes:
    """An unsigned answer that claims to be one to a sign-in, which needs no signature."""
    bare = unsigned(message)
    return bare if bare == message else bare[:12] + struct.pack("<H", 1) + bare[14:]


def damaged(message: bytes) -> bytes:
    return message[:-1] + bytes([message[-1] ^ 1]) if message[:4] == b"\xfdSMB" else message


def forged(message: bytes) -> bytes:
    """A success in plain text, in place of an encrypted answer."""
    if message[:4] != b"\xfdSMB":
        return message
    return struct.pack("<4sHHIHHIIQIIQ16s", b"\xfeSMB", 64, 1, 0, 5, 1, 1, 0, 5, 0, 0, 0, bytes(16)) + bytes(89)


@pytest.mark.parametrize(
    ("tamper", "encrypted", "clause"),
    [
        (unsigned, False, "an answer came unsigned"),
        (changed, False, "the signature of an answer is wrong"),
        (disguised, False, "an answer does not belong to its request"),
        (damaged, True, "an answer can't be decrypted"),
        (forged, True, "an answer came unencrypted|something that can't be understood|does not belong"),
    ],
)
async def test_an_answer_that_is_not_protected_ends_the_connection(
    samba: SambaDirectory, tamper: Callable[[bytes], bytes], encrypted: bool, clause: str
) -> None:
    async with smb_relay(samba.server.host, samba.server.port, tamper) as relay:
        with pytest.raises(UnreachableError, match=clause):
            async with open_share(
                samba.server, samba.address(), port=relay.port, encryption_required=encrypted
            ) as share:
                await share.list("")


async def test_a_share_of_a_signed_session_that_is_encrypted_takes_no_plain_answer(samba: SambaDirectory) -> None:
    tampering = False
    plain: list[bytes] = []

    def replay(message: bytes) -> bytes:
        """Put an earlier, rightly signed plain answer in place of an encrypted one."""
        if _is_smb(message):
            plain.append(message)
        elif tampering:
            create = struct.pack("<H", 5)
            return plain[-1][:12] + create + plain[-1][14:24] + struct.pack("<Q", last_id[0]) + plain[-1][32:]
        return message

    last_id = [0]
    async with (
        smb_relay(samba.server.host, samba.server.port, replay) as relay,
        open_share(samba.server, samba.address(ENCRYPTED), port=relay.port, encryption_required=False) as share,
    ):
        await share.list("")
        last_id[0] = (await share.tree()).link.connection.sequence_window["low"]
        tampering = True
        with pytest.raises(UnreachableError, match=r"the signature of an answer is wrong|came unencrypted"):
            await share.list("")


async def test_an_oplock_break_that_nobody_asked_for_does_not_end_the_connection(samba: SambaDirectory) -> None:
    brake = struct.pack("<4sHHIHHIIQIIQ16s", b"\xfeSMB", 64, 0, 0, 18, 0, 1, 0, (1 << 64) - 1, 0, 0, 0, bytes(16))
    brake += struct.pack("<HBB4x16s", 24, 1, 0, bytes(16))
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address(), port=relay.port, encryption_required=False) as share,
    ):
        await relay.inject(brake)
        await put(share, "disk", pattern(3 * MIB))
        assert await get(share, "disk") == pattern(3 * MIB)
        assert relay.connections == 1


# --- a crowd, and cancelled calls ------------------------------------------------------------------------------------


@pytest.mark.parametrize("most_credits", [2, 17, 8192])
async def test_many_calls_share_however_few_credits_the_server_grants(most_credits: int) -> None:
    with running_samba(settings={"smb2 max credits": str(most_credits)}) as server:
        async with open_share(server, ADDRESS) as share:

            async def one(index: int) -> None:
                await put(share, f"{index}", pattern(3 * MIB, index))
                assert await get(share, f"{index}") == pattern(3 * MIB, index)

            async with asyncio.TaskGroup() as tasks:
                for index in range(12):
                    tasks.create_task(one(index))
            assert len(await share.list("")) == 12


async def test_cancelled_calls_leak_no_credit_and_no_open_file(samba: SambaDirectory) -> None:
    luck = Random(5)
    async with open_share(samba.server, samba.address(), encryption_required=False) as share:
        link = (await share.tree()).link
        async with await share.open("disk", OpenMode.CREATE) as file:
            for index in range(120):
                work: list[Callable[[], Awaitable[object]]] = [
                    lambda: file.write(bytes(5 * MIB), 0),
                    lambda: file.read_into(bytearray(5 * MIB), 0),
                    lambda: share.open("disk", OpenMode.READ),
                    lambda: share.list(""),
                    lambda: share.lock("replica.lock", HOLDER),
                    partial(share.open, f"new {index}", OpenMode.CREATE),
                ]
                task = asyncio.ensure_future(luck.choice(work)())
                await asyncio.sleep(luck.random() * 0.004)
                task.cancel()
                (result,) = await asyncio.gather(task, return_exceptions=True)
                match result:  # it may have been quicker
                    case SmbFile():
                        await result.close()
                    case SmbLock():
                        await result.release()
        assert not link.condemned
        assert link.connection.sequence_window.available >= CREDIT_TARGET - 1
        assert not link.connection.outstanding_requests
        for entry in await share.list(""):
            await share.remove(entry.name)
        # A file that somebody still had open would stay, waiting for its deletion.
        assert await share.list("") == []
        assert not list(samba.path.iterdir())


async def test_a_file_and_a_lock_are_given_back_though_that_is_cancelled_before_it_begins(
    samba: SambaDirectory,
) -> None:
    async with open_share(samba.server, samba.address()) as share, open_share(samba.server, samba.address()) as other:
        link = (await share.tree()).link
        file = await share.open("disk", OpenMode.CREATE)
        lock = await share.lock("replica.lock", HOLDER)
        gate = threading.Event()
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            for _ in range(THREADS):  # no thread is free
                tasks.create_task(link.run("wait", "nobody", lambda job: gate.wait(20)))
            await asyncio.sleep(0)
            given_back = [asyncio.ensure_future(file.close()), asyncio.ensure_future(lock.release())]
            for _ in range(3):
                await asyncio.sleep(0)
            for task in given_back:
                task.cancel()
            await asyncio.sleep(0)
            gate.set()
            results = await asyncio.gather(*given_back, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError, asyncio.CancelledError]
        await (await other.open("disk", OpenMode.HOLD)).close()
        await (await other.lock("replica.lock", HOLDER)).release()
        await other.remove("disk")
        assert not list(samba.path.iterdir())


async def test_a_cancelled_call_on_a_silent_server_returns_in_seconds_and_gives_the_connection_up() -> None:
    with running_samba() as server:
        async with open_share(server, ADDRESS) as share:
            file = await share.open("disk", OpenMode.CREATE)
            tell_all(server, signal.SIGSTOP)
            began_s = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await file.write(bytes(4 * MIB), 0)
            assert time.monotonic() - began_s < 10
            with pytest.raises(UnreachableError, match="a call on it was cancelled and the server did not answer"):
                await file.flush()
            await file.close()
            tell_all(server, signal.SIGCONT)


async def test_a_closed_pool_leaves_no_thread(samba: SambaDirectory) -> None:
    async with open_share(samba.server, samba.address()) as share:
        await put(share, "disk", bytes(4 * MIB))
        assert _threads()
    await until(lambda: not _threads())


def _threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith(("smb-nas", "msg_worker"))]
