"""Connections that a real server does not notice to be lost: the lock and the holds are had again at once."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from replicad.model.progress import Warned
from replicad.replica.layout import Layout
from replicad.storage.memory import MemoryShare
from replicad.storage.port import Share
from replicad.workflows.verify import verify
from tests.support.samba import ENCRYPTED, SambaDirectory, open_share
from tests.support.smb_relay import SmbRelay, smb_relay
from tests.support.world import CHUNK, VM, World

pytestmark = pytest.mark.samba


class Cable:
    """Freezes the connection under way once so many bytes more went to the server, and lets later ones through."""

    def __init__(self) -> None:
        self.relay: SmbRelay | None = None
        self.times_frozen = 0
        self._left_bytes: int | None = None

    def freeze_after(self, count: int) -> None:
        self._left_bytes = count

    def listen(self, data: bytes) -> None:
        if self.relay is None or self._left_bytes is None:
            return
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            self._left_bytes = None
            self.times_frozen += 1
            self.relay.freeze()
            self.relay.thaw_new_connections()


def _warnings(world: World) -> list[str]:
    return [event.text for event in world.events if isinstance(event, Warned)]


@pytest.mark.parametrize("side", ["replica", "source"])
async def test_a_cycle_whose_connection_freezes_has_its_lock_or_holds_again_at_once(
    samba: SambaDirectory, side: str
) -> None:
    cable = Cable()
    server = samba.server
    async with (
        smb_relay(server.host, server.port, listen=cable.listen) as relay,
        open_share(
            server, samba.address(ENCRYPTED), host=relay.host, port=relay.port, timeout_s=1, slow_timeout_s=2
        ) as share,
    ):
        cable.relay = relay
        with ThreadPoolExecutor(2, "hash") as hashing:
            shares: dict[str, Share] = {"source": MemoryShare(), "replica": MemoryShare(), side: share}
            world = World(shares["source"], shares["replica"], hashing)
            for number in range(2):
                await world.put("디스크 💾.vhd", Random(number).randbytes(160 * CHUNK))
                # Of a source little is asked: the first read, or one of the last.
                cable.freeze_after(40 * CHUNK if side == "replica" else 2500 + 800 * number)
                began_s = asyncio.get_running_loop().time()
                report = await world.sync_with_retries()
                took_s = asyncio.get_running_loop().time() - began_s
                assert cable.times_frozen == number + 1
                assert (report.point.number, report.attempts) == (number + 1, 2)
                assert len([text for text in _warnings(world) if "trying again" in text]) == number + 1
                assert took_s < 20  # the server would keep the lock for hours
            await world.check_all_points()


async def test_a_verification_whose_connection_freezes_goes_on_under_its_lock(samba: SambaDirectory) -> None:
    cable = Cable()
    server = samba.server
    async with (
        smb_relay(server.host, server.port, listen=cable.listen) as relay,
        open_share(
            server, samba.address(ENCRYPTED), host=relay.host, port=relay.port, timeout_s=1, slow_timeout_s=2
        ) as share,
        open_share(server, samba.address(ENCRYPTED)) as outside,
    ):
        cable.relay = relay
        with ThreadPoolExecutor(2, "hash") as hashing:
            world = World(MemoryShare(), share, hashing)
            await world.put("디스크 💾.vhd", Random(1).randbytes(96 * CHUNK))
            await world.sync()
            before = relay.to_server_bytes
            await verify(share, VM, None, world.context())
            cable.freeze_after((relay.to_server_bytes - before) * 3 // 4)
            found = await verify(share, VM, None, world.context())
            assert cable.times_frozen == 1
            assert found.damages == []
            assert len(_warnings(world)) == 2
            assert await outside.lock_holder(Layout(VM).lock) is None
