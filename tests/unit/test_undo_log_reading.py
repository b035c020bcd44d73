"""Reading undo logs whose batches are long."""

from __future__ import annotations

from random import Random

from replicad.storage.decorated import DecoratedFile, DecoratedShare
from replicad.storage.port import ShareFile
from tests.support.world import CHUNK, memory_world


class _LateFile(DecoratedFile):
    """Lets go of no buffer that it was given, as a thread that filled it may for an instant."""

    def __init__(self, inner: ShareFile, held: list[memoryview]) -> None:
        super().__init__(inner)
        self._held = held

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        self._held.append(memoryview(buffer))
        return await self.inner.read_into(buffer, offset)


class _LateShare(DecoratedShare):
    held: list[memoryview]

    def _wrap(self, file: ShareFile) -> ShareFile:
        return _LateFile(file, self.held)


async def test_point_restores_while_the_share_still_holds_the_buffers_it_filled() -> None:
    async with memory_world() as world:
        share = _LateShare(world.replica)
        share.held = []
        world.replica = share
        # More chunks in a batch than one block of its header can name.
        await world.put("디스크.vhd", Random(1).randbytes(200 * CHUNK))
        await world.sync()
        await world.put("디스크.vhd", Random(2).randbytes(200 * CHUNK))
        await world.sync()
        await world.check_all_points()
        assert share.held
