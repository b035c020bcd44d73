"""What keeps a guest from making two chunks with one hash: a number that it never sees."""

from __future__ import annotations

import pytest

from replicad.model.progress import nobody
from replicad.replica.directory import require_replica
from replicad.replica.hashing import hash_chunk, hash_chunks
from replicad.service.surroundings import surroundings
from tests.support.world import CHUNK, VM, memory_world


async def test_each_replica_hashes_with_a_number_of_its_own() -> None:
    seeds = set()
    for number in range(3):
        async with memory_world(number) as world:
            await world.put("디스크.vhd", b"\x01" * CHUNK)
            await world.sync()
            seeds.add((await require_replica(world.replica, VM)).seed)
    assert len(seeds) == 3


async def test_the_number_comes_from_the_systems_own_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    async with surroundings(None, nobody) as ctx:
        assert len({ctx.new_id() for _ in range(100)}) == 100
        monkeypatch.setattr("secrets.token_hex", lambda count: "5e" * count)
        assert ctx.new_id() == "5e" * 16


def test_every_chunk_is_hashed_with_the_number() -> None:
    block = bytes(range(256)) * 1024
    one, other = hash_chunks(block, CHUNK, 1), hash_chunks(block, CHUNK, 2)
    assert all(one[at : at + 16] != other[at : at + 16] for at in range(0, len(one), 16))
    assert hash_chunk(block[:100], 1) != hash_chunk(block[:100], 2)
