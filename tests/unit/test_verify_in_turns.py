"""A verification that is broken off again and again, with cycles in between: nothing is missed, nothing read twice."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest

from replicad.model.names import join
from replicad.replica.layout import Layout
from replicad.storage.memory import MemoryFile, MemoryShare
from replicad.storage.port import OpenMode, Share
from replicad.workflows import scan, undo_check
from replicad.workflows.covered import Covered, FileCover
from replicad.workflows.damage import Part, Verification
from replicad.workflows.repair import verify_and_repair
from replicad.workflows.verify import verify
from tests.support.world import CHUNK, VM, World, digests, memory_world, read_tree

DISK, GONE = "웹 disk 💾.vhd", "gone.vhd"


@contextmanager
def small_pieces() -> Iterator[None]:
    """Verifying a chunk at a time, so that small disks take many steps. (A cycle needs larger pieces.)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_BLOCK_BYTES", CHUNK)
        patch.setattr(undo_check, "RUN_BYTES", CHUNK)
        yield


async def _flip(share: Share, path: str, offset: int) -> None:
    async with await share.open(path, OpenMode.WRITE) as file:
        buffer = bytearray(1)
        await file.read_into(buffer, offset)
        await file.write(bytes([buffer[0] ^ 4]), offset)


async def _points(world: World, random: Random) -> None:
    data = random.randbytes(12 * CHUNK)
    await world.put(DISK, data)
    await world.put(GONE, random.randbytes(5 * CHUNK))
    await world.sync()
    await world.put(DISK, random.randbytes(8 * CHUNK) + data[8 * CHUNK :])
    await world.drop(GONE)
    await world.sync()


async def _turn(world: World, covered: Covered, steps: int) -> Verification | None:
    """Verify, and break it off when it has got on by so many steps; None then."""
    return await _broken_off(verify(world.replica, VM, None, world.context(), covered), covered, steps)


async def _broken_off(work: Coroutine[Any, Any, Verification], covered: Covered, steps: int) -> Verification | None:
    with small_pieces():
        task = asyncio.create_task(work)
        enough = covered.steps + steps
        while not task.done() and (covered.is_mending or covered.steps < enough):  # noqa: ASYNC110 - turn by turn
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    return None if task.cancelled() else task.result()


async def _in_turns(world: World, steps: int, between: Random | None = None) -> tuple[Verification, int]:
    """The result, and how many turns it took; with `between` there is a cycle after each of them."""
    covered, turns = Covered(), 1
    while (found := await _turn(world, covered, steps)) is None:
        turns += 1
        assert turns < 200
        if between is not None:
            data = bytearray(world.disks[DISK])
            place = between.randrange(len(data))
            data[place] ^= 1
            await world.put(DISK, bytes(data))
            await world.sync()
    return found, turns


async def test_turns_find_what_one_verification_finds_and_read_no_more() -> None:
    async with memory_world() as world:
        await _points(world, Random(5))
        whole = await verify(world.replica, VM, None, world.context())
        found, turns = await _in_turns(world, 2)
        assert turns > 3
        assert (found.damages, found.points, found.read_bytes) == ([], [1, 2], whole.read_bytes)


async def test_pieces_that_were_read_and_sound_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with memory_world() as world:
        await _points(world, Random(6))
        path, read = join(VM, "disks", DISK), []
        inner = MemoryFile.read_into

        async def counted(self: MemoryFile, buffer: bytearray | memoryview, offset: int) -> int:
            if self.path == path and len(buffer) == CHUNK:
                read.append(offset // CHUNK)
            return await inner(self, buffer, offset)

        monkeypatch.setattr(MemoryFile, "read_into", counted)
        assert isinstance(world.replica, MemoryShare)
        _, turns = await _in_turns(world, 4)
        assert turns > 3
        # Blocks that were on their way when a turn was broken off are read once more, and no others.
        assert set(read) == set(range(12))
        assert len(read) <= 12 + 2 * turns


@pytest.mark.parametrize("seed", range(3))
async def test_with_cycles_in_between_every_flipped_byte_is_found_and_nothing_else(seed: int) -> None:
    random = Random(seed)
    async with memory_world(seed) as world:
        await _points(world, random)
        sound, turns = await _in_turns(world, 3, Random(seed))
        assert (sound.damages, turns > 5) == ([], True)
        layout = Layout(VM)
        undo = layout.undo(layout.point_dir(2), DISK)
        for path, offset in ((layout.disk(DISK), CHUNK * random.randrange(12) + 7), (undo, 4096 + 3 * CHUNK)):
            await _flip(world.replica, path, offset)
            found, _ = await _in_turns(world, 3)
            assert [damage.file for damage in found.damages] == [path]
            await _flip(world.replica, path, offset)


async def test_damage_of_an_earlier_turn_is_told_in_the_end_and_not_if_it_is_gone_by_then() -> None:
    async with memory_world() as world:
        await _points(world, Random(7))
        path = Layout(VM).disk(DISK)
        for is_mended in (False, True):
            covered = Covered()
            await _flip(world.replica, path, 5)
            while not any(0 in cover.bad for key, cover in covered.files.items() if key[0] == "disk"):
                assert await _turn(world, covered, 1) is None
            if is_mended:
                await _flip(world.replica, path, 5)
            found = await _turn(world, covered, 10_000)
            assert found is not None
            wanted = [] if is_mended else [(Part.DISK, path, (0,))]
            assert [(d.part, d.file, d.chunks) for d in found.damages] == wanted
            if not is_mended:
                await _flip(world.replica, path, 5)


async def test_repair_in_turns_mends_what_all_of_them_found() -> None:
    async with memory_world() as world:
        await _points(world, Random(8))
        before = await read_tree(world.replica)
        layout = Layout(VM)
        undo = layout.undo(layout.point_dir(2), DISK)
        await _flip(world.replica, layout.disk(DISK), 3 * CHUNK + 5)
        await _flip(world.replica, layout.manifest(DISK, 2), 20)
        covered, turns, found = Covered(), 0, None
        while found is None:
            turns += 1
            work = verify_and_repair(world.replica, VM, world.change_source(), world.context(), covered)
            found = await _broken_off(work, covered, 3)
        assert turns > 3
        assert {d.file for d in found.damages} == {layout.manifest(DISK, 2), layout.disk(DISK)}
        assert all(d.repaired for d in found.damages)
        assert digests(await read_tree(world.replica)) == digests(before)
        assert undo in before


def test_cover_wants_what_was_not_read_and_what_was_bad() -> None:
    cover = FileCover()
    cover.took(0, 10, [3, 4])
    assert (cover.upto, cover.bad) == (10, {3, 4})
    assert [cover.wants(first, first + 1) for first in (2, 3, 9, 10)] == [False, True, False, True]
    cover.took(3, 4, [])
    assert (cover.upto, cover.bad) == (10, {4})
