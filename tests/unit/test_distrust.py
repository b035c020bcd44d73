"""The sample of what a tracker calls unchanged: which chunks, how many, at what cost, and what a mismatch leads to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from time import process_time
from types import MappingProxyType

import pytest

from replicad.model.changes import ChangeSet, Outside
from replicad.model.errors import BusyError
from replicad.model.extents import Extent
from replicad.model.manifest import PAGE_BYTES, PAGE_HASHES, ZERO_HASH, Manifest, ManifestEdit
from replicad.model.points import DiskState, Mistake, Provenance, Trust
from replicad.model.progress import Warned
from replicad.replica.hashing import hash_chunks
from replicad.replica.known_chunks import KnownChunks
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode
from replicad.tracking.marks import MarkStore
from replicad.workflows.distrust import Checked, check_unchanged, choose
from replicad.workflows.scan import Hashing
from tests.support.crash_points import InlineExecutor
from tests.support.faulty import Fault, When
from tests.support.tracked_world import TrackedWorld
from tests.support.world import CHUNK, memory_world
from tests.support.writing_machine import Guest, LyingTracker

HASH = b"d" * 16


def _manifest(chunks: int, filled: range) -> Manifest:
    edit = ManifestEdit(Manifest(CHUNK, 0), chunks * CHUNK)
    for first in range(filled.start, filled.stop, 4096):
        edit.put(first, HASH * (min(first + 4096, filled.stop) - first))
    return edit.finish()


def _split(manifest: Manifest, chosen: list[int]) -> tuple[list[int], list[int]]:
    zeros = [index for index in chosen if manifest.hash_of(index) == ZERO_HASH]
    return [index for index in chosen if index not in set(zeros)], zeros


@pytest.mark.parametrize(("filled", "wanted"), [(0, 0), (5, 5), (16, 16), (17, 16), (9_000, 16), (40_000, 40)])
def test_the_sample_is_a_thousandth_and_sixteen_chunks_at_least(filled: int, wanted: int) -> None:
    manifest = _manifest(50_000, range(1000, 1000 + filled))
    chosen = choose(manifest, [(0, 50_000)], 0.001, Random(1))
    data, zeros = _split(manifest, chosen)
    assert wanted <= len(data) <= wanted + 1
    assert 1 <= len(zeros) <= 4
    assert chosen == sorted(set(chosen))


def test_only_what_no_extent_covers_is_in_the_sample() -> None:
    manifest = _manifest(60_000, range(60_000))
    spans = [(3, 5), (700, 701), (30_000, 55_000), (59_999, 60_000)]
    for part in (0.0, 0.01, 1.0):
        chosen = choose(manifest, spans, part, Random(2))
        assert all(any(first <= index < end for first, end in spans) for index in chosen)
    assert len(choose(manifest, spans, 1.0, Random(2))) == 25_004
    assert choose(manifest, [], 1.0, Random(2)) == choose(manifest, [], 0.5, Random(2)) == []


def test_each_chunk_has_the_same_chance_in_small_disks_and_in_large_ones() -> None:
    for chunks, runs in ((100, 4000), (20_000, 60)):
        manifest, counts = _manifest(chunks, range(chunks)), Counter[int]()
        part = 0.2
        for seed in range(runs):
            counts.update(index * 10 // chunks for index in choose(manifest, [(0, chunks)], part, Random(seed)))
        expected = runs * chunks * part / 10
        assert all(abs(counts[tenth] - expected) < 0.05 * expected for tenth in range(10)), counts


def test_data_that_is_thinly_spread_is_met_at_the_same_rate() -> None:
    one_in_a_page = MappingProxyType({n: HASH + bytes(PAGE_BYTES - 16) for n in range(400)})
    manifest = Manifest(CHUNK, 400 * PAGE_HASHES * CHUNK, one_in_a_page)
    found = [len(_split(manifest, choose(manifest, [(0, manifest.chunks)], 0.3, Random(s)))[0]) for s in range(40)]
    assert abs(sum(found) / 40 - 120) < 10
    assert len(_split(manifest, choose(manifest, [(0, manifest.chunks)], 0.0, Random(1)))[0]) >= 16


def test_the_cost_follows_the_sample_and_not_the_disk() -> None:
    small, large = _manifest(1 << 16, range(1 << 12, 1 << 14)), _manifest(1 << 22, range(1 << 12, 1 << 14))
    counts = [len(choose(m, [(0, m.chunks)], 0.001, Random(1))) for m in (small, large)]
    assert counts[0] <= 24
    assert counts[1] <= 24
    full = _manifest(1 << 20, range(1 << 20))
    began_s = process_time()
    assert len(choose(full, [(0, full.chunks)], 0.001, Random(1))) >= 1049
    assert process_time() - began_s < 0.25  # to look at each chunk once takes longer


async def _checked(
    *changed: int, chunks: int = 40, part: float = 0.0, extents: tuple[Extent, ...] = (), seed: int = 1, lost: int = 0
) -> Checked:
    data = bytearray(Random(1).randbytes((chunks - 1) * CHUNK + 500))
    edit = ManifestEdit(Manifest(CHUNK, 0), len(data))
    edit.put(0, hash_chunks(data, CHUNK, 0))
    known = KnownChunks(edit.finish(), len(data))
    for index in changed:
        data[index * CHUNK + 3] ^= 1
    async with memory_world(seed) as world, await MemoryShare().open("디스크.vhd", OpenMode.CREATE) as file:
        await file.write(data[: len(data) - lost], 0)
        told = ChangeSet(extents, Outside.UNCHANGED, Provenance.EXTENTS)
        found = await check_unchanged(file, told, known, Hashing(world.hashing, CHUNK, 0), part, world.context())
        assert found is not None
        return found


async def test_a_sample_that_is_as_it_was_says_how_large_it_was() -> None:
    assert (await _checked()).trust == Trust(16, 40)
    whole = await _checked(part=1.0, extents=(Extent(CHUNK - 1, 2),))
    assert whole == Checked(Trust(38, 38), 37 * CHUNK + 500)


@pytest.mark.parametrize("changed", [(0,), (17,), (39,), (5, 9, 30)])
async def test_every_chunk_that_is_not_as_it_was_is_found_by_a_sample_of_all(changed: tuple[int, ...]) -> None:
    mistake = (await _checked(*changed, part=1.0)).trust.mistake
    assert mistake is not None
    assert (mistake.tracker, mistake.chunk, mistake.chunks) == (Provenance.EXTENTS, changed[0], len(changed))


async def test_what_the_tracker_told_of_is_no_mistake() -> None:
    assert (await _checked(7, part=1.0, extents=(Extent(7 * CHUNK, 1),))).trust.mistake is None


async def test_a_full_scan_claims_nothing_to_check() -> None:
    async with memory_world() as world, await MemoryShare().open("a", OpenMode.CREATE) as file:
        told, known = ChangeSet((), Outside.ZEROS, Provenance.FULL_SCAN), KnownChunks(Manifest(CHUNK, CHUNK), CHUNK)
        assert await check_unchanged(file, told, known, Hashing(world.hashing, CHUNK, 0), 1, world.context()) is None


async def test_a_file_that_became_shorter_is_tried_again_and_is_no_mistake() -> None:
    with pytest.raises(BusyError, match="became shorter"):
        await _checked(part=1.0, lost=1)


@pytest.mark.parametrize(("changed", "checked"), [(1, 1_000), (100, 1_000), (1_000, 1_000), (1_000, 16)])
def test_a_lie_among_a_hundred_thousand_chunks_is_found_as_often_as_it_should_be(changed: int, checked: int) -> None:
    chunks, runs = 100_000, 400
    manifest, part = _manifest(chunks, range(chunks)), checked / chunks
    random = Random(changed)
    found = 0
    for _ in range(runs):
        lies = set(random.sample(range(chunks), changed))
        found += not lies.isdisjoint(choose(manifest, [(0, chunks)], part, random))
    expected = 1 - (1 - changed / chunks) ** checked
    deviation = (expected * (1 - expected) / runs) ** 0.5
    assert abs(found / runs - expected) <= 4 * deviation + 0.002, (found / runs, expected)


async def _lied_to(hidden: int, sample: float, chunks: int = 30) -> TrackedWorld:
    """A world at a point, whose guest then wrote a chunk that its tracker hides, and one that it tells of."""
    guest = Guest(Random(1))
    guest.put("웹 🖥.vhd", Random(2).randbytes(chunks * CHUNK))
    guest.put("b.vhd", Random(3).randbytes(2 * CHUNK))
    world = TrackedWorld(
        MemoryShare("source"), MemoryShare("replica"), InlineExecutor(), guest=guest, sample=sample,
        make_tracker=lambda guest: LyingTracker(guest, {"웹 🖥.vhd": [hidden]}),
    )  # fmt: skip
    await world.cycle()
    guest.write("웹 🖥.vhd", hidden * CHUNK + 9, b"hidden")
    guest.write("웹 🖥.vhd", 2 * CHUNK, b"told")
    return world


def _disk(disks: tuple[DiskState, ...], path: str = "웹 🖥.vhd") -> DiskState:
    return next(disk for disk in disks if disk.path == path)


async def test_a_tracker_that_lies_costs_a_full_scan_in_the_same_cycle_and_the_point_is_right() -> None:
    world = await _lied_to(17, 1.0)
    report = await world.cycle()
    assert await world.restored(2) == world.history[2] == world.guest.contents()
    lied, other = _disk(report.point.disks), _disk(report.point.disks, "b.vhd")
    assert (lied.provenance, other.provenance) == (Provenance.FULL_SCAN, Provenance.DIRTY_BITMAP)
    assert lied.trust is not None
    assert lied.trust.mistake == Mistake(Provenance.DIRTY_BITMAP, 17, 1, lied.trust.mistake.found)  # type: ignore[union-attr]  # found
    assert other.trust == Trust(2, 2)
    said = "웹 🖥.vhd: dirty-bitmap called chunk 17 unchanged, and that was wrong; the whole disk was read"
    assert said in report.point.warnings
    assert Warned(said) in world.events
    assert report.provenance == "dirty-bitmap+full-scan"
    # 30 chunks, less the one that was told of, and then all of them.
    assert lied.statistics.scanned_bytes == (29 + 30) * CHUNK


async def test_a_tracker_that_was_wrong_is_believed_again_from_that_cycle_on() -> None:
    world = await _lied_to(17, 1.0)
    await world.cycle()
    world.guest.write("웹 🖥.vhd", 3 * CHUNK, b"told")
    report = await world.cycle()
    assert _disk(report.point.disks).trust == Trust(29, 29)
    assert report.point.warnings == ()
    assert await world.restored(3) == world.history[3]


async def test_a_mistake_survives_the_death_of_the_cycle_that_found_it() -> None:
    """The next attempt may draw chunks that are as they were: it must not believe the tracker, and its point tells."""
    died = 0
    for number in range(1, 200):
        world = await _lied_to(17, 1.0)
        calls = await world.life({number: Fault(When.AFTER)})
        if len(calls) < number:
            break
        written_down = any(call.startswith("rename tracking/") for call in calls)
        world.sample = 0.0 if written_down else 1.0
        await world.cycle()
        points = await world.note()
        assert await world.restored(2) == world.history[2], f"call {number}"
        told = [p.number for p in points if any(d.trust is not None and d.trust.mistake for d in p.disks)]
        assert told == [2], f"call {number}: {calls[-1]}"
        died += written_down
    assert died > 20


async def test_a_store_that_can_not_be_written_costs_no_point() -> None:
    world = await _lied_to(17, 1.0)

    class Full(MemoryShare):
        async def rename(self, source: str, target: str, *, replace: bool = False) -> None:
            raise BusyError("rename", target, "it is stuck")

    store = Full("store")
    store.tree = world.store.tree  # type: ignore[attr-defined]  # it is a MemoryShare
    world.store = store
    await world.cycle()
    assert await world.restored(2) == world.history[2]
    assert any(isinstance(e, Warned) and "can't be relied on" in e.text for e in world.events)


async def test_marks_of_a_disk_that_was_not_lied_about_stay_when_another_s_are_forgotten() -> None:
    world = await _lied_to(17, 1.0)
    calls = await world.life({})
    forgotten = [call for call in calls if call.startswith("tracker forget")]
    assert forgotten[0] == "tracker forget 웹 🖥.vhd"
    replica_id = (await world.note())[0].replica_id
    marks = await MarkStore(world.store).load(replica_id)
    assert sorted(mark.path for mark in marks.marks) == ["b.vhd", "웹 🖥.vhd"]
    assert marks.doubts == ()
    assert marks == replace(marks)
