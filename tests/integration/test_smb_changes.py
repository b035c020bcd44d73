"""What a real server tells of changes: made by other clients, and behind its back; through lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from replicad.cli.demo.samba import PrivateSamba
from replicad.model.address import SmbAddress
from replicad.model.errors import ReplicadError
from replicad.storage.port import OpenMode
from replicad.storage.smb.changes import SmbChanges
from tests.support.samba import PLAIN, open_share, pool_of, running_samba

pytestmark = pytest.mark.samba

SOON_S = 30.0
NAME = "안/디스크 💾.vhdx"


@asynccontextmanager
async def _hints(server: PrivateSamba) -> AsyncIterator[tuple[SmbChanges, SmbAddress, Path]]:
    """Hints of a directory, which listen."""
    directory = server.share_directory(PLAIN) / "원본"
    (directory / "안").mkdir(parents=True, exist_ok=True)
    address = SmbAddress("nas", PLAIN, "원본")
    async with pool_of(server) as pool:
        hints = SmbChanges(pool, address)
        try:
            assert await hints.wait(0) is None
            yield hints, address, directory
        finally:
            await hints.close()


async def _told_of(hints: SmbChanges, path: str) -> None:
    """Until it is told that this has changed."""
    async with asyncio.timeout(SOON_S):
        while True:
            found = await hints.wait(SOON_S)
            assert found is not None, "nothing was told"
            if path in found or not found:
                return


async def test_changes_by_another_client_are_told_with_their_names() -> None:
    with running_samba() as server:
        async with _hints(server) as (hints, address, _), open_share(server, address) as other:
            async with await other.open(NAME, OpenMode.CREATE) as file:
                await _told_of(hints, NAME)
                await file.write(b"x" * 4096, 0)
                await file.flush()
            await _told_of(hints, NAME)
            await other.rename(NAME, "b.vhdx")
            await _told_of(hints, "b.vhdx")
            buffer = bytearray(4096)
            async with await other.open("b.vhdx", OpenMode.READ) as file:
                await file.read_into(buffer, 0)
            while (found := await hints.wait(1.0)) is not None:
                assert found  # what was written before; to read is no change


async def test_changes_on_the_servers_own_disk_are_told() -> None:
    with running_samba(settings={"kernel change notify": "yes"}) as server:
        async with _hints(server) as (hints, address, directory), open_share(server, address) as other:
            for name in ("c.vhdx", NAME):
                async with await other.open(name, OpenMode.CREATE):
                    await _told_of(hints, name)  # from now on the server listens, too: it begins to a little later
                while await hints.wait(0.5) is not None:
                    pass
                with (directory / name).open("r+b") as file:
                    file.write(b"1")
                    file.flush()
                    await _told_of(hints, name)


async def test_more_changes_than_an_answer_holds_mean_that_anything_changed() -> None:
    with running_samba() as server:
        async with _hints(server) as (hints, address, _), open_share(server, address) as other:
            for number in range(600):
                async with await other.open(f"{number:04} {'가' * 60}.vhdx", OpenMode.CREATE):
                    pass
            async with asyncio.timeout(SOON_S):
                while (found := await hints.wait(SOON_S)) is not None and found:
                    pass
            assert found == frozenset()


async def test_after_a_lost_connection_anything_may_have_changed() -> None:
    with running_samba() as server:
        async with _hints(server) as (hints, address, _):
            server.restart()
            assert await hints.wait(SOON_S) == frozenset()
            waiting = asyncio.create_task(hints.wait(SOON_S))
            await asyncio.sleep(0)
            server.restart()
            with pytest.raises(ReplicadError):
                await waiting
            assert await hints.wait(SOON_S) == frozenset()
            async with open_share(server, address) as other, await other.open(NAME, OpenMode.CREATE):
                await _told_of(hints, NAME)


async def test_waiting_can_be_cancelled_and_gone_on_with() -> None:
    with running_samba() as server:
        async with _hints(server) as (hints, address, _), open_share(server, address) as other:
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await hints.wait(SOON_S)
            async with await other.open(NAME, OpenMode.CREATE):
                await _told_of(hints, NAME)
