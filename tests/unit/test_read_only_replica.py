"""Reading a replica where little or nothing may be changed, and where what a dead writer left can't be believed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

import pytest

from replicad.model.errors import AccessDeniedError, IntegrityError, OutOfSpaceError, ReplicadError
from replicad.model.progress import Warned
from replicad.replica.layout import Layout
from replicad.replica.undo_format import UndoHeader, encode_file_header
from replicad.storage.documents import exists
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode
from tests.support.dying import die_after
from tests.support.faulty import FaultyShare
from tests.support.world import CHUNK, VM, World, digests, memory_world

T = TypeVar("T")

LAYOUT = Layout(VM)


class LockOnly(FaultyShare):
    """Lets a lock be taken and given back, and refuses every other change."""

    def __init__(self, inner: MemoryShare, error: ReplicadError) -> None:
        super().__init__(inner)
        self._error = error

    async def change(
        self, what: str, whole: Callable[[], Awaitable[T]], half: Callable[[], Awaitable[object]] | None = None
    ) -> T:
        if not what.startswith(("lock ", "release ")):
            raise self._error
        return await super().change(what, whole, half)


async def _die_at(world: World, step: str) -> MemoryShare:
    """Two points, and a third cycle that died after its first step of that kind."""
    random = Random(1)
    for _ in range(2):
        await world.put("a.vhd", random.randbytes(3 * CHUNK))
        await world.sync()
    await world.put("a.vhd", random.randbytes(3 * CHUNK))
    await die_after(world, step)
    assert isinstance(world.replica, MemoryShare)
    return world.replica


@pytest.mark.parametrize(
    "error", [AccessDeniedError("rename", "it", "access was denied"), OutOfSpaceError("write", "it", "it is full")]
)
@pytest.mark.parametrize(
    ("step", "points"),
    [(f"write {LAYOUT.updating('a.vhd')}", 2), (f"rename {LAYOUT.pending_dir(3)} to ", 3)],
    ids=["writing", "committed"],
)
async def test_what_a_dead_writer_left_is_seen_through_where_it_may_not_be_finished(
    error: ReplicadError, step: str, points: int
) -> None:
    async with memory_world() as world:
        share = await _die_at(world, step)
        world.history[3] = dict(world.disks)
        for number in range(1, points + 1):
            world.replica = LockOnly(share.view(), error)
            assert digests(await world.restored(number)) == digests(world.history[number])
        warned = [event.text for event in world.events if isinstance(event, Warned)]
        assert bool(warned) == (step.startswith("rename"))
        assert all("only seen through" in text for text in warned)


@pytest.mark.parametrize(
    "wrong",
    [{"disk_id": "99" * 16}, {"point": 9}, {"previous_size_bytes": CHUNK}, {"replica_id": "99" * 16}],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_the_log_of_a_dead_cycle_is_believed_only_about_its_own_disk(wrong: dict[str, str | int]) -> None:
    async with memory_world() as world:
        world.replica = share = await _die_at(world, f"write {LAYOUT.updating('a.vhd')}")
        path = LAYOUT.undo(LAYOUT.pending_dir(3), "a.vhd")
        assert await exists(share, path)
        async with await share.open(path, OpenMode.WRITE) as file:
            block = bytearray(4096)
            await file.read_into(block, 0)
            header: dict[str, Any] = {
                "replica_id": block[16:32].hex(), "disk_id": block[32:48].hex(), "point": 3, "chunk_bytes": CHUNK,
                "previous_size_bytes": 3 * CHUNK, **wrong,
            }  # fmt: skip
            await file.write(encode_file_header(UndoHeader(**header)), 0)
        with pytest.raises(IntegrityError, match="belongs to another disk, replica or point"):
            await world.restored(2)
