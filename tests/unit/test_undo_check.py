"""Checking the old bytes in undo logs, several stretches of them at a time."""

from __future__ import annotations

from random import Random

import pytest

from replicad.model.chunks import chunk_length
from replicad.replica.directory import open_replica, read_point
from replicad.replica.hashing import hash_chunk
from replicad.replica.undo_format import BLOCK_BYTES
from replicad.replica.undo_log import UndoIndex, index_undo_log
from replicad.storage.port import OpenMode, ShareFile
from replicad.workflows.covered import Covered, FileCover
from replicad.workflows.damage import Part
from replicad.workflows.undo_check import damaged_entries
from replicad.workflows.verify import verify
from tests.support.world import CHUNK, VM, World, memory_world

DISK = "웹 디스크 💾.vhd"


async def _two_points(world: World, before: bytes, after: bytes, chunk_bytes: int = CHUNK) -> tuple[str, int]:
    """The path of the log from the second point back to the first, and the replica's seed."""
    await world.put(DISK, before)
    await world.sync(chunk_bytes=chunk_bytes)
    await world.put(DISK, after)
    await world.sync(chunk_bytes=chunk_bytes)
    replica = await open_replica(world.replica, VM)
    assert replica is not None
    return replica.layout.undo(replica.layout.point_dir(2), DISK), replica.seed


async def _index(world: World, path: str, file: ShareFile) -> UndoIndex:
    replica = await open_replica(world.replica, VM)
    assert replica is not None
    return await index_undo_log(file, path, (await read_point(replica, 2)).disks[0].undo)


async def _damaged_one_by_one(file: ShareFile, index: UndoIndex, seed: int) -> list[int]:
    found = []
    for place, chunk in enumerate(index.chunks):
        if index.positions[place]:
            length = chunk_length(chunk, index.header.previous_size_bytes, index.header.chunk_bytes)
            stored = bytearray(-(-length // BLOCK_BYTES) * BLOCK_BYTES)
            await file.read_into(stored, index.positions[place])
            if hash_chunk(stored[:length], seed) != index.hash_at(place) or any(stored[length:]):
                found.append(chunk)
    return found


@pytest.mark.parametrize("seed", range(6))
async def test_damaged_old_bytes_are_found_wherever_they_lie_and_no_others(seed: int) -> None:
    random = Random(seed)
    chunk_bytes = random.choice([CHUNK, 4 * CHUNK, 64 * CHUNK])
    before = bytearray(random.randbytes(200 * CHUNK + random.choice([0, 1, 4095, 4096, 70_000])))
    for _ in range(10):  # zeros have a place in the log's headers and none among its bytes
        at = random.randrange(200) * CHUNK
        before[at : at + CHUNK] = bytes(CHUNK)
    after = bytearray(before)
    for _ in range(60):
        at = random.randrange(len(after))
        after[at] ^= 1
    after[-1] ^= 1
    async with memory_world(seed) as world:
        path, replica_seed = await _two_points(world, bytes(before), bytes(after), chunk_bytes)
        async with await world.replica.open(path, OpenMode.WRITE) as file:
            index = await _index(world, path, file)
            assert await damaged_entries(file, index, replica_seed, world.hashing, Covered(), FileCover()) == []
            saved = [(c, p) for c, p in zip(index.chunks, index.positions, strict=True) if p]
            for chunk, position in random.sample(saved, min(len(saved), 7)) + saved[-1:]:
                stored_bytes = -(-chunk_length(chunk, len(before), chunk_bytes) // BLOCK_BYTES) * BLOCK_BYTES
                at = position + random.choice([0, random.randrange(stored_bytes), stored_bytes - 1])
                byte = bytearray(1)
                await file.read_into(byte, at)
                await file.write(bytes([byte[0] ^ 4]), at)
            found = await damaged_entries(file, index, replica_seed, world.hashing, Covered(), FileCover())
            assert found == await _damaged_one_by_one(file, index, replica_seed)
            assert len(found) >= min(len(saved), 7)


async def test_a_log_of_many_runs_is_checked_in_runs_and_its_damage_told_in_order() -> None:
    random = Random(1)
    async with memory_world() as world:
        path, _ = await _two_points(world, random.randbytes(640 * CHUNK), random.randbytes(640 * CHUNK))
        async with await world.replica.open(path, OpenMode.WRITE) as file:
            index = await _index(world, path, file)
            for chunk in (600, 2, 301):
                await file.write(b"?", index.positions[chunk])
        found = await verify(world.replica, VM, None, world.context())
        (damage,) = found.damages
        assert (damage.part, damage.file) == (Part.UNDO_LOG, path)
        assert damage.reason == "the old bytes of 3 chunks are damaged, first of chunk 2"


async def test_what_a_log_lost_of_its_end_is_damaged() -> None:
    random = Random(1)
    async with memory_world() as world:
        path, seed = await _two_points(world, random.randbytes(5 * CHUNK), random.randbytes(5 * CHUNK))
        async with await world.replica.open(path, OpenMode.WRITE) as file:
            index = await _index(world, path, file)
            await file.set_size(index.positions[3] + 5)
            assert await damaged_entries(file, index, seed, world.hashing, Covered(), FileCover()) == [3, 4]
