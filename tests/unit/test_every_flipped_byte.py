"""Every byte in a replica's directory counts: whichever is turned over, verification names its file.

Damage is spread over as many files as it can be at a time, so that one verification tells of one byte in each: files
whose damage would hide that of another one are in different groups. What a verification names must be exactly what was
damaged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from random import Random

import pytest

from replicad.model.errors import IntegrityError
from replicad.workflows.damage import Verification
from replicad.workflows.opening import opened_replica
from replicad.workflows.verify import verify, verify_opened
from tests.support.dying import die_after
from tests.support.small_replica import DISK, LAYOUT, fill, flip_at_once
from tests.support.world import CHUNK, VM, World, digests, memory_world, read_tree

SMALL_BYTES = 4096
"""Of files up to this size every byte is turned over by `make test`, of larger ones a sample."""
SHARDS = 4

Record = Callable[[str, object], None]


def hides_others(path: str) -> bool:
    """Whether damage of this file keeps that of others from being seen: a manifest is what a disk is held against, and
    of two files of one record one must be sound."""
    return path.endswith((".xxh3", ".copy.json"))


Look = Callable[[], Awaitable[Verification]]


async def flipped_and_named(world: World, look: Look, places: dict[str, int], random: Random) -> None:
    bits = {path: 1 << random.randrange(8) for path in places}
    for path, offset in places.items():
        flip_at_once(world.replica, path, offset, bits[path])
    found = await look()
    assert {damage.file for damage in found.damages} == set(places), places
    assert found.leftovers == []
    for path, offset in places.items():
        flip_at_once(world.replica, path, offset, bits[path])


@pytest.mark.parametrize("shard", range(SHARDS))
async def test_every_byte_of_small_files_and_a_sample_of_larger_ones_is_found(
    shard: int, record_property: Record
) -> None:
    async with memory_world() as world:
        await fill(world)
        files = await read_tree(world.replica)
        random, flipped, ctx = Random(shard), set(), world.context()
        async with opened_replica(world.replica, VM, None, ctx) as opened:
            look = partial(verify_opened, opened, ctx)
            for group in (False, True):
                sizes = {path: len(data) for path, data in files.items() if hides_others(path) is group}
                rounds = max(min(size, SMALL_BYTES) for path, size in sizes.items() if size <= SMALL_BYTES)
                for number in range(shard, rounds, SHARDS):
                    places = {
                        path: number if number < size <= SMALL_BYTES else random.randrange(size)
                        for path, size in sizes.items()
                    }
                    await flipped_and_named(world, look, places, random)
                    flipped |= set(places.items())
            assert (await look()).damages == []
        small = [(path, n) for path, data in files.items() if len(data) <= SMALL_BYTES for n in range(len(data))]
        assert {place for place in small if place[1] % SHARDS == shard} <= flipped
        record_property("bytes_found", len(flipped))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(SHARDS))
async def test_every_single_byte_is_found_by_itself(shard: int, record_property: Record) -> None:
    async with memory_world() as world:
        await fill(world)
        random, flipped = Random(shard), 0
        look = partial(verify, world.replica, VM, None, world.context())
        for path, data in (await read_tree(world.replica)).items():
            for offset in range(shard, len(data), SHARDS):
                await flipped_and_named(world, look, {path: offset}, random)
                flipped += 1
        record_property("bytes_found", flipped)


@pytest.mark.parametrize("seed", range(4))
async def test_the_points_that_damage_touches_are_those_that_can_not_be_restored(seed: int) -> None:
    async with memory_world() as world:
        await fill(world)
        random = Random(seed)
        for path, data in (await read_tree(world.replica)).items():
            for offset in {random.randrange(min(len(data), 4300)), random.randrange(len(data))}:
                flip_at_once(world.replica, path, offset, 8)
                found = await verify(world.replica, VM, None, world.context())
                lost = {number for number in world.history if not await can_be_restored(world, number)}
                # Among the zeros that fill a block of a log, nothing that a restore needs is lost.
                assert lost <= set(found.damaged_points), f"byte {offset} of {path}"
                if data[offset]:
                    assert lost == set(found.damaged_points), f"byte {offset} of {path}"
                for number in world.history:
                    alone = await verify(world.replica, VM, number, world.context())
                    assert (alone.damaged_points == [number]) is (number in lost), f"byte {offset} of {path}"
                flip_at_once(world.replica, path, offset, 8)


async def can_be_restored(world: World, number: int) -> bool:
    try:
        found = await world.restored(number)
    except IntegrityError:
        return False
    assert digests(found) == digests(world.history[number]), "damage was passed on"
    return True


async def interrupted(world: World) -> None:
    """A replica whose cycle was killed in the middle of a disk of several chunks."""
    random = Random(5)
    await world.put(DISK, random.randbytes(4 * CHUNK + 77) + bytes(CHUNK))
    await world.put("b.vhd", random.randbytes(300))
    await world.sync()
    await world.put(DISK, random.randbytes(2 * CHUNK) + world.disks[DISK][2 * CHUNK :])
    await world.put("b.vhd", random.randbytes(CHUNK))
    await die_after(world, f"write {LAYOUT.updating(DISK)}")


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_not_found_in_an_interrupted_cycle_costs_no_point(seed: int) -> None:
    random = Random(seed)
    async with memory_world() as world:
        await interrupted(world)
        files = await read_tree(world.replica)
        del files[LAYOUT.lock]  # left by the dead one, and taken over by whoever looks
        found_in: set[str] = set()
        for path, data in files.items():
            for offset in {0, len(data) - 1, *(random.randrange(len(data)) for _ in range(12))}:
                flip_at_once(world.replica, path, offset, 2)
                found = await verify(world.replica, VM, None, world.context())
                if path in {damage.file for damage in found.damages}:
                    found_in.add(path)
                else:
                    assert await can_be_restored(world, 1), f"byte {offset} of {path}"
                if data[offset] or not path.endswith(".undo"):
                    assert await can_be_restored(world, 1) is (found.damaged_points == []), f"byte {offset} of {path}"
                flip_at_once(world.replica, path, offset, 2)
        # What the cycle has made of a disk of one chunk is of no point yet.
        assert set(files) - found_in == {LAYOUT.updating("b.vhd"), LAYOUT.manifest("b.vhd", 2)}
