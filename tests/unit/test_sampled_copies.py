"""What a server copies by itself, where a sample of that is proof enough."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

from replicad.model.changes import ChangeSet, Outside
from replicad.model.extents import Extent
from replicad.model.points import Provenance
from replicad.storage.decorated import DecoratedFile
from replicad.storage.memory import MemoryShare
from replicad.storage.port import CopyRange, OpenMode, ShareFile
from replicad.workflows.move_transfer import FileTransfer
from tests.support.moving import Moving
from tests.support.world import CHUNK

_SIZE = 500 * CHUNK


class _Counting(DecoratedFile):
    """Counts what is read."""

    read_bytes = 0

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        count = await self.inner.read_into(buffer, offset)
        self.read_bytes += count
        return count


class _Bad(DecoratedFile):
    """Copies, and gets some bytes wrong."""

    async def copy_from(self, source: ShareFile, ranges: Sequence[CopyRange]) -> None:
        await self.inner.copy_from(source, ranges)
        for number in range(0, _SIZE // CHUNK, 3):
            await self.inner.write(b"wrong", number * CHUNK + 7)


@asynccontextmanager
async def _pair() -> AsyncIterator[tuple[_Counting, ShareFile]]:
    share = MemoryShare("나스")
    async with await share.open("원본.vhdx", OpenMode.CREATE) as file:
        await file.set_size(_SIZE)
        random = Random(4)
        for number in range(_SIZE // CHUNK):
            await file.write(random.randbytes(600), number * CHUNK)
        async with await share.open("사본 💾.vhdx", OpenMode.CREATE) as target:
            yield _Counting(file), target


def _transfer(target: ShareFile) -> FileTransfer:
    _, _, ctx = Moving().life()
    return FileTransfer(target, "사본 💾.vhdx", 5, ctx)


async def _bytes(file: ShareFile) -> bytes:
    buffer = bytearray(_SIZE)
    assert await file.read_into(buffer, 0) == _SIZE
    return bytes(buffer)


_ALL = [Extent(0, _SIZE)]


async def test_only_a_sample_is_read_and_what_is_written_later_is_sent() -> None:
    async with _pair() as (source, target):
        transfer = _transfer(target)
        assert await transfer.copy_by_server(source, _SIZE, _ALL)
        looked_at = await transfer.compare(source, _SIZE, _ALL)
        assert looked_at == source.read_bytes
        assert 64 * CHUNK <= looked_at <= 66 * CHUNK
        assert transfer.is_known
        assert transfer.is_sampled
        written = [Extent(number * CHUNK, CHUNK) for number in (0, 17, 250, 499)]
        for extent in written:
            await source.write(b"after", extent.offset_bytes + 100)
        changes = ChangeSet(tuple(written), Outside.UNCHANGED, Provenance.DIRTY_BITMAP)
        await transfer.copy(source, _SIZE, changes)
        await transfer.verify()
        assert await _bytes(target) == await _bytes(source)


async def test_what_differs_in_the_sample_leaves_nothing_believed() -> None:
    async with _pair() as (source, target):
        transfer = _transfer(_Bad(target))
        assert await transfer.copy_by_server(source, _SIZE, _ALL)
        assert await transfer.compare(source, _SIZE, _ALL) is None
        assert not transfer.is_known
        assert not transfer.is_sampled
        await transfer.learn()
        await transfer.copy(source, _SIZE, ChangeSet(tuple(_ALL), Outside.ZEROS, Provenance.FULL_SCAN))
        assert await _bytes(target) == await _bytes(source)


async def test_a_file_that_was_read_back_whole_later_is_not_sampled_any_more() -> None:
    async with _pair() as (source, target):
        transfer = _transfer(target)
        await transfer.copy_by_server(source, _SIZE, _ALL)
        await transfer.compare(source, _SIZE, _ALL)
        await transfer.learn()
        assert not transfer.is_sampled
