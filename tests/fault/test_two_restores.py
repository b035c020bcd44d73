"""Two restores into one directory: neither gives the other's bytes a name and says that they are its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from replicad.model.errors import BusyError
from replicad.storage.decorated import DecoratedFile, DecoratedShare
from replicad.storage.local import LocalShare
from replicad.storage.port import Buffer, Share, ShareFile
from replicad.workflows.restore import restore
from tests.support.world import CHUNK, VM, World, memory_world


class _Pausing(DecoratedShare):
    """What writes to it goes on after its first write only when it is told to."""

    def __init__(self, inner: Share) -> None:
        super().__init__(inner)
        self.has_written, self.go_on = asyncio.Event(), asyncio.Event()

    def _wrap(self, file: ShareFile) -> ShareFile:
        return _PausingFile(file, self)


class _PausingFile(DecoratedFile):
    def __init__(self, inner: ShareFile, share: _Pausing) -> None:
        super().__init__(inner)
        self._share = share

    async def write(self, data: Buffer, offset: int) -> None:
        await self.inner.write(data, offset)
        self._share.has_written.set()
        await self._share.go_on.wait()


async def _begun(world: World, target: Path) -> tuple[_Pausing, asyncio.Task[object]]:
    await world.put("disk.vhd", Random(world.seed).randbytes(3 * CHUNK))
    await world.sync()
    share = _Pausing(LocalShare(str(target)))
    task: asyncio.Task[object] = asyncio.create_task(restore(world.replica, VM, None, share, world.context()))
    await share.has_written.wait()
    return share, task


async def test_restore_whose_file_another_one_took_away_does_not_call_that_ones_its_own(tmp_path: Path) -> None:
    async with memory_world(1) as one, memory_world(2) as other:
        first, of_one = await _begun(one, tmp_path)
        second, of_other = await _begun(other, tmp_path)
        first.go_on.set()
        with pytest.raises(BusyError, match="something else has taken the file's place"):
            await of_one
        assert not (tmp_path / "disk.vhd").exists()
        second.go_on.set()
        await of_other
        assert (tmp_path / "disk.vhd").read_bytes() == other.disks["disk.vhd"]
