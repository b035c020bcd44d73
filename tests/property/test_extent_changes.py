"""Where bytes lie tells every change: real file systems, everything that may happen to a file on them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from replicad.model.changes import Outside
from replicad.model.extents import total_bytes
from replicad.tracking.port import Facts, Untold
from tests.support.cloned import ClonedDisk, brought_up_to_date, content
from tests.support.filesystems import mounted
from tests.support.rewriting import BLOCK, Rewriter, move_everything

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")

_log = logging.getLogger(__name__)
_KINDS = ("xfs", "btrfs", "btrfs compressed", "btrfs without copy on write")
_SECONDS = 3.0
_LONG_S = float(os.environ.get("REPLICAD_SOAK_SECONDS", "300"))


@contextmanager
def _file_system(kind: str) -> Iterator[Path]:
    options = {"btrfs compressed": "compress-force=zstd:1", "btrfs without copy on write": "nodatacow"}.get(kind, "")
    with mounted(kind.split()[0], 1 << 30, options) as where:
        yield where


class _Rounds:
    """Change, clone, compare, over and over."""

    def __init__(self, where: Path, kind: str, seed: int, executor: ThreadPoolExecutor) -> None:
        self.disk = ClonedDisk(where, executor)
        self.disk.path.write_bytes(Random(seed).randbytes(1 << 20))
        self.rewriter = Rewriter(self.disk.path, kind.split()[0], Random(seed))
        self.random = Random(seed)
        self.seed = seed
        self.rounds = self.told_bytes = self.different_bytes = 0
        self._facts: Facts = {}
        self._before = bytearray()

    async def begin(self) -> None:
        self._facts = await self.disk.kept()
        self._before = bytearray(self.disk.path.read_bytes())

    async def one(self) -> bool:
        """One round; False if the tracker could not tell what changed, as blocks were moved all the time."""
        self.rewriter.kept = self.disk.where / self._facts["clone"]
        self.rewriter.done.clear()
        self.rewriter.some()
        tracker = self.disk.tracker()
        async with self.disk.cloned() as file:
            told = await tracker.changes(file, self._facts)
            after = await content(file.file)
        where = f"seed {self.seed}, round {self.rounds}, {self.rewriter.done}"
        assert after == self.disk.path.read_bytes(), f"the clone is not what was cloned: {where}"
        if isinstance(told, Untold):
            assert "moved its bytes around" in told.reason, f"{told}: {where}"
            return False
        assert told.outside is Outside.UNCHANGED
        assert brought_up_to_date(self._before, after, told.extents) == after, f"a change was not told: {where}"
        self.told_bytes += total_bytes(told.extents)
        self.different_bytes += _different_bytes(self._before, after)
        self.rounds += 1
        if self.random.random() < 0.7:  # else the next comparison is over the changes of two rounds
            facts = await self.disk.kept(self._facts)
            await tracker.forget(self.disk.path.name, self._facts)
            self._facts, self._before = facts, bytearray(self.disk.path.read_bytes())
        return True

    @property
    def ratio(self) -> float:
        return self.told_bytes / max(1, self.different_bytes)


def _different_bytes(before: bytearray, after: bytearray) -> int:
    """In whole blocks."""
    was = before + bytes(max(0, len(after) - len(before)))
    return sum(
        min(BLOCK, len(after) - at)
        for at in range(0, len(after), BLOCK)
        if was[at : at + BLOCK][: len(after) - at] != after[at : at + BLOCK]
    )


async def _changed_for(seconds: float, kind: str, seed: int, rounds: int) -> _Rounds:
    with _file_system(kind) as where, ThreadPoolExecutor(1) as executor:
        work = _Rounds(where, kind, seed, executor)
        await work.begin()
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and work.rounds < rounds:
            assert await work.one()
        await work.disk.share.close()
    _log.info("%s: %d rounds, told / different = %.2f", kind, work.rounds, work.ratio)
    return work


@pytest.mark.parametrize("kind", _KINDS)
async def test_whatever_differs_between_two_clones_lies_in_the_change_set(kind: str) -> None:
    work = await _changed_for(_SECONDS, kind, seed=6, rounds=150)
    assert work.rounds >= 10
    if kind != "btrfs compressed":  # there all that is compressed counts as changed
        assert work.ratio < 4, f"{work.told_bytes} bytes were told where {work.different_bytes} differ"


@pytest.mark.soak
@pytest.mark.timeout(_LONG_S + 300)
@pytest.mark.parametrize("kind", _KINDS)
async def test_whatever_differs_between_two_clones_lies_in_the_change_set_for_long(kind: str) -> None:
    end_s = time.monotonic() + _LONG_S
    seed = int(time.time())
    while time.monotonic() < end_s:
        seed += 1
        work = await _changed_for(min(60, end_s - time.monotonic()), kind, seed, rounds=2000)
        assert work.rounds == 0 or kind == "btrfs compressed" or work.ratio < 6


@pytest.mark.parametrize("kind", ["btrfs", "btrfs compressed"])
async def test_blocks_that_move_while_they_are_compared_hide_no_change(kind: str) -> None:
    with _file_system(kind) as where, ThreadPoolExecutor(1) as executor:
        work = _Rounds(where, kind, 7, executor)
        work.rewriter.balances = False  # one at a time
        await work.begin()
        stop = threading.Event()

        def move() -> int:
            times = 0
            while not stop.is_set():
                move_everything(where)
                times += 1
            return times

        with ThreadPoolExecutor(1) as mover:
            moving = mover.submit(move)
            try:
                untold, end_s = 0, time.monotonic() + _SECONDS
                while time.monotonic() < end_s and not moving.done():
                    untold += not await work.one()
            finally:
                stop.set()
                moved = moving.result()
        await work.disk.share.close()
    _log.info("%s: %d rounds while blocks moved %d times, %d untold", kind, work.rounds, moved, untold)
    assert work.rounds >= 5
    assert moved >= 2


async def test_a_replaced_file_is_told_as_another() -> None:
    with _file_system("xfs") as where, ThreadPoolExecutor(1) as executor:
        disk = ClonedDisk(where, executor)
        disk.path.write_bytes(Random(1).randbytes(1 << 20))
        facts = await disk.kept()
        data = bytearray(disk.path.read_bytes())
        data[5] ^= 1
        disk.path.unlink()
        disk.path.write_bytes(data)
        told = await disk.changes(facts)
        assert not isinstance(told, Untold)
        assert total_bytes(told.extents) == len(data)
        await disk.share.close()
