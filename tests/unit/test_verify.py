"""Verification and repair of replicas in memory."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from replicad.model.errors import IntegrityError
from replicad.model.names import join
from replicad.replica.directory import open_replica, point_files, read_point
from replicad.replica.layout import Layout
from replicad.replica.record_files import write_instead
from replicad.storage.documents import exists
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
        assert "the source no longer has these bytes" in found.damages[0].not_repaired
        assert found.damaged_points == [1, 2, 3]  # none of them ever changed that chunk
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
        files = point_files(replica, replica.layout.point_dir(2), 2)
        await write_instead(files, replace(point, disks=(other,)))
        found = await verify(world.replica, VM, None, world.context())
        log = replica.layout.undo(replica.layout.point_dir(3), disk.path)
        assert [(d.file, d.reason) for d in found.damages] == [
            (log, "point 3 does not lead back to the manifest that point 2 names")
        ]
        assert found.damaged_points == [1, 2]
        with pytest.raises(IntegrityError, match="do not lead to the manifest"):
            await world.restored(2)


LAYOUT = Layout(VM)
DISK = "웹 disk.vhd"


async def _repair(world: World) -> list[tuple[str, bool]]:
    found = await verify_and_repair(world.replica, VM, world.change_source(), world.context())
    return [(d.file, d.repaired) for d in found.damages]


async def _left(world: World) -> list[str]:
    return [d.file for d in (await verify(world.replica, VM, None, world.context())).damages]


@pytest.mark.parametrize("size", [10, 3 * CHUNK + 1, 9 * CHUNK])
async def test_repair_gives_a_disk_its_length_back_and_what_was_cut_off(size: int) -> None:
    async with memory_world() as world:
        await _three_points(world)
        before = await read_tree(world.replica)
        path = LAYOUT.disk(DISK)
        async with await world.replica.open(path, OpenMode.WRITE) as file:
            await file.set_size(size)
        repaired = await _repair(world)
        assert {*repaired} == {(path, True)}
        assert digests(await read_tree(world.replica)) == digests(before)


async def test_a_disk_that_is_gone_comes_back_whole_or_not_at_all() -> None:
    async with memory_world() as world:
        await _three_points(world)
        before = await read_tree(world.replica)
        path = LAYOUT.disk(DISK)
        await world.replica.remove(path)
        await world.put(DISK, world.disks[DISK][: 4 * CHUNK] + b"?" + world.disks[DISK][4 * CHUNK + 1 :])
        assert await _repair(world) == [(path, False)]
        assert not await exists(world.replica, path)
        assert not await exists(world.replica, path + ".tmp")
        await world.put(DISK, world.history[3][DISK])
        assert await _repair(world) == [(path, True)]
        assert digests(await read_tree(world.replica)) == digests(before)


async def test_manifest_and_disk_that_are_both_damaged_are_mended_from_a_source_that_is_as_it_was() -> None:
    async with memory_world() as world:
        await _three_points(world)
        before = await read_tree(world.replica)
        manifest, path = LAYOUT.manifest(DISK, 3), LAYOUT.disk(DISK)
        await _flip(world.replica, manifest, 4096 + 3)
        await _flip(world.replica, path, 3 * CHUNK + 5)
        await world.put(DISK, bytes(100))
        assert await _repair(world) == [(manifest, False)]
        await world.put(DISK, world.history[3][DISK])
        assert await _repair(world) == [(manifest, True), (path, True)]
        assert digests(await read_tree(world.replica)) == digests(before)


async def test_old_bytes_are_mended_where_the_disk_has_the_very_same_again() -> None:
    async with memory_world() as world:
        await _three_points(world)  # the third point is as the first one was
        before = await read_tree(world.replica)
        second, third = (LAYOUT.undo(LAYOUT.point_dir(n), DISK) for n in (2, 3))
        for log in (second, third):
            await _flip(world.replica, log, 2 * 4096 + 7)
        found = await verify_and_repair(world.replica, VM, world.change_source(), world.context())
        assert [(d.file, d.repaired, d.points) for d in found.damages] == [(second, True, (1,)), (third, False, (2,))]
        assert "kept nowhere else" in found.damages[1].not_repaired
        assert found.damaged_points == [2]
        assert await _left(world) == [third]
        assert digests(await world.restored(1)) == digests(world.history[1])
        after = await read_tree(world.replica)
        assert {path for path in before if before[path] != after[path]} == {third}


async def test_a_source_that_is_in_use_mends_nothing_that_needs_it_and_the_rest_is_mended() -> None:
    async with memory_world() as world:
        await _three_points(world)
        manifest, path = LAYOUT.manifest(DISK, 3), LAYOUT.disk(DISK)
        await _flip(world.replica, path, 3 * CHUNK + 5)
        await _flip(world.replica, LAYOUT.recovery_text, 5)
        async with await world.source.open(DISK, OpenMode.WRITE):
            found = await verify_and_repair(world.replica, VM, world.change_source(), world.context())
        assert [(d.file, d.repaired) for d in found.damages] == [(LAYOUT.recovery_text, True), (path, False)]
        assert "the source can't help" in found.damages[1].not_repaired
        assert await _left(world) == [path]
        assert await exists(world.replica, manifest)


async def test_files_that_belong_to_no_point_are_told_and_are_no_damage() -> None:
    async with memory_world() as world:
        await _three_points(world)
        strange = [join(LAYOUT.root, "notes 메모.txt"), LAYOUT.record + ".tmp", LAYOUT.disk("other.vhd.updating")]
        for path in strange:
            async with await world.replica.open(path, OpenMode.CREATE) as file:
                await file.write(b"?", 0)
        found = await verify(world.replica, VM, None, world.context())
        assert (found.damages, found.leftovers) == ([], sorted(strange))
        assert any("3 files belong to no point" in str(event) for event in world.events)
