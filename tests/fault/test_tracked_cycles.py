"""Cycles that read only what a tracker says has changed, killed and disturbed at every call: no point may miss a chunk,
whatever the guest does between the attempts and whatever becomes of the marks."""

from __future__ import annotations

import asyncio
import copy
from random import Random

import pytest

from replicad.model.errors import UnreachableError
from replicad.model.points import Provenance
from replicad.replica.recovery import recover, roll_back
from replicad.storage.documents import remove_tree
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode
from replicad.workflows.opening import opened_replica
from tests.support.crash_points import InlineExecutor
from tests.support.faulty import CRASHES, Fault, When
from tests.support.tracked_world import TrackedWorld
from tests.support.world import CHUNK, VM, read_tree
from tests.support.writing_machine import BitmapTracker, CloneTracker, Guest

LOST = Fault(When.BEFORE, UnreachableError("reach", "nas", "it is gone"))
LOST_AFTER = Fault(When.AFTER, UnreachableError("reach", "nas", "it is gone"))
FAULTS = (*CRASHES, LOST, LOST_AFTER)
TRACKED = {Provenance.DIRTY_BITMAP.value, Provenance.EXTENTS.value}
_STEPS_AT_LEAST = 60
_SAMPLE = 25
_SOAK_SEEDS = 12


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is durable, and known to be, now and then."""
    monkeypatch.setattr("replicad.replica.disk_update._FLUSH_EVERY_BYTES", 2 * CHUNK)
    monkeypatch.setattr("replicad.replica.disk_update.BATCH_CHUNKS", 2)
    monkeypatch.setattr("replicad.workflows.collecting.BATCH_CHUNKS", 2)


async def begun(seed: int) -> TrackedWorld:
    """Two points of two disks; the marks of the second one are there, and the guest has written since."""
    random = Random(seed)
    guest = Guest(random)
    guest.put("가 disk.vhd", random.randbytes(5 * CHUNK + 700) + bytes(2 * CHUNK))
    guest.put("나.vhd", random.randbytes(3 * CHUNK))
    world = TrackedWorld(
        MemoryShare("source"), MemoryShare("replica"), InlineExecutor(), seed=seed, guest=guest,
        make_tracker=CloneTracker if seed % 2 else BitmapTracker,
    )  # fmt: skip
    await world.cycle()
    guest.live(3)
    report = await world.cycle()
    assert report.provenance in TRACKED
    guest.is_busy = random.random() < 0.5
    guest.live(4)
    size = len(guest.disks["나.vhd"])
    guest.resize("나.vhd", size + random.choice([-700, -CHUNK - 1, 0, 700, CHUNK + 1]))
    return world


async def meddle(world: TrackedWorld, random: Random, older: dict[str, bytes]) -> None:
    """What may happen between two attempts, to the machine and to what is remembered."""
    guest = world.guest
    match random.choice(["rest", "live", "undo", "undo", "undo", "resize", "restart", "replace", "roll back"]):
        case "live":
            guest.live(3)
        case "undo":
            guest.become(world.history[random.choice([1, max(world.history)])])
        case "resize":
            path = random.choice(sorted(guest.disks))
            size = len(guest.disks[path])
            guest.resize(path, random.choice([1, size // 2, size - 1, size + 1, size + CHUNK]))
            guest.resize(path, size)
        case "restart":
            guest.restart()
        case "replace":
            path = random.choice(sorted(guest.disks))
            guest.put(path, random.randbytes(2 * CHUNK) + bytes(guest.disks[path][2 * CHUNK :]))
        case "roll back":
            async with opened_replica(world.replica, VM, None, world.context()) as opened:
                await roll_back(opened.replica, await recover(opened.replica))
            guest.live(1)
    await spoil(world, random.choice(["keep", "keep", "keep", "lose", "change", "old"]), random, older)


async def spoil(world: TrackedWorld, how: str, random: Random, older: dict[str, bytes]) -> None:
    """What may happen to the marks' file."""
    if how == "keep":
        return
    found = await read_tree(world.store)
    await remove_tree(world.store, "tracking")
    wanted = {"lose": {}, "change": found, "old": older}[how]
    for path, data in wanted.items():
        spoiled = bytearray(data)
        if how == "change" and spoiled:
            spoiled[random.randrange(len(spoiled))] ^= 1 << random.randrange(8)
        await world.store.make_dir("tracking")
        async with await world.store.open(path, OpenMode.CREATE) as file:
            await file.write(spoiled, 0)


async def try_out(seed: int, number: int, fault: Fault) -> None:
    world = await begun(seed)
    older = await read_tree(world.store)
    random = Random(f"{seed} {number} {fault.when} {fault.error}")
    calls = await world.life({number: fault})
    assert len(calls) >= number
    await world.check()
    for _ in range(random.choice([0, 1, 1, 3])):
        await meddle(world, random, older)
        await world.life({random.randrange(1, len(calls) + 1): random.choice(FAULTS)})
        await world.check()
    await meddle(world, random, older)
    world.guest.is_busy = False
    await world.cycle()
    await world.check()
    world.guest.write("나.vhd" if "나.vhd" in world.guest.disks else min(world.guest.disks), 5, b"last words")
    report = await world.cycle()
    assert report.provenance in TRACKED, "tracking did not come back"
    await world.check()


@pytest.mark.parametrize("size_chunks", [4, 5.01, 3.99, 6.5])
async def test_what_an_interrupted_cycle_wrote_and_the_guest_took_back_is_brought_back(size_chunks: float) -> None:
    random, size = Random(7), int(size_chunks * CHUNK)
    deaths = 0
    for number in range(1, 200):
        guest = Guest(Random(number))
        guest.put("가 disk.vhd", random.randbytes(int(4.5 * CHUNK)))
        world = TrackedWorld(
            MemoryShare("source"), MemoryShare("replica"), InlineExecutor(), guest=guest, make_tracker=CloneTracker
        )
        await world.cycle()
        guest.become({"가 disk.vhd": random.randbytes(size)})
        calls = await world.life({number: Fault(When.AFTER)})
        if len(calls) < number:
            break
        deaths += 1
        guest.become(world.history[1])
        guest.write("가 disk.vhd", CHUNK + 7, b"and a word more")
        report = await world.cycle()
        assert report.provenance == Provenance.EXTENTS.value
        await world.check()
    assert deaths >= _STEPS_AT_LEAST


async def _violations(cases: list[tuple[int, int, Fault]]) -> list[str]:
    found: list[str] = []
    for seed, number, fault in cases:
        try:
            async with asyncio.timeout(60):
                await try_out(seed, number, copy.copy(fault))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what is looked for
            found.append(f"seed {seed}, call {number}, {fault}: {type(error).__name__}: {error}")
    return found


async def _cases(seed: int) -> list[tuple[int, int, Fault]]:
    calls = await (await begun(seed)).life({})
    assert len(calls) >= _STEPS_AT_LEAST
    names = {"tracker begin", "tracker passed", "tracker end"}
    assert names <= set(calls)
    return [(seed, number, fault) for number in range(1, len(calls) + 1) for fault in FAULTS]


@pytest.mark.parametrize("seed", range(4))
async def test_a_tracked_cycle_that_is_disturbed_anywhere_misses_no_chunk(seed: int) -> None:
    cases = Random(seed).sample(await _cases(seed), _SAMPLE)
    assert await _violations(cases) == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 100 + _SOAK_SEEDS))
async def test_a_tracked_cycle_that_is_disturbed_everywhere_misses_no_chunk(seed: int) -> None:
    assert await _violations(await _cases(seed)) == []
