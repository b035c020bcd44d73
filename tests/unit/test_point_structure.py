"""Verifying that the disks of a point are sound virtual disks, at the latest point and at older ones."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from replicad.model.progress import Warned
from replicad.storage.port import OpenMode
from replicad.workflows.damage import Part
from replicad.workflows.verify import verify
from tests.support.vhdx_builder import (
    FULLY_PRESENT,
    HEADERS,
    MIB,
    Block,
    Data,
    Image,
    Spec,
    bat_entry_at,
    build,
    log_entry,
    put_in_log,
    set_entry,
)
from tests.support.world import VM, World, memory_world

DISK = "웹 디스크 💾.vhdx"
LOG_GUID = UUID(int=9)


def sound() -> Image:
    return build(Spec(virtual_size=8 * MIB, blocks={0: Block(data=b"first"), 1: Block(data=b"second")}))


def overlapping_blocks() -> Image:
    image = sound()
    set_entry(image, bat_entry_at(image, 1), FULLY_PRESENT, image.places["block 0"])
    return image


def block_outside() -> Image:
    image = sound()
    set_entry(image, bat_entry_at(image, 1), FULLY_PRESENT, 400 * MIB)
    return image


async def put(world: World, image: Image) -> None:
    await world.put(DISK, image.get(0, image.size))


@pytest.mark.parametrize("broken", [overlapping_blocks, block_outside])
async def test_a_table_of_blocks_that_was_damaged_at_the_source_is_found_at_its_point(
    broken: Callable[[], Image],
) -> None:
    async with memory_world() as world:
        await put(world, sound())
        await world.sync()
        await put(world, broken())
        await world.sync()  # a cycle looks at headers, region tables and metadata, not at every block
        found = await verify(world.replica, VM, None, world.context())
        (damage,) = found.damages
        assert (damage.part, damage.points, found.damaged_points) == (Part.STRUCTURE, (2,), [2])
        assert "its VHDX BAT entry" in damage.reason
        await put(world, sound())
        await world.sync()
        assert (await verify(world.replica, VM, None, world.context())).damages == []
        for number, parts in ((1, []), (2, [Part.STRUCTURE]), (3, [])):
            found = await verify(world.replica, VM, number, world.context())
            assert [d.part for d in found.damages] == parts


async def test_a_log_that_can_be_replayed_is_no_damage_and_what_it_would_write_is_looked_at() -> None:
    def logged(block_at: int) -> Image:
        image = build(Spec(virtual_size=8 * MIB, blocks={0: Block(data=b"first")}, log_guid=LOG_GUID))
        at = bat_entry_at(image, 0) // 4096 * 4096
        after = image.copy()
        set_entry(after, bat_entry_at(image, 0), FULLY_PRESENT, block_at)
        entry = log_entry(LOG_GUID, 1, 0, [Data(at, after.get(at, 4096))], flushed=image.size, last=image.size)
        put_in_log(image, 0, entry)
        return image

    async with memory_world() as world:
        place = sound().places["block 0"]
        await put(world, logged(place))
        await world.sync()
        await put(world, logged(400 * MIB))
        await world.sync()
        parts = {n: (await verify(world.replica, VM, n, world.context())).damages for n in (1, 2)}
        assert [(n, [d.part for d in found]) for n, found in parts.items()] == [(1, []), (2, [Part.STRUCTURE])]


async def test_damage_of_a_structure_in_a_fuzzy_point_is_a_warning() -> None:
    async with memory_world() as world:
        world.allow_fuzzy = True
        broken = sound()
        broken.flip(HEADERS[0] + 9)
        broken.flip(HEADERS[1] + 9)
        await put(world, broken)
        async with await world.source.open(DISK, OpenMode.WRITE):
            await world.sync()
        world.events.clear()
        assert (await verify(world.replica, VM, None, world.context())).damages == []
        said = [event.text for event in world.events if isinstance(event, Warned)]
        assert any(f"{DISK} of point 1: its VHDX header 1" in text for text in said)


async def test_structures_are_not_looked_for_in_damaged_bytes_nor_in_what_is_no_vhdx() -> None:
    async with memory_world() as world:
        world.patterns = ("plain.vhdx", DISK)
        await put(world, sound())
        await world.put("plain.vhdx", b"not a virtual disk")
        await world.sync()
        assert (await verify(world.replica, VM, None, world.context())).damages == []
        path = f"{VM}/disks/{DISK}"
        async with await world.replica.open(path, OpenMode.WRITE) as file:
            await file.write(b"overwritten", 0)
        found = await verify(world.replica, VM, None, world.context())
        assert [(d.part, d.file) for d in found.damages] == [(Part.DISK, path)]
