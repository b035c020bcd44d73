"""A pool that is given up waits for no server any more, whatever it waits for just then."""

from __future__ import annotations

import asyncio
import time

import pytest

from replicad.model.address import SmbAddress
from replicad.model.errors import UnreachableError
from replicad.storage.port import OpenMode
from replicad.storage.smb import SmbPool
from tests.support.relay import Deed, after_messages, relay_to
from tests.support.samba import PLAIN, endpoint_of, running_samba

pytestmark = pytest.mark.samba

AT = SmbAddress("nas", PLAIN)
AT_ONCE_S = 5.0
"""Far less than the 30 s that an answer, and the 10 s that a connection is waited for; this machine may be busy."""


async def test_calls_that_wait_for_a_silent_server_end_and_so_does_the_closing() -> None:
    with running_samba() as server, relay_to(server.port) as relay:
        pool = SmbPool({"nas": endpoint_of(server, port=relay.port)})
        share = await pool.share(AT)
        async with await share.open("디스크 💾.vhdx", OpenMode.CREATE) as file:
            await file.write(b"x" * 65536, 0)
        file = await share.open("디스크 💾.vhdx", OpenMode.READ)
        relay.freeze()
        calls = [
            asyncio.create_task(file.read_into(bytearray(65536), 0)), asyncio.create_task(share.list("")),
            asyncio.create_task(file.close()),
        ]  # fmt: skip
        done, _ = await asyncio.wait(calls, timeout=0.5)
        assert done == set(), "nothing can have been answered"
        began_s = time.monotonic()
        pool.give_up()
        pool.give_up()
        for call in calls[:2]:
            with pytest.raises(UnreachableError):
                await call
        await calls[2]  # closing never complains of a lost connection
        with pytest.raises((ValueError, UnreachableError)):
            await share.list("")
        await pool.close()
        assert time.monotonic() - began_s < AT_ONCE_S
        relay.thaw()


@pytest.mark.parametrize(
    "message", [0, 1, 2, 3], ids=["negotiation", "sign-in", "its second round", "opening of the share"]
)
async def test_connection_that_is_being_made_is_not_waited_for(message: int) -> None:
    loop, is_silent = asyncio.get_running_loop(), asyncio.Event()
    with running_samba() as server, relay_to(server.port) as relay:
        pool = SmbPool({"nas": endpoint_of(server, port=relay.port)})

        def fall_silent() -> None:
            relay.freeze()
            loop.call_soon_threadsafe(is_silent.set)

        deed = Deed(after_messages(message), fall_silent)
        with relay.watched(deed):
            connecting = asyncio.create_task(pool.share(AT))
            async with asyncio.timeout(30):
                await is_silent.wait()
            began_s = time.monotonic()
            pool.give_up()
            await asyncio.wait([connecting], timeout=30)
            await pool.close()
            assert time.monotonic() - began_s < AT_ONCE_S
            assert connecting.cancelled() or isinstance(connecting.exception(), UnreachableError)
            with pytest.raises(ValueError, match="the pool is closed"):
                await pool.share(AT)
        relay.thaw()
        assert deed.was_done()
