"""Cycles that are interrupted more than once, or in the middle of being undone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import pytest

from replicad.model.errors import IntegrityError, NeedsResyncError
from replicad.replica.layout import Layout
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode
from replicad.workflows.verify import verify
from tests.support.dying import die, writes_disk
from tests.support.faulty import FaultyShare, When
from tests.support.world import CHUNK, VM, World, digests, memory_world, read_tree

T = TypeVar("T")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chunk is a batch of its own, and flushed."""
    monkeypatch.setattr("replicad.replica.disk_update._FLUSH_EVERY_BYTES", 1)
    monkeypatch.setattr("replicad.replica.disk_update.BATCH_CHUNKS", 1)
    monkeypatch.setattr("replicad.workflows.collecting.BATCH_CHUNKS", 1)


def some_bytes(chunks: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(chunks * CHUNK)


async def test_a_chunk_that_was_torn_two_lives_ago_is_not_taken_for_written() -> None:
    async with memory_world() as world:
        await world.put("a.vhd", some_bytes(6))
        await world.sync()
        await world.put("a.vhd", some_bytes(6, seed=2))
        await die(world, writes_disk, nth=6)  # the last chunk is torn
        await world.put("a.vhd", some_bytes(2, seed=3) + world.disks["a.vhd"][2 * CHUNK :])
        await die(world, writes_disk, nth=2)  # what the first chunk became is durable, and a batch after it says so
        await world.sync()
        await world.check_all_points()


async def overwrite(world: World, path: str, offset: int, data: bytes) -> None:
    async with await world.replica.open(path, OpenMode.WRITE) as file:
        await file.write(data, offset)


async def test_a_chunk_that_was_mended_and_then_changed_can_be_brought_back() -> None:
    async with memory_world() as world:
        data = some_bytes(4)
        await world.put("a.vhd", data)
        await world.sync()
        await overwrite(world, Layout(VM).disk("a.vhd"), CHUNK + 5, b"rot")
        await die(world, lambda what: what.startswith("create") and "manifests" in what, resync=True)
        await world.put("a.vhd", data[:CHUNK] + some_bytes(1, seed=2) + data[2 * CHUNK :])
        await world.sync()
        await world.check_all_points()


async def test_a_replica_that_somebody_brought_up_to_date_by_hand_is_written_down_as_changed() -> None:
    async with memory_world() as world:
        data, changed = some_bytes(4), some_bytes(1, seed=2)
        await world.put("a.vhd", data)
        await world.sync()
        await overwrite(world, Layout(VM).disk("a.vhd"), CHUNK, changed)
        await world.put("a.vhd", data[:CHUNK] + changed + data[2 * CHUNK :])
        await world.sync(resync=True)
        assert await world.restored(2) == world.history[2]
        found = await verify(world.replica, VM, None, world.context())
        assert [(d.part.value, d.costs) for d in found.damages] == [("undo log", "points before 2")]


@pytest.mark.parametrize("resync", [False, True])
async def test_a_cycle_that_met_a_damaged_chunk_can_be_gone_on_with(resync: bool) -> None:
    async with memory_world() as world:
        await world.put("a.vhd", some_bytes(4))
        await world.sync()
        await overwrite(world, Layout(VM).disk("a.vhd"), CHUNK + 5, b"rot")
        await world.put("a.vhd", some_bytes(4, seed=2))
        await die(world, writes_disk, nth=2)
        await world.sync(resync=resync)
        assert await world.restored(2) == world.history[2]
        with pytest.raises(IntegrityError, match=r"chunk 1 of 'a\.vhd' at point 1"):
            await world.restored(1)


async def test_a_disk_that_met_a_damaged_chunk_and_then_vanished_is_not_in_the_way() -> None:
    async with memory_world() as world:
        await world.put("a.vhd", some_bytes(4))
        await world.put("b.vhd", some_bytes(2, seed=3))
        await world.sync()
        await overwrite(world, Layout(VM).disk("a.vhd"), CHUNK + 5, b"rot")
        await world.put("a.vhd", some_bytes(4, seed=2))
        await die(world, writes_disk, nth=2)
        await world.drop("a.vhd")
        report = await world.sync()
        assert "a.vhd: 1 damaged chunks of its last state could not be brought back" in report.point.warnings
        assert await world.restored(2) == world.history[2]
        with pytest.raises(IntegrityError, match=r"chunk 1 of 'a\.vhd' at point 1"):
            await world.restored(1)
        found = await verify(world.replica, VM, None, world.context())
        assert [(d.part.value, d.chunks) for d in found.damages] == [("removed disk", (1,))]


async def test_old_bytes_that_did_not_reach_the_log_are_saved_by_the_next_life() -> None:
    async with memory_world() as world:
        await world.put("a.vhd", some_bytes(4))
        await world.sync()
        await world.put("a.vhd", some_bytes(4, seed=2))
        log = Layout(VM).undo(Layout(VM).pending_dir(2), "a.vhd")
        await die(world, lambda what: what.startswith(f"flush {log}"), nth=3, when=When.BEFORE)  # the second batch
        await overwrite(world, log, 4096 + 4096 + CHUNK + 4096, bytes(CHUNK))  # its data was lost, its header was not
        await world.sync()
        await world.check_all_points()


@pytest.mark.parametrize("nth", range(1, 7))
@pytest.mark.parametrize("grown_chunks", [0, 2])
async def test_a_cycle_goes_on_after_it_was_undone_in_part(nth: int, grown_chunks: int) -> None:
    async with memory_world() as world:
        await world.put("a.vhd", some_bytes(6))
        await world.put("b.vhd", some_bytes(1))
        await world.sync()
        changed = some_bytes(6 + grown_chunks, seed=2)
        await world.put("a.vhd", changed)
        await die(world, writes_disk, nth=6 + grown_chunks)
        await world.drop("a.vhd")
        await die(world, lambda what: ".updating" in what, nth=nth)
        await world.put("a.vhd", changed)  # it had been away only for a moment
        await world.sync()
        await world.check_all_points()


class ForgetfulShare(FaultyShare):
    """Changes every chunk of a disk of 100 once the last one was written."""

    async def change(
        self, what: str, whole: Callable[[], Awaitable[T]], half: Callable[[], Awaitable[object]] | None = None
    ) -> T:
        result = await super().change(what, whole, half)
        if writes_disk(what) and f"at {99 * CHUNK}," in what:
            async with await self.inner.open(Layout(VM).updating("a.vhd"), OpenMode.WRITE) as file:
                for chunk in range(100):
                    await file.write(b"other bytes", chunk * CHUNK)
        return result


async def test_what_did_not_read_back_as_it_was_written_is_sent_again() -> None:
    async with memory_world() as world:
        await world.put("a.vhd", some_bytes(100))
        await world.sync()
        await world.put("a.vhd", some_bytes(100, seed=2))
        share = world.replica
        world.replica = ForgetfulShare(share)
        with pytest.raises(IntegrityError, match="reads back different"):
            await world.sync()
        world.replica = share
        report = await world.sync()
        assert report.point.statistics.sent_bytes == 100 * CHUNK
        await world.check_all_points()


async def test_a_disk_that_shrank_and_grew_while_its_cycle_was_interrupted_is_zero_where_it_should_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("replicad.replica.disk_update.BATCH_CHUNKS", 256)
    monkeypatch.setattr("replicad.workflows.collecting.BATCH_CHUNKS", 256)
    async with memory_world() as world:
        await world.put("a.vhd", some_bytes(1) + bytes(CHUNK // 2) + some_bytes(2, seed=2))
        await world.sync()
        shorter = some_bytes(1, seed=3) + bytes(CHUNK // 2)
        await world.put("a.vhd", shorter)
        await die(world, lambda what: what.startswith("set_size") and ".updating" in what, when=When.BEFORE)
        await world.put("a.vhd", shorter + bytes(2 * CHUNK))
        await world.sync()
        await world.check_all_points()
        assert (await read_tree(world.replica, Layout(VM).disks_dir)).popitem()[1] == world.disks["a.vhd"]


@pytest.mark.parametrize("place", [0, 9, 17, 25, 70, 4096 - 32])
async def test_a_log_that_was_damaged_in_the_middle_is_not_taken_for_one_that_ends_there(place: int) -> None:
    async with memory_world() as world:
        before = some_bytes(6)
        await world.put("a.vhd", before)
        await world.sync()
        await world.put("a.vhd", some_bytes(6, seed=2))
        await die(world, writes_disk, nth=6)
        log = Layout(VM).undo(Layout(VM).pending_dir(2), "a.vhd")
        offset = 4096 + 2 * (4096 + CHUNK) + place
        async with await world.replica.open(log, OpenMode.WRITE) as file:
            byte = bytearray(1)
            await file.read_into(byte, offset)
            await file.write(bytes([byte[0] ^ 1]), offset)
        await world.put("a.vhd", before)  # the chunks that the lost batches name look unchanged
        with pytest.raises(NeedsResyncError, match=r"batch at byte .* is damaged"):
            await world.sync()
        await world.sync(resync=True)
        assert await world.restored(2) == world.history[2]


@pytest.mark.parametrize("nth", [7, 8, 9, 10])
async def test_a_name_given_in_a_first_life_is_durable_before_a_second_one_builds_on_it(nth: int) -> None:
    async with memory_world() as world:
        world.replica = share = MemoryShare(volatile=True)
        for name in ("a.vhd", "gone.vhd"):
            await world.put(name, some_bytes(2))
        await world.sync()
        await world.put("a.vhd", some_bytes(2, seed=2))
        await world.drop("gone.vhd")
        await die(world, lambda what: what.startswith("flush_directory"), nth, When.BEFORE)  # from the commit on
        world.history.setdefault(2, dict(world.disks))
        await world.put("a.vhd", some_bytes(2, seed=3))
        await die(world, writes_disk)
        share.crash()
        world.replica = share.view()
        await world.sync()
        await world.check_all_points()


async def test_a_working_name_given_in_a_first_life_is_durable_before_a_second_one_writes() -> None:
    async with memory_world() as world:
        world.replica = share = MemoryShare(volatile=True)
        await world.put("a.vhd", some_bytes(2))
        await world.sync()
        await world.put("a.vhd", some_bytes(2, seed=2))
        disks = Layout(VM).disks_dir
        await die(world, lambda what: what == f"flush_directory {disks}", when=When.BEFORE)
        await die(world, writes_disk, nth=2)
        share.crash()
        world.replica = share.view()
        assert digests(await world.restored(1)) == digests(world.history[1])
        await world.sync()
        await world.check_all_points()


async def test_a_disk_that_was_undone_in_a_first_life_has_its_name_before_a_second_one_drops_the_log() -> None:
    async with memory_world() as world:
        world.replica = share = MemoryShare(volatile=True)
        for name in ("a.vhd", "b.vhd"):
            await world.put(name, some_bytes(2))
        await world.sync()
        changed = some_bytes(2, seed=2)
        await world.put("a.vhd", changed)
        await die(world, writes_disk, nth=2)
        await world.drop("a.vhd")
        disks = Layout(VM).disks_dir
        await die(world, lambda what: what == f"flush_directory {disks}", when=When.BEFORE)
        await die(world, lambda what: what.startswith("create") and "point.json" in what)
        share.crash()
        world.replica = share.view()
        await world.put("a.vhd", changed)
        await world.sync()
        await world.check_all_points()


async def test_a_replica_made_in_a_first_life_is_durable_before_a_second_one_commits() -> None:
    async with memory_world() as world:
        world.replica = share = MemoryShare(volatile=True)
        await world.put("a.vhd", some_bytes(2))
        await die(world, lambda what: what == "flush_directory ", when=When.BEFORE)
        await world.sync()
        share.crash()
        world.replica = share.view()
        await world.check_all_points()
