"""Moves in the catalog: kept until they have ended and long after, found by the first digits of their ids."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from replicad.catalog.catalog import open_catalog
from replicad.catalog.moved_sources import moved_sources_in
from replicad.catalog.runs import Bounds
from replicad.catalog.schema import MIGRATIONS, migrate
from replicad.model.errors import ConfigError, NotFoundError
from replicad.model.known_moves import KnownMove, MoveOrder
from replicad.model.moved_sources import moved_again
from replicad.model.moves import FileState, MovedFile, MoveOptions, MovePhase, MoveRecord, Sealed, SourceAfter
from replicad.model.points import FileKind

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DISK = MovedFile(
    0, "디스크 1.vhdx", FileKind.DISK, 1, "디스크 1.vhdx", 1 << 40, parent="부모.vhdx",
    sealed=Sealed(FileState(1 << 40, 7, "ab"), FileState(1 << 40, 8, "cd")),
)  # fmt: skip
MOVE = KnownMove(
    MoveRecord(
        "a1" * 16, "웹 01 🖥", r"\\nas1\vms\웹", (r"\\nas2\vms\웹", "/빠른"), NOW,
        MoveOptions(0.25, 7, source_after=SourceAfter.KEEP, bandwidth="50M", priority=3), MovePhase.SWITCHING, (DISK,),
        made=((0, "새"),), rounds=4, freeze_ms=31.5, retired=NOW, step=9,
    ),
    MoveOrder((("웹*.vhdx", 1),), "/run/웹/qmp.sock", is_configured=True), due=NOW + MINUTE, error="잃음",
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "상태 🗄" / "catalog.sqlite"


def fail(sentence: str) -> None:
    """For where no warning is expected."""
    raise AssertionError(sentence)


def numbered(number: int, ended: datetime | None = None) -> KnownMove:
    record = replace(MOVE.record, id=f"{number:032x}", began=NOW + number * MINUTE)
    return replace(MOVE, record=record, ended=ended)


async def test_a_move_is_there_after_a_restart_as_it_was_saved_last(path: Path) -> None:
    later = replace(MOVE, record=replace(MOVE.record, phase=MovePhase.DONE, step=12), ended=NOW + MINUTE, error=None)
    async with open_catalog(path, fail) as catalog:
        assert await catalog.moves() == ()
        await catalog.save_move(MOVE)
    async with open_catalog(path, fail) as catalog:
        assert await catalog.moves() == (MOVE,)
        await catalog.save_move(later)
        assert await catalog.moves() == (later,)


async def test_a_move_is_found_by_digits_that_no_other_begins_with(path: Path) -> None:
    one, other = (replace(MOVE, record=replace(MOVE.record, id=start + "0" * 24)) for start in ("ab12cd34", "ab99cd34"))
    async with open_catalog(path, fail) as catalog:
        await catalog.save_move(one)
        await catalog.save_move(other)
        assert await catalog.move("AB1") == one
        assert await catalog.move(other.id) == other
        with pytest.raises(ConfigError, match="ab12cd34, ab99cd34"):
            await catalog.move("ab")
        for unknown in ("c", "", "%"):
            with pytest.raises(NotFoundError):
                await catalog.move(unknown)


async def test_of_moves_that_have_ended_the_oldest_are_forgotten_and_no_other_ever_is(path: Path) -> None:
    async with open_catalog(path, fail, bounds=Bounds(ended_moves=2)) as catalog:
        unfinished = [numbered(n) for n in range(3)]
        ended = [numbered(10 + n, NOW + (9 - n) * MINUTE) for n in range(4)]
        for move in (*unfinished, *ended):
            await catalog.save_move(move)
        assert await catalog.moves() == (*unfinished, *ended[:2])


async def test_catalog_from_before_there_were_moves_keeps_all_it_has(path: Path) -> None:
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, MIGRATIONS[:4])
    connection.execute("INSERT INTO verification (vm, repair_requested, failures) VALUES ('웹', 0, 3)")
    connection.close()
    async with open_catalog(path, fail) as catalog:
        assert (await catalog.verifications())["웹"].failures == 3
        await catalog.save_move(MOVE)
        assert await catalog.moves() == (MOVE,)


async def test_where_a_machine_went_is_written_down_with_its_move_and_read_without_opening_the_catalog(
    path: Path,
) -> None:
    assert moved_sources_in(path) == {}
    first = moved_again(None, "웹 🖥", "/원본", r"\\nas1\vms\웹", NOW)
    second = moved_again(first, "웹 🖥", r"\\nas1\vms\웹", "/새 곳", NOW + MINUTE)
    assert second.former == ("/원본", r"\\nas1\vms\웹")
    async with open_catalog(path, fail) as catalog:
        await catalog.save_move(MOVE, first)
        await catalog.save_move(MOVE)
        assert moved_sources_in(path) == {"웹 🖥": first}
        await catalog.save_move(MOVE, second)
        assert await catalog.moved_sources() == {"웹 🖥": second}
    assert moved_sources_in(path) == {"웹 🖥": second}


async def test_what_is_no_record_of_a_move_is_taken_for_damage(path: Path) -> None:
    async with open_catalog(path, fail) as catalog:
        await catalog.save_move(MOVE)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE move SET record = '{}'")
    connection.close()
    warnings: list[str] = []
    async with open_catalog(path, warnings.append) as catalog:
        assert await catalog.moves() == ()
    assert "was damaged" in warnings[0]
