"""A sector of a pending undo log that can't be read any more, after the chunks that it is about were overwritten."""

from __future__ import annotations

from random import Random

import pytest

from replicad.model.errors import IntegrityError
from replicad.replica.layout import Layout
from replicad.replica.recovery import recover, roll_back
from replicad.storage.metered import MeteredShare
from replicad.storage.port import OpenMode
from replicad.workflows.opening import opened_replica
from replicad.workflows.verify import verify
from tests.support.dying import die, writes_disk
from tests.support.faulty import When
from tests.support.world import CHUNK, VM, World, digests, memory_world, read_tree

_LOG = Layout(VM).undo(Layout(VM).pending_dir(2), "a.vhd")
_HEADER = 4096
_LAST = _HEADER + 2 * (_HEADER + 2 * CHUNK)
"""Where the third batch begins."""


def some_bytes(chunks: float, seed: int = 1) -> bytes:
    return Random(seed).randbytes(int(chunks * CHUNK))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chunks are a batch."""
    monkeypatch.setattr("replicad.replica.disk_update.BATCH_CHUNKS", 2)
    monkeypatch.setattr("replicad.workflows.collecting.BATCH_CHUNKS", 2)


async def _interrupted(world: World, before: bytes, after: bytes, writes: int) -> None:
    """A cycle that died when so many chunks of a disk were overwritten, two of them for each batch of its log."""
    await world.put("a.vhd", before)
    await world.sync()
    await world.put("a.vhd", after)
    await die(world, writes_disk, nth=writes, when=When.AFTER)


async def _lose(world: World, offset: int, length: int) -> None:
    async with await world.replica.open(_LOG, OpenMode.WRITE) as file:
        assert (await file.identity()).size_bytes > offset
        await file.write(bytes(length), offset)


async def _check(world: World) -> None:
    await world.check_all_points()
    assert (await verify(world.replica, VM, None, world.context())).damages == []


@pytest.mark.parametrize("sector", [*range(0, _HEADER, 512), None], ids=str)
@pytest.mark.parametrize("goes_on_as", ["it was sent", "it was before", "something else"])
async def test_lost_sector_in_the_header_of_the_last_batch_loses_no_chunk(sector: int | None, goes_on_as: str) -> None:
    before, after = some_bytes(5.5), some_bytes(5.5, seed=2)
    async with memory_world() as world:
        await _interrupted(world, before, after, writes=3)
        await _lose(world, _LAST + (sector or 0), 512 if sector is not None else _HEADER)
        # Chunks that look untouched, and that the source has as they were, are not sent.
        wanted = {"it was sent": after, "it was before": before, "something else": some_bytes(5.5, seed=3)}
        await world.put("a.vhd", wanted[goes_on_as])
        await world.sync()
        await _check(world)


@pytest.mark.parametrize("batch", [0, 1, 2])
async def test_lost_header_of_any_batch_loses_no_chunk(batch: int) -> None:
    before = some_bytes(5.5)
    async with memory_world() as world:
        await _interrupted(world, before, some_bytes(5.5, seed=2), writes=3)
        await _lose(world, _HEADER + batch * (_HEADER + 2 * CHUNK), _HEADER)
        await world.put("a.vhd", before)
        await world.sync()
        await _check(world)


@pytest.mark.parametrize("sector", [0, 512, 3584])
async def test_disk_can_be_brought_back_without_the_source_after_a_sector_was_lost(sector: int) -> None:
    before = some_bytes(4) + bytes(CHUNK) + some_bytes(0.5, seed=4)
    async with memory_world() as world:
        await _interrupted(world, before, some_bytes(5.5, seed=2), writes=3)
        await _lose(world, _LAST + sector, 512)
        async with opened_replica(world.replica, VM, None, world.context()) as opened:
            await roll_back(opened.replica, await recover(opened.replica))
        found = await read_tree(world.replica, Layout(VM).disks_dir)
        assert digests(found) == digests({Layout(VM).disk("a.vhd"): before})
        await _check(world)


async def test_reader_is_told_of_chunks_that_a_lost_sector_hides_and_never_given_others() -> None:
    async with memory_world() as world:
        await _interrupted(world, some_bytes(5.5), some_bytes(5.5, seed=2), writes=3)
        await _lose(world, _LAST, 512)
        with pytest.raises(IntegrityError, match=r"chunk 4 of 'a\.vhd' at point 1"):
            await world.restored(1)
        await world.sync()
        await _check(world)


async def test_lost_sector_in_the_log_of_a_new_disk_leaves_nothing_where_zeros_should_be() -> None:
    async with memory_world() as world:
        await world.put("b.vhd", some_bytes(1))
        await world.sync()
        await world.put("a.vhd", some_bytes(6))
        await die(world, lambda what: what.startswith("write") and ".initial" in what, nth=3, when=When.AFTER)
        await _lose(world, _HEADER + 2 * _HEADER, 512)
        await world.put("a.vhd", some_bytes(4) + bytes(2 * CHUNK))
        await world.sync()
        await _check(world)


async def test_resynchronisation_finds_what_a_lost_sector_hides() -> None:
    before = some_bytes(5.5)
    async with memory_world() as world:
        await _interrupted(world, before, some_bytes(5.5, seed=2), writes=3)
        await _lose(world, _LAST, 512)
        await world.put("a.vhd", before[: 4 * CHUNK] + some_bytes(1.5, seed=3))
        await world.sync(resync=True)
        await _check(world)


async def test_damaged_chunk_that_nobody_saved_is_sent_again_and_told_of() -> None:
    async with memory_world() as world:
        await _interrupted(world, some_bytes(5.5), some_bytes(5.5, seed=2), writes=3)
        await _lose(world, _LAST, _HEADER)
        await _lose(world, _LAST + _HEADER + 100, 512)  # in the old bytes of chunk 4
        await world.sync()
        assert await world.restored(2) == world.history[2]
        with pytest.raises(IntegrityError, match=r"chunk 4 of 'a\.vhd' at point 1"):
            await world.restored(1)


async def test_torn_end_of_a_log_costs_no_reading_unless_it_may_have_been_a_batch() -> None:
    async with memory_world() as world:
        await world.put("a.vhd", some_bytes(5.5))
        await world.sync()
        await world.put("a.vhd", some_bytes(5.5, seed=2))
        await die(world, lambda what: what.startswith("copy_from") and ".undo" in what, nth=2, when=When.BEFORE)
        meter = MeteredShare(world.replica)
        world.replica = meter
        await world.sync()
        assert meter.meter.read_bytes < 3 * CHUNK  # the old bytes of the first batch are looked at
        await _check(world)
