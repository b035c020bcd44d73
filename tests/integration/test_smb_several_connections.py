"""Several connections to one real server: bulk data go over all of them, everything else over the first one, and what
ends one ends all."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from replicad.cli.demo.samba import SambaShare
from replicad.model.address import SmbAddress
from replicad.model.errors import (
    AccessDeniedError,
    BusyError,
    SignInError,
    TimedOutError,
    TransientError,
    UnreachableError,
)
from replicad.storage.port import CopyRange, OpenMode, ShareFile
from replicad.storage.smb import SmbPool
from replicad.storage.smb.endpoint import MAX_CONNECTIONS
from replicad.storage.smb.lanes import LARGE_BYTES
from replicad.storage.smb.share import SmbShare
from replicad.storage.together import together
from tests.support.files import HOLDER, get, pattern, put
from tests.support.filesystems import as_after_power_failure, mounted
from tests.support.samba import PLAIN, SambaDirectory, closing_pool, endpoint_of, open_share, pool_of, running_samba
from tests.support.smb_relay import SmbRelay, smb_relay

pytestmark = pytest.mark.samba

MIB = 1 << 20
CALL = 4 * MIB
both = pytest.mark.parametrize("encrypted", [False, True], ids=["signed", "encrypted"])


async def write_at_once(file: ShareFile, data: bytes, at_once: int = 4, call_bytes: int = CALL) -> None:
    """All of it, a few calls at a time."""
    view = memoryview(data)

    async def one(offset: int) -> None:
        await file.write(view[offset : offset + call_bytes], offset)

    await together(one, range(0, len(data), call_bytes), at_once)


async def read_at_once(file: ShareFile, length: int, at_once: int = 4, call_bytes: int = CALL) -> bytes:
    """All of it, a few calls at a time."""
    view = memoryview(bytearray(length))

    async def one(offset: int) -> None:
        part = view[offset : offset + call_bytes]
        assert await file.read_into(part, offset) == len(part)

    await together(one, range(0, length, call_bytes), at_once)
    return bytes(view)


async def open_everywhere(share: SmbShare, file: ShareFile) -> None:
    """Have the file opened on every connection. Where it can be written, that changes its beginning."""
    bundle = await share.bundle()
    await bundle.settle()
    count = len(bundle.links)
    try:
        await write_at_once(file, bytes(count * LARGE_BYTES), count, LARGE_BYTES)
    except AccessDeniedError:
        await read_at_once(file, count * LARGE_BYTES, count, LARGE_BYTES)


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that another process or thread does."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - nobody there could set an event
            await asyncio.sleep(0.001)


# --- what goes where --------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("connections", [2, 3, MAX_CONNECTIONS])
async def test_large_calls_are_carried_by_all_connections_and_arrive_as_they_are(
    samba: SambaDirectory, encrypted: bool, connections: int
) -> None:
    length = connections * 2 * CALL
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(
            samba.server, samba.address(), port=relay.port, encryption_required=encrypted, connections=connections
        ) as share,
        await share.open("가상 디스크 🖴", OpenMode.CREATE) as file,
    ):
        await open_everywhere(share, file)
        for seed in (1, 2):
            data = pattern(length, seed)
            relay.carried_bytes.clear()
            await write_at_once(file, data, at_once=2 * connections)
            assert (samba.path / "가상 디스크 🖴").read_bytes() == data
            _are_even(relay, connections, length)
            relay.carried_bytes.clear()
            assert await read_at_once(file, length, at_once=2 * connections) == data
            _are_even(relay, connections, length)
        assert relay.connections == connections


def _are_even(relay: SmbRelay, connections: int, length: int) -> None:
    assert sorted(relay.carried_bytes) == list(range(connections))
    assert all(0.7 < carried / (length / connections) < 1.3 for carried in relay.carried_bytes.values())


async def test_who_makes_one_call_at_a_time_or_small_ones_pays_for_one_sign_in(samba: SambaDirectory) -> None:
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address(), port=relay.port, connections=4) as share,
    ):
        await put(share, "disk", pattern(9 * MIB))
        assert await get(share, "disk") == pattern(9 * MIB)
        await share.make_dir("웹 01")
        await asyncio.gather(*(share.list("") for _ in range(20)), get(share, "disk"))
        async with await share.open("disk", OpenMode.WRITE) as file:
            small = LARGE_BYTES - 1
            await asyncio.gather(*(file.write(bytes(small), number * small) for number in range(20)))
            await asyncio.gather(*(file.read_into(bytearray(small), number * small) for number in range(20)))
        assert await share.lock_holder("replica.lock") is None
        assert (await share.capabilities()).server_copy
        assert relay.connections == 1


async def test_a_lock_is_taken_after_all_sign_ins_and_none_is_made_while_it_is_held(samba: SambaDirectory) -> None:
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address(), port=relay.port, connections=3) as share,
        await share.lock("replica.lock", HOLDER) as lock,
    ):
        assert relay.connections == 3
        async with await share.open("disk", OpenMode.CREATE) as file:
            await write_at_once(file, pattern(8 * CALL), at_once=8)
        async with await share.lock("second.lock", HOLDER) as second:
            await second.check()
        await lock.check()
        assert relay.connections == 3


async def test_small_calls_and_all_else_stay_on_the_first_connection(samba: SambaDirectory) -> None:
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address(), port=relay.port) as share,
        await share.open("disk", OpenMode.CREATE) as file,
    ):
        await write_at_once(file, pattern(4 * CALL))
        await file.flush()
        relay.carried_bytes.clear()
        await asyncio.gather(*(file.write(bytes(4096), 4096 * number) for number in range(64)))
        await file.flush()
        await file.zero(MIB, MIB)
        await file.set_size(64 * MIB)
        await file.copy_from(file, [CopyRange(0, 32 * MIB, 4 * MIB)])
        assert (await file.identity()).size_bytes == 64 * MIB
        assert await file.allocated_extents()
        await share.list("")
        assert list(relay.carried_bytes) == [0]


async def test_reads_of_a_held_disk_keep_writers_out_on_every_connection(samba: SambaDirectory) -> None:
    data = pattern(8 * CALL)
    (samba.path / "disk").write_bytes(data)
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address(), port=relay.port) as share,
        open_share(samba.server, samba.address()) as other,
    ):
        async with await share.open("disk", OpenMode.HOLD) as held:
            await open_everywhere(share, held)
            assert await read_at_once(held, len(data)) == data
            assert relay.carried_bytes[1] > CALL
            with pytest.raises(BusyError):
                await other.open("disk", OpenMode.WRITE)
            async with await other.open("disk", OpenMode.HOLD) as too:
                await read_at_once(too, len(data))
        async with await other.open("disk", OpenMode.WRITE) as file:
            await file.write(b"1", 0)


# --- files that can't be opened on another connection -----------------------------------------------------------------


async def test_a_file_that_was_replaced_by_another_is_written_over_the_first_connection_only(
    samba: SambaDirectory,
) -> None:
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address(), port=relay.port) as share,
        await share.open("disk", OpenMode.CREATE) as file,
    ):
        await share.rename("disk", "old")
        await put(share, "disk", b"another one")
        await write_at_once(file, pattern(4 * CALL))
        assert await read_at_once(file, 4 * CALL) == pattern(4 * CALL)
        assert relay.connections == 2
        assert relay.carried_bytes[1] < CALL
        assert (samba.path / "disk").read_bytes() == b"another one"
        assert (samba.path / "old").read_bytes() == pattern(4 * CALL)
        # Nobody keeps the other one open.
        await (await share.open("disk", OpenMode.HOLD)).close()


async def test_a_file_whose_name_is_gone_is_written_over_the_first_connection_only(samba: SambaDirectory) -> None:
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address(), port=relay.port) as share,
        await share.open("disk", OpenMode.CREATE) as file,
        await share.open("striped", OpenMode.CREATE) as striped,
    ):
        await share.rename("disk", "old")
        await write_at_once(file, pattern(4 * CALL))
        assert relay.carried_bytes[1] < CALL
        assert (samba.path / "old").read_bytes() == pattern(4 * CALL)
        await open_everywhere(share, striped)
        await write_at_once(striped, pattern(4 * CALL))
        assert relay.carried_bytes[1] > CALL


# --- servers that take fewer connections ------------------------------------------------------------------------------


async def test_a_server_that_refuses_a_second_connection_works_with_one_and_is_not_asked_again(
    samba: SambaDirectory,
) -> None:
    warnings: list[str] = []
    data = pattern(8 * CALL)
    async with smb_relay(samba.server.host, samba.server.port) as relay:
        relay.most_connections = 1
        endpoint = endpoint_of(samba.server, port=relay.port, connections=4)
        async with closing_pool(SmbPool({"nas": endpoint}, warnings.append)) as pool:
            share = await pool.share(samba.address())
            async with await share.open("disk", OpenMode.CREATE) as file:
                await write_at_once(file, data)
                async with await share.lock("replica.lock", HOLDER) as lock:
                    await lock.check()
                    holder = await share.lock_holder("replica.lock")
                    assert holder is not None
                    assert holder.extra == HOLDER.extra
                assert await read_at_once(file, len(data)) == data
            assert relay.connections == 2
            assert len(warnings) == 1
            assert warnings[0].startswith(r"Only 1 of 4 connections to \\nas could be made: ")


async def test_a_sign_in_that_is_refused_on_a_further_connection_is_not_tried_again(samba: SambaDirectory) -> None:
    asked: list[int] = []

    async def password() -> str:
        asked.append(1)
        return samba.server.password if len(asked) == 1 else "changed meanwhile"

    warnings: list[str] = []
    async with smb_relay(samba.server.host, samba.server.port) as relay:
        endpoint = endpoint_of(samba.server, port=relay.port, password=password, connections=4)
        async with closing_pool(SmbPool({"nas": endpoint}, warnings.append)) as pool:
            share = await pool.share(samba.address())
            async with await share.open("disk", OpenMode.CREATE) as file:
                await write_at_once(file, pattern(4 * CALL))
                await write_at_once(file, pattern(4 * CALL))
            await (await share.lock("replica.lock", HOLDER)).release()
            assert len(asked) == relay.connections == 2
            assert "the password is wrong" in warnings[0]
            # Nor is it when the first connection is lost within the minute: that would be one wrong password more.
            bundle = await share.bundle()
            relay.cut()
            await until(lambda: relay.ended == 2 and bool(bundle.condemned))
            with pytest.raises(SignInError, match="is wrong"):
                await share.list("")
            assert len(asked) == relay.connections == 2


async def test_another_server_at_the_same_address_is_not_taken_for_a_further_connection(samba: SambaDirectory) -> None:
    with running_samba(settings={"netbios name": "OTHER"}) as other:

        async def password() -> str:
            return passwords.pop(0)

        passwords = [samba.server.password, other.password]
        warnings: list[str] = []
        async with smb_relay(samba.server.host, samba.server.port) as relay:
            endpoint = endpoint_of(samba.server, port=relay.port, password=password)
            async with closing_pool(SmbPool({"nas": endpoint}, warnings.append)) as pool:
                share = await pool.share(samba.address())
                relay.lead_to(other.host, other.port)
                async with await share.open("disk", OpenMode.CREATE) as file:
                    await write_at_once(file, pattern(4 * CALL))
                assert (samba.path / "disk").read_bytes() == pattern(4 * CALL)
                assert warnings == [r"Only 1 of 2 connections to \\nas could be made: another server answers there."]


async def test_making_the_connections_is_taken_up_again_after_it_was_cancelled(samba: SambaDirectory) -> None:
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address(), port=relay.port, connections=3) as share,
    ):
        bundle = await share.bundle()
        for _ in range(20):
            task = asyncio.ensure_future(bundle.settle())
            await asyncio.sleep(0.002)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await bundle.settle()
        assert len(bundle.links) == 3
        assert not bundle.condemned
        async with await share.open("disk", OpenMode.CREATE) as file:
            await write_at_once(file, pattern(4 * CALL))
        assert (samba.path / "disk").read_bytes() == pattern(4 * CALL)


# --- flushing ---------------------------------------------------------------------------------------------------------


def flushes(sent: bytearray) -> int:
    """The FLUSH requests in what a client sent, signed."""
    found = position = 0
    while position < len(sent):
        (length,) = struct.unpack_from(">I", sent, position)
        found += sent[position + 4 : position + 8] == b"\xfeSMB" and sent[position + 16] == 7
        position += 4 + length
    return found


@asynccontextmanager
async def listened_to(
    samba: SambaDirectory,
) -> AsyncIterator[tuple[SmbRelay, SmbShare, ShareFile, dict[int, bytearray]]]:
    """A file that is open on both connections, and what its client has sent over each of them, signed."""
    sent: dict[int, bytearray] = {}

    def listen(data: bytes) -> None:
        sent.setdefault(relay.passing, bytearray()).extend(data)

    async with (
        smb_relay(samba.server.host, samba.server.port, listen=listen) as relay,
        open_share(samba.server, samba.address(), port=relay.port, encryption_required=False) as share,
        await share.open("disk", OpenMode.CREATE) as file,
    ):
        await open_everywhere(share, file)
        yield relay, share, file, sent


async def test_each_handle_that_wrote_is_flushed_once(samba: SambaDirectory) -> None:
    async with listened_to(samba) as (_, share, file, sent):
        assert [flushes(sent[number]) for number in (0, 1)] == [0, 0]
        await file.flush()
        assert [flushes(sent[number]) for number in (0, 1)] == [1, 1]
        await read_at_once(file, 2 * LARGE_BYTES, call_bytes=LARGE_BYTES)
        await file.flush()
        assert [flushes(sent[number]) for number in (0, 1)] == [2, 1]
        await open_everywhere(share, file)
        await file.flush()
        assert [flushes(sent[number]) for number in (0, 1)] == [3, 2]


async def test_a_write_that_ends_after_a_flush_has_begun_is_flushed_by_the_next_one(samba: SambaDirectory) -> None:
    async with listened_to(samba) as (relay, _, file, sent):
        await file.flush()
        relay.carried_bytes.clear()
        async with asyncio.TaskGroup() as group:
            writing = [group.create_task(file.write(bytes(32 * MIB), number * 32 * MIB)) for number in (0, 1)]
            await until(lambda: min(relay.carried_bytes[number] for number in (0, 1)) > MIB)
            assert not any(task.done() for task in writing)
            await file.flush()
        before = [flushes(sent[number]) for number in (0, 1)]
        await file.flush()
        assert [flushes(sent[number]) for number in (0, 1)] == [count + 1 for count in before]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_what_was_written_over_any_connection_survives_a_power_failure_after_a_flush() -> None:
    data = pattern(8 * CALL, 7)
    with mounted("ext4") as disk, running_samba({PLAIN: SambaShare(disk / "share")}) as server:
        async with (
            smb_relay(server.host, server.port) as relay,
            open_share(server, SmbAddress("nas", PLAIN), port=relay.port) as share,
            await share.open("disk", OpenMode.CREATE) as file,
        ):
            await open_everywhere(share, file)
            await write_at_once(file, data)
            assert min(relay.carried_bytes[number] for number in (0, 1)) > 2 * CALL
            await file.flush()
            await share.flush_directory("")
            with as_after_power_failure(disk) as found:
                assert (found / "share" / "disk").read_bytes() == data


# --- what ends one ends all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_when_one_connection_is_lost_nothing_open_is_of_use_any_more_and_all_are_made_anew(
    samba: SambaDirectory, number: int
) -> None:
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address(), port=relay.port, connections=3) as share,
    ):
        file = await share.open("disk", OpenMode.CREATE)
        lock = await share.lock("replica.lock", HOLDER)
        await open_everywhere(share, file)
        links = (await share.bundle()).links
        relay.cut(number)
        await until(lambda: all(link.condemned for link in links))
        assert len({link.condemned for link in links}) == 1
        for call in (file.flush, file.identity, lock.check, lambda: write_at_once(file, pattern(4 * CALL))):
            with pytest.raises(UnreachableError, match=r"the server (closed|reset) the connection\. The next"):
                await call()
        await file.close()
        await lock.release()
        async with await share.lock("replica.lock", HOLDER), await share.open("disk", OpenMode.WRITE) as again:
            await write_at_once(again, pattern(4 * CALL, 2))
            await again.flush()
        assert (samba.path / "disk").read_bytes() == pattern(4 * CALL, 2)


async def test_nothing_that_any_lost_connection_had_on_its_way_lands_after_the_next_ones_were_made(
    samba: SambaDirectory,
) -> None:
    old, new = pattern(8 * CALL, 1), pattern(8 * CALL, 2)
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        open_share(samba.server, samba.address(), port=relay.port, timeout_s=3) as share,
    ):
        file = await share.open("disk", OpenMode.CREATE)
        await open_everywhere(share, file)
        await write_at_once(file, new)
        relay.freeze(answers=False)
        with pytest.raises(TransientError, match=r"gave no answer|took nothing"):
            await write_at_once(file, old)
        # How much of a write the relay had read is chance; that there is one on each is not.
        assert [relay.held_bytes[number] > 0 for number in (0, 1)] == [True, True]
        relay.thaw_new_connections()
        await file.close()
        async with await share.open("disk", OpenMode.WRITE) as again:
            await again.flush()
            relay.thaw()
            await until(lambda: relay.ended >= 2)
            await again.flush()
            assert await read_at_once(again, len(new)) == new


async def test_sessions_that_were_lost_are_ended_though_the_share_was_closed_in_between(samba: SambaDirectory) -> None:
    async with (
        smb_relay(samba.server.host, samba.server.port) as relay,
        pool_of(samba.server, port=relay.port, timeout_s=1.5) as pool,
    ):
        share = await pool.share(samba.address())
        lock = await share.lock("replica.lock", HOLDER)
        relay.freeze()
        with pytest.raises(TimedOutError):
            await lock.check()
        await lock.release()
        await share.close()
        relay.thaw_new_connections()
        again = await pool.share(samba.address())
        async with await again.lock("replica.lock", HOLDER) as regained:
            await regained.check()


async def test_a_closed_pool_has_signed_out_everywhere(samba: SambaDirectory) -> None:
    with running_samba() as server:
        async with smb_relay(server.host, server.port) as relay:
            async with open_share(server, SmbAddress("nas", PLAIN), port=relay.port, connections=4) as share:
                file = await share.open("disk", OpenMode.CREATE)
                lock = await share.lock("replica.lock", HOLDER)
                await open_everywhere(share, file)
                relay.hold_ends()
                del file, lock
            # The server has heard of no connection's end, only that we signed out.
            async with open_share(server, SmbAddress("nas", PLAIN)) as other:
                await (await other.open("disk", OpenMode.HOLD)).close()
                await (await other.lock("replica.lock", replace(HOLDER, pid=1))).release()


# --- cancelled calls --------------------------------------------------------------------------------------------------


async def test_cancelled_calls_leave_no_file_open_on_any_connection(samba: SambaDirectory) -> None:
    data = pattern(4 * CALL)
    async with (
        open_share(samba.server, samba.address(), connections=3) as share,
        open_share(samba.server, samba.address()) as other,
    ):
        await (await share.bundle()).settle()
        for number in range(40):
            async with await share.open(f"disk {number}", OpenMode.CREATE) as file:
                task = asyncio.ensure_future(write_at_once(file, data))
                await asyncio.sleep(0.0004 * number)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await (await other.open(f"disk {number}", OpenMode.HOLD)).close()
        bundle = await share.bundle()
        assert len(bundle.links) == 3
        assert not bundle.condemned
        assert [link.carried_bytes for link in bundle.links] == [0, 0, 0]
