"""The lock on a real server: it ends with its holder, however that ends, and with nobody else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from replicad.model.errors import LockedError, NotFoundError, UnreachableError
from replicad.service.this_host import this_process_holder
from replicad.storage.holder import decode, encode
from replicad.storage.port import LockHolder, OpenMode
from replicad.storage.smb.lock import UNKNOWN_HOLDER
from tests.support.files import put
from tests.support.samba import ENCRYPTED, SambaDirectory, open_share
from tests.support.smb_relay import smb_relay

pytestmark = pytest.mark.samba

LOCK = "웹 01/replica.lock"
HOLDING = """
import asyncio, sys
from datetime import UTC, datetime
from replicad.model.address import SmbAddress
from replicad.service.this_host import this_process_holder
from replicad.storage.port import OpenMode
from replicad.storage.smb import Endpoint, SmbPool

async def main(host, port, user, share, directory, lock):
    async def password():
        return sys.stdin.readline().strip()
    pool = SmbPool({"nas": Endpoint("nas", host, int(port), user, password)})
    where = await pool.share(SmbAddress("nas", share, directory))
    held = await where.lock(lock, this_process_holder(datetime.now(UTC)))
    writer = await where.open("disk", OpenMode.WRITE)
    print("held", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


def me() -> LockHolder:
    return this_process_holder(datetime.now(UTC))


@asynccontextmanager
async def holding_elsewhere(
    samba: SambaDirectory, share: str, port: int = 0
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that holds the lock, and has `disk` open for writing."""
    address = samba.address(share)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDING, samba.server.host, str(port or samba.server.port), samba.server.username,
        share, address.path, LOCK,
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
        async with await share.lock("replica.lock", me()) as again:
            await again.check()
            with pytest.raises(UnreachableError):
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


async def test_the_lock_file_names_the_session_so_that_it_can_be_ended(samba: SambaDirectory) -> None:
    async with open_share(samba.server, samba.address()) as share:
        holder = me()
        async with await share.lock("replica.lock", holder):
            written = decode((samba.path / "replica.lock").read_bytes())
            assert written == replace(holder, session_id=(await share.tree()).link.session_id)
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


async def test_a_lock_in_a_directory_that_is_not_there_is_not_found(samba: SambaDirectory) -> None:
    async with open_share(samba.server, samba.address()) as share:
        with pytest.raises(NotFoundError):
            await share.lock("없음/replica.lock", me())
