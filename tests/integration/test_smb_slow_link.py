"""A link so slow that what is under way takes many times the timeout."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from replicad.model.errors import TransientError
from replicad.storage.port import OpenMode
from tests.support.files import pattern
from tests.support.samba import SambaDirectory, open_share
from tests.support.samba import samba as samba
from tests.support.samba import samba_server as samba_server

pytestmark = pytest.mark.samba

MIB = 1 << 20
TIMEOUT_S = 1.0
SLICE_BYTES, SLICE_S = 128 * 1024, 0.08
"""1.6 MiB/s."""


class SlowLink:
    """Carries a slice at a time, each one after a rest, as long as it is not `stuck`."""

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.stuck = False
        self.has_begun = asyncio.Event()
        """Once something large is on its way."""
        self._server_port = server_port
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        with suppress(asyncio.CancelledError, OSError):
            await asyncio.gather(self._carry(reader, server_writer), self._carry(server_reader, writer))
        writer.close()
        server_writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(SLICE_BYTES):
            if self.stuck:
                await asyncio.Event().wait()
            if len(data) > 4096:  # what is small costs no time worth speaking of
                await asyncio.sleep(SLICE_S * len(data) / SLICE_BYTES)
            writer.write(data)
            await writer.drain()
            if len(data) > 4096:
                self.has_begun.set()

    async def end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def slow_link(server_port: int) -> AsyncIterator[SlowLink]:
    link = SlowLink(server_port)
    server = await asyncio.start_server(link.serve, "127.0.0.1", 0, limit=SLICE_BYTES)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        await link.end()


@pytest.mark.parametrize("encrypted", [False, True], ids=["signed", "encrypted"])
async def test_what_a_slow_link_takes_long_for_is_not_given_up(samba: SambaDirectory, encrypted: bool) -> None:
    data = pattern(4 * MIB, 5)
    async with (
        slow_link(samba.server.port) as link,
        open_share(
            samba.server, samba.address(), port=link.port, encryption_required=encrypted, connections=1,
            timeout_s=TIMEOUT_S,
        ) as share,
        await share.open("느린 disk 🐌", OpenMode.CREATE) as file,
    ):  # fmt: skip
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with asyncio.TaskGroup() as group:
            for offset in range(0, len(data), MIB):
                group.create_task(file.write(data[offset : offset + MIB], offset))
            # A small request waits behind all of that.
            group.create_task(file.identity())
        assert loop.time() - began_s > 2 * TIMEOUT_S
        began_s = loop.time()
        buffers = [bytearray(MIB) for _ in range(4)]
        async with asyncio.TaskGroup() as group:
            for number, buffer in enumerate(buffers):
                group.create_task(file.read_into(buffer, number * MIB))
            group.create_task(file.identity())
        assert loop.time() - began_s > 2 * TIMEOUT_S
    assert b"".join(buffers) == data


@pytest.mark.parametrize("op", ["read", "write"])
async def test_a_link_that_gets_stuck_is_given_up_after_the_timeout(samba: SambaDirectory, op: str) -> None:
    async with (
        slow_link(samba.server.port) as link,
        open_share(samba.server, samba.address(), port=link.port, connections=1, timeout_s=TIMEOUT_S) as share,
        await share.open("disk", OpenMode.CREATE) as file,
    ):
        await file.set_size(8 * MIB)
        loop = asyncio.get_running_loop()
        loop.call_later(SLICE_S * 2.5, setattr, link, "stuck", True)
        began_s = loop.time()
        with pytest.raises(TransientError):
            await (file.write(bytes(8 * MIB), 0) if op == "write" else file.read_into(bytearray(8 * MIB), 0))
        assert TIMEOUT_S <= loop.time() - began_s < 3 * TIMEOUT_S


async def test_a_call_that_is_cancelled_on_a_slow_link_does_not_cost_its_connection(samba: SambaDirectory) -> None:
    async with (
        slow_link(samba.server.port) as link,
        open_share(samba.server, samba.address(), port=link.port, connections=1) as share,
        await share.open("disk", OpenMode.CREATE) as file,
    ):
        loop = asyncio.get_running_loop()
        writing = asyncio.create_task(file.write(bytes(6 * MIB), 0))
        await link.has_begun.wait()
        writing.cancel()
        began_s = loop.time()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert loop.time() - began_s > 2  # what the link needed for the rest of the one request
        assert (await file.identity()).size_bytes == 6 * MIB
