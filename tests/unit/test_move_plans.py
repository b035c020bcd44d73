"""What a move will take at its places is known before a byte moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from replicad.model.errors import OutOfSpaceError
from replicad.model.moves import MoveRecord
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode
from replicad.workflows.move_plan import Elsewhere, MovePlan, plan_move

MIB = 1024 * 1024
RECORD = MoveRecord(
    "0123456789abcdef0123456789abcdef", "웹", r"\\nas1\vms\웹", (r"\\nas2\a\웹", r"\\nas3\b"),
    datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip


@asynccontextmanager
async def _source() -> AsyncIterator[MemoryShare]:
    """A sparse disk of 8 MiB, 1 MiB of it allocated, and one of 2 MiB that is full."""
    share = MemoryShare("source")
    for path, size_bytes, full_bytes in (("희소.vhdx", 8 * MIB, MIB), ("full.vhdx", 2 * MIB, 2 * MIB)):
        async with await share.open(path, OpenMode.CREATE) as file:
            await file.write(bytes([7]) * full_bytes, 0)
            await file.set_size(size_bytes)
    yield share


async def _plan(*places: MemoryShare, **disks: int) -> MovePlan:
    async with _source() as source:
        record = replace(RECORD, places=RECORD.places[: len(places)])
        elsewhere = [Elsewhere(f"{name}.vhdx", place) for name, place in disks.items()]
        return await plan_move(record, source, places, elsewhere=elsewhere)


async def test_holes_are_neither_copied_nor_given_room_where_a_place_keeps_them() -> None:
    plan = await _plan(MemoryShare("place", capacity_bytes=5 * MIB))
    assert (plan.copied_bytes, plan.warnings) == (3 * MIB, ())


async def test_a_place_that_keeps_no_holes_needs_room_for_them_and_that_is_said() -> None:
    with pytest.raises(OutOfSpaceError, match="11 MiB are needed and 5 MiB are free"):
        await _plan(MemoryShare("place", capacity_bytes=5 * MIB, sparse=False))
    plan = await _plan(MemoryShare("place", sparse=False))
    assert plan.copied_bytes == 3 * MIB
    assert plan.warnings == ("place keeps no holes in files: they take 7 MiB more there",)


async def test_only_the_files_that_go_there_count() -> None:
    first, second = MemoryShare("first", sparse=False), MemoryShare("second")
    assert (await _plan(first, second, 희소=1)).warnings == ()
    assert len((await _plan(first, second, full=1)).warnings) == 1
