"""Verification and repair of replicas in memory."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from replicad.model.errors import IntegrityError
from replicad.model.names import join
from replicad.replica.directory import open_replica, read_point
from replicad.replica.layout import Layout
from replicad.replica.records import encode
from replicad.storage.documents import replace_whole
from replicad.storage.port import OpenMode, Share
from replicad.workflows.repair import verify_and_repair
from replicad.workflows.verify import verify
from tests.support.world import CHUNK, VM, World, digests, memory_world, read_tree


async def _flip(share: Share, path: str, offset: int, bits: int = 1) -> None:
    async with await share.open(path, OpenMode.WRITE) as file:
        buffer = bytearray(1)
        await file.read_into(buffer, offset)
        await file.write(bytes([buffer[0] ^ bits]), offset)


async def _three_points(world: World) -> None:
    random = Random(3)
    data = random.randbytes(4 * CHUNK + 100) + bytes(2 * CHUNK)
    await world.put("웹 disk.vhd", data)
    await world.put("gone.vhd", random.randbytes(CHUNK))
    await world.sync()
    await world.put("웹 disk.vhd", data[:CHUNK] + random.randbytes(CHUNK) + data[2 * CHUNK :] + b"tail")
    await world.drop("gone.vhd")
    await world.sync()
    await world.put("웹 disk.vhd", data)
    await world.sync()


async def test_sound_replica_verifies_without_damage() -> None:
    async with memory_world() as world:
        await _three_points(world)
        found = await verify(world.replica, VM, None, world.context())
        assert (found.damages, found.points) == ([], [1, 2, 3])
        assert found.read_bytes > 6 * CHUNK
        for number in (1, 2, 3):
            assert (await verify(world.replica, VM, number, world.context())).damages == []


async def _files_found_damaged(world: World) -> str:
    """The names of all files that a verification finds damaged, or that keep it from opening the replica."""
    try:
        found = await verify(world.replica, VM, None, world.context())
    except IntegrityError as error:
        return str(error)
    return "\n".join(d.file for d in found.damages)


@pytest.mark.parametrize("seed", range(4))
async def test_any_flipped_byte_is_found_and_its_file_named(seed: int) -> None:
    async with memory_world(seed) as world:
        await _three_points(world)
        random = Random(seed)
        files = await read_tree(world.replica)
        for path, data in files.items():
            places = {0, len(data) - 1, *(random.randrange(len(data)) for _ in range(5))}
            for offset in sorted(places):
                bits = 1 << random.randrange(8)
                await _flip(world.replica, path, offset, bits)
                assert path in await _files_found_damaged(world), f"byte {offset} of {path} is missed"
                await _flip(world.replica, path, offset, bits)
        assert (await verify(world.replica, VM, None, world.context())).damages == []


async def test_repair_takes_the_chunk_from_the_source_if_it_still_has_it() -> None:
    async with memory_world() as world:
        await _three_points(world)
        before = await read_tree(world.replica)
        path = Layout(VM).disk("웹 disk.vhd")
        await _flip(world.replica, path, 3 * CHUNK + 5)
        await _flip(world.replica, path, 5 * CHUNK + 5)  # among zeros: needs no source
        found = await verify_and_repair(world.replica, VM, world.change_source(), world.context())
        assert [(d.file, d.chunks, d.repaired) for d in found.damages] == [(path, (3, 5), True)]
        assert digests(await read_tree(world.replica)) == digests(before)


async def test_repair_says_what_the_source_no_longer_has() -> None:
    async with memory_world() as world:
        await _three_points(world)
        path = Layout(VM).disk("웹 disk.vhd")
        await _flip(world.replica, path, 3 * CHUNK + 5)
        await world.put("웹 disk.vhd", bytes(CHUNK))
        found = await verify_and_repair(world.replica, VM, world.change_source(), world.context())
        assert [(d.file, d.repaired) for d in found.damages] == [(path, False)]
        assert join(Layout(VM).disks_dir, "웹 disk.vhd") in await read_tree(world.replica)


async def test_repair_makes_a_damaged_manifest_anew_from_the_disk() -> None:
    async with memory_world() as world:
        await _three_points(world)
        before = await read_tree(world.replica)
        for place in (10, 4096 + 3, 2 * 4096 + 20):
            path = Layout(VM).manifest("웹 disk.vhd", 3)
            await _flip(world.replica, path, place)
            found = await verify_and_repair(world.replica, VM, world.change_source(), world.context())
            assert [(d.file, d.repaired) for d in found.damages] == [(path, True)]
            assert digests(await read_tree(world.replica)) == digests(before)


async def test_damaged_undo_log_costs_older_points_only() -> None:
    async with memory_world() as world:
        await _three_points(world)
        layout = Layout(VM)
        await _flip(world.replica, layout.undo(layout.point_dir(3), "웹 disk.vhd"), 2 * 4096 + 7)
        found = await verify(world.replica, VM, None, world.context())
        assert [(d.costs, d.repaired) for d in found.damages] == [("points before 3", False)]
        assert digests(await world.restored(3)) == digests(world.history[3])
        with pytest.raises(IntegrityError, match="chunk 1 of"):
            await world.restored(2)


async def test_logs_that_do_not_lead_to_the_points_before_are_found_though_each_file_is_sound() -> None:
    async with memory_world() as world:
        await _three_points(world)
        replica = await open_replica(world.replica, VM)
        assert replica is not None
        point = await read_point(replica, 2)
        (disk,) = point.disks
        other = replace(disk, manifest=replace(disk.manifest, digest="0" * 64))
        path = replica.layout.point_record(replica.layout.point_dir(2))
        await replace_whole(world.replica, path, encode(replace(point, disks=(other,))))
        found = await verify(world.replica, VM, None, world.context())
        log = replica.layout.undo(replica.layout.point_dir(3), disk.path)
        assert [(d.file, d.reason) for d in found.damages] == [
            (log, "point 3 does not lead back to the manifest that point 2 names")
        ]
        with pytest.raises(IntegrityError, match="do not lead to the manifest"):
            await world.restored(2)
