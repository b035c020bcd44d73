"""The restore script against random histories of the real thing: every point, at every moment, whatever died."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from random import Random

import pytest

from replicad.model.retention import Keep
from replicad.replica.directory import list_numbers, open_replica
from replicad.replica.lineage import read_lineage
from replicad.storage.memory import MemoryShare
from replicad.workflows.pin import pin_points
from tests.support.faulty import CRASHES, Fault, FaultyShare, When, crashes
from tests.support.restore_script import copied_out, files_below, script_here
from tests.support.world import CHUNK, VM, World, digests, memory_world, mutate

NAMES = ("가 disk.vhd", "sub/나 100%.vhd", "sub/깊이/💾.vhd", "machine.vmcx")


async def live_a_while(world: World, random: Random) -> None:
    """Change the virtual machine's files."""
    for name in NAMES:
        data = world.disks.get(name)
        if data is None and random.random() < 0.5:
            await world.put(name, mutate(random.randbytes(2 * CHUNK + 9), random, 6 * CHUNK))
        elif data is not None and random.random() < 0.15 and len(world.disks) > 1:
            await world.drop(name)
        elif data is not None:
            await world.put(name, mutate(data, random, 6 * CHUNK))
    if not world.disks:
        await world.put(NAMES[0], random.randbytes(CHUNK))


class Copies:
    """Looks at a replica through copies of its directory, with nothing but the script."""

    def __init__(self, base: Path, random: Random) -> None:
        self._base = base
        self._random = random
        self._numbers = count()

    async def check(self, world: World, most_points: int) -> int:
        """Restore some points from a copy of the replica as it lies there now; how many."""
        here = self._base / f"look {next(self._numbers)}"
        here.mkdir(parents=True)
        copy = await copied_out(world.replica, VM, here / "사본 🖥")
        numbers = sorted(world.history)
        for number in self._random.sample(numbers, min(most_points, len(numbers))):
            options = self._random.choice([[], ["--unchecked"]])
            latest = number == max(numbers) and self._random.random() < 0.5
            target = here / f"point {number}"
            outcome = script_here(copy, target, *([] if latest else ["--point", str(number)]), *options)
            assert (outcome.code, outcome.err) == (0, "")
            assert digests(files_below(target)) == digests(world.history[number]), f"point {number}"
        return min(most_points, len(numbers))


async def _note_commit(world: World) -> None:
    """A sync that died may have committed its point before; a prune that died may have removed some."""
    replica = await open_replica(world.replica, VM)
    if replica is not None:
        numbers = {p.number for p in await read_lineage(replica, await list_numbers(replica))}
        for number in numbers:
            world.history.setdefault(number, dict(world.disks))
        world.history = {number: disks for number, disks in world.history.items() if number in numbers}


async def _prune(world: World, share: MemoryShare, random: Random) -> None:
    """Remove some points; now and then that dies on the way."""
    faults = {random.randint(1, 60): random.choice(CRASHES)} if random.random() < 0.5 else {}
    numbers = sorted(world.history)
    await pin_points(world.replica, VM, {n for n in numbers if random.random() < 0.3}, (), world.context())
    world.replica = FaultyShare(share.view(), faults)
    if await crashes(world.prune(Keep(random.randint(1, 3), 0, 0, 0, 0))) and random.random() < 0.6:
        share.crash(Random(random.random()))
    world.replica = share.view()
    await _note_commit(world)


async def history_with_deaths(seed: int, restores: int, base: Path) -> None:
    """Goes on until so many restores were compared, a quarter of them with a cycle that had died; then all points."""
    random = Random(seed)
    done = after_deaths = 0
    async with memory_world(seed, server_copy=seed % 2 == 0) as world:
        share = MemoryShare(volatile=True, server_copy=seed % 2 == 0)
        copies = Copies(base, random)
        usual = 60
        while done < restores or after_deaths * 4 < restores:
            await live_a_while(world, random)
            if random.random() < 0.7:
                world.replica = FaultyShare(share.view(), {random.randint(1, usual): random.choice(CRASHES)})
                died = await crashes(world.sync())
                if died and random.random() < 0.6:
                    share.crash(Random(random.random()))
                world.replica = share.view()
                if died:
                    await _note_commit(world)
                    compared = await copies.check(world, 2)
                    done, after_deaths = done + compared, after_deaths + compared
                    continue
            world.replica = faulty = FaultyShare(share.view())
            await world.sync()
            usual = len(faulty.log)
            world.replica = share.view()
            done += await copies.check(world, 1)
            if random.random() < 0.5:
                await _prune(world, share, random)
                done += await copies.check(world, 2)
        await copies.check(world, 1000)


@pytest.mark.parametrize("seed", range(4))
async def test_every_point_of_a_random_history_is_what_it_was_whatever_died(seed: int, tmp_path: Path) -> None:
    await history_with_deaths(seed, 10, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("worker", range(4))
async def test_hundreds_of_random_histories(worker: int, tmp_path: Path) -> None:
    for seed in range(100 + worker, 260, 4):
        base = tmp_path / str(seed)
        base.mkdir()
        await history_with_deaths(seed, 30, base)


async def _reshape(world: World, share: MemoryShare, faults: dict[int, Fault]) -> tuple[bool, int]:
    """A cycle with a disk that grows, one that shrinks, one that is new and one that is gone; whether it died, and how
    many steps it took."""
    world.replica = share
    random = Random(5)
    await world.put("grows.vhd", random.randbytes(CHUNK + 7))
    await world.put("sub/shrinks.vhd", random.randbytes(3 * CHUNK) + bytes(CHUNK))
    await world.put("goes.vhd", random.randbytes(700))
    await world.sync()
    await world.put("grows.vhd", world.disks["grows.vhd"] + bytes(CHUNK) + random.randbytes(CHUNK))
    await world.put("sub/shrinks.vhd", world.disks["sub/shrinks.vhd"][: CHUNK + 1])
    await world.drop("goes.vhd")
    await world.put("comes.vhd", random.randbytes(CHUNK + 1))
    world.replica = faulty = FaultyShare(share.view(), faults)
    died = await crashes(world.sync())
    world.replica = share.view()
    return died, len(faulty.log)


async def _die_at(number: int, fault: Fault, base: Path) -> None:
    async with memory_world(5) as world:
        share = MemoryShare(volatile=fault.when is When.AFTER)
        await _reshape(world, share, {number: fault})
        if fault.when is When.AFTER:
            share.crash(Random(number))
        await _note_commit(world)
        assert await Copies(base, Random(number)).check(world, 2) >= 1


async def _steps() -> int:
    async with memory_world(5) as world:
        return (await _reshape(world, MemoryShare(), {}))[1]


@pytest.mark.parametrize("fault", CRASHES, ids=[f.when.value for f in CRASHES])
async def test_a_cycle_that_reshapes_everything_may_die_at_any_step(fault: Fault, tmp_path: Path) -> None:
    first = CRASHES.index(fault) + 1
    for number in range(first, await _steps() + 1, 9):
        await _die_at(number, fault, tmp_path / f"{number}")


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", CRASHES, ids=[f.when.value for f in CRASHES])
async def test_a_cycle_that_reshapes_everything_may_die_at_every_step(fault: Fault, tmp_path: Path) -> None:
    for number in range(1, await _steps() + 1):
        await _die_at(number, fault, tmp_path / f"{number}")
