"""Cycles of a machine under a real QEMU, of which every single command fails in every way: the machine never stays
stopped, nothing of ours is left in it, no point is wrong or called better than it is, and tracking comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from replicad.model.points import Consistency, Provenance
from tests.support.filesystems import mounted
from tests.support.qemu_faults import Blow
from tests.support.under_qemu import NAMES, UnderQemu, under_qemu

_COMMANDS_AT_LEAST = {"ext4": 60, "xfs": 40}
_SAMPLE = 8


async def try_out(directory: Path, cases: list[tuple[int, Blow]]) -> list[str]:
    """What is wrong after any of these blows, one after the other on one machine as long as it lives."""
    found: list[str] = []
    left = list(reversed(cases))
    while left:
        async with under_qemu(directory) as world:
            while left:
                number, blow = left.pop()
                try:
                    async with asyncio.timeout(100):
                        await one(world, number, blow)
                except Exception as error:  # noqa: BLE001  # whatever it is, it is what is looked for
                    found.append(f"command {number}, {blow.value}: {type(error).__name__}: {error}")
                    break
                if world.is_dead:
                    break
    return found


async def one(world: UnderQemu, number: int, blow: Blow) -> None:
    assert world.qemu is not None
    log = await world.struck_cycle(number, blow)
    what = log[number - 1] if len(log) >= number else "none"
    try:
        dead = world.is_dead
        if not dead and blow not in (Blow.DIED, Blow.DIED_AFTER):
            assert await world.qemu.own.status() == "running"
        await world.check_points()
        await world.write()
        report = await world.cycle()
        wanted = Consistency.COLD if dead else Consistency.CRASH
        assert report.point.consistency is wanted
        if dead:
            world.check_files()
            await world.check_points()
            return
        await world.check_nothing_is_left(bitmaps=len(NAMES))
        await world.write()
        report = await world.cycle()
        assert report.provenance == Provenance.DIRTY_BITMAP.value, report.tracking
        await world.check_nothing_is_left(bitmaps=len(NAMES))
        await world.write()
        await world.check_points()
    except Exception as error:
        error.add_note(what)
        raise AssertionError(f"at '{what}': {type(error).__name__}: {error}") from error


@contextmanager
def source_on(kind: str, tmp_path: Path) -> Iterator[Path]:
    """Where the disks are: on ext4 QEMU makes the snapshots, on XFS they are cloned."""
    if kind == "ext4":
        yield tmp_path
        return
    with mounted(kind) as where:
        yield where


async def commands_of_a_cycle(directory: Path, kind: str) -> int:
    async with under_qemu(directory) as world:
        log = await world.struck_cycle(0, Blow.LOST)
        assert {"stop", "cont", "transaction", "block-export-add", "block-dirty-bitmap-remove"} <= set(log)
        assert len(log) >= _COMMANDS_AT_LEAST[kind]
        return len(log)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
async def test_a_cycle_that_is_struck_at_some_commands_does_no_harm(tmp_path: Path, kind: str) -> None:
    with source_on(kind, tmp_path) as where:
        count = await commands_of_a_cycle(where, kind)
        cases = [(number, blow) for number in range(1, count + 1) for blow in Blow]
        assert await try_out(where, Random().sample(cases, _SAMPLE)) == []


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("blow", Blow)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
async def test_a_cycle_that_is_struck_at_any_command_does_no_harm(tmp_path: Path, kind: str, blow: Blow) -> None:
    with source_on(kind, tmp_path) as where:
        count = await commands_of_a_cycle(where, kind)
        assert await try_out(where, [(number, blow) for number in range(1, count + 1)]) == []
