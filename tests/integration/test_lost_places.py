"""A move whose destination or source is lost, or not mounted, when it is gone on with: no last copy is deleted."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from socket import socket

import pytest

from replicad.model.address import parse_address
from replicad.model.errors import ConflictError, ReplicadError
from replicad.model.moves import MoveOptions, MovePhase, MoveRecord, SourceAfter
from replicad.model.progress import Alarmed, PhaseStarted, ProgressEvent
from replicad.service.compose import Shares
from replicad.service.moving.orders import Wanted, moves_of
from replicad.settings import load_settings
from replicad.workflows.move_names import retired_name
from tests.support.cold_moves import ColdMoves, local_settings
from tests.support.vhdx_builder import MIB
from tests.support.vhdx_chains import build_chain
from tests.support.vhdx_oracles import reads_as

_DISK = "디스크 하나.vhd"


class _Died(BaseException):
    """The end of a process."""


@dataclass
class _DiesAt(list[ProgressEvent]):
    """What is told of a move, whose process dies when it comes to a phase."""

    phase: str
    told: list[ProgressEvent] = field(default_factory=list)

    def append(self, event: ProgressEvent) -> None:
        self.told.append(event)
        if isinstance(event, PhaseStarted) and event.name == self.phase:
            raise _Died


def _source(tmp_path: Path) -> Path:
    source = tmp_path / "원본 VM"
    source.mkdir()
    (source / _DISK).write_bytes(b"vhd" * 50_000)
    (source / "설정 🖥.xml").write_bytes(b"<vm/>")
    return source


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


async def _switched(tmp_path: Path, source: Path) -> tuple[ColdMoves, MoveRecord]:
    """A move whose process died before it had put the source away."""
    moves = ColdMoves(local_settings(tmp_path), events=_DiesAt("putting the source away"))
    record = (await moves.plan(str(source), str(tmp_path / "곳"))).record
    with pytest.raises(_Died):
        await moves.run(record)
    moves.events = []
    assert moves.remembered[-1].phase is MovePhase.SWITCHED
    return moves, moves.remembered[-1]


async def test_a_source_is_kept_when_its_destination_was_lost_in_its_grace(tmp_path: Path) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    plan = await moves.plan(str(source), str(tmp_path / "곳"), options=MoveOptions(grace_s=3600))
    record = await moves.run(plan.record)
    kept = _files(source)
    (tmp_path / "곳").rename(tmp_path / "not mounted")
    (tmp_path / "곳").mkdir()
    with pytest.raises(ConflictError, match="what it has written down at"):
        await moves.run(record, later_s=3700)
    assert _files(source) == kept
    assert list((tmp_path / "곳").iterdir()) == []
    (tmp_path / "곳").rmdir()
    (tmp_path / "not mounted").rename(tmp_path / "곳")
    (tmp_path / "곳" / _DISK).unlink()
    assert (await moves.run(record, later_s=3700)).phase is MovePhase.DONE
    assert any(isinstance(event, Alarmed) and "is not deleted" in event.text for event in moves.events)
    assert _files(source) == kept


@pytest.mark.parametrize("after", list(SourceAfter))
async def test_a_move_whose_end_was_not_remembered_comes_to_it_again(tmp_path: Path, after: SourceAfter) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    plan = await moves.plan(str(source), str(tmp_path / "곳"), options=MoveOptions(source_after=after))
    record = await moves.run(plan.record)
    kept = _files(source)
    assert (await moves.run(replace(record, phase=MovePhase.RETIRED))).phase is MovePhase.DONE
    assert (_files(source), set(_files(tmp_path / "곳"))) == (kept, {_DISK, "설정 🖥.xml"})


@pytest.mark.parametrize("lost", ["a disk at the destination", "the destination", "the source"])
async def test_a_source_is_not_put_away_where_either_side_is_not_whole(tmp_path: Path, lost: str) -> None:
    source = _source(tmp_path)
    moves, record = await _switched(tmp_path, source)
    away, what = tmp_path / "away", {"the source": source, "the destination": tmp_path / "곳"}.get(lost)
    what = what or tmp_path / "곳" / _DISK
    what.rename(away)
    if away.is_dir():
        what.mkdir()
    before = _files(tmp_path / "원본 VM")
    with pytest.raises(ConflictError, match="not there"):
        await moves.run(record)
    assert _files(tmp_path / "원본 VM").items() >= before.items()
    if away.is_dir():
        shutil.rmtree(what)
    away.rename(what)
    assert (await moves.run(record)).phase is MovePhase.DONE
    assert _files(source) == {}
    assert set(_files(tmp_path / "곳")) == {_DISK, "설정 🖥.xml"}


async def test_what_was_put_away_in_part_before_a_death_is_put_away_though_the_rest_was_touched(tmp_path: Path) -> None:
    source = _source(tmp_path)
    moves, record = await _switched(tmp_path, source)
    (source / _DISK).rename(source / retired_name(record, _DISK))
    os.utime(source / "설정 🖥.xml", (1, 1))
    assert (await moves.run(record)).phase is MovePhase.DONE
    assert _files(source) == {}


async def test_all_that_a_shared_parent_is_based_on_stays_with_it(tmp_path: Path) -> None:
    source, moves = tmp_path / "체인", ColdMoves(local_settings(tmp_path))
    base, middle, web, db = (source / name for name in ("base.vhdx", "middle.vhdx", "웹.avhdx", "db.avhdx"))
    build_chain(Random(4), [base, middle, web], range(4), 6 * MIB, run_sectors=8)
    chain = build_chain(Random(4), [base, middle, db], range(4), 6 * MIB, run_sectors=8)
    moves.takes = lambda path: path != "db.avhdx"
    plan = await moves.plan(str(source), str(tmp_path / "곳"))
    assert {file.path for file in plan.record.files if file.is_shared} == {"base.vhdx", "middle.vhdx"}
    await moves.run(plan.record)
    assert set(_files(source)) == {"base.vhdx", "middle.vhdx", "db.avhdx"}
    reads_as(chain, [base, middle, db], with_dissect=False)


async def test_of_two_moves_from_one_directory_one_waits_for_the_other(tmp_path: Path) -> None:
    source, hosts = _source(tmp_path), []
    for host in ("하나", "둘"):
        (tmp_path / host).mkdir()
        hosts.append(ColdMoves(local_settings(tmp_path / host)))
    hosts[1].takes = lambda path: path == _DISK
    records = [(await moves.plan(str(source), str(tmp_path / host / "곳"))).record
               for moves, host in zip(hosts, ("하나", "둘"), strict=True)]  # fmt: skip
    runs = [moves.run(record) for moves, record in zip(hosts, records, strict=True)]
    ends = await asyncio.gather(*runs, return_exceptions=True)
    copies = [path for host in ("하나", "둘") for path in (tmp_path / host / "곳").glob(_DISK)]
    assert len(copies) == 1
    assert sum(isinstance(end, MoveRecord) for end in ends) == 1
    assert all(isinstance(end, MoveRecord | ReplicadError) for end in ends), ends


async def test_names_that_only_look_put_away_and_names_that_are_long_are_moved_like_others(tmp_path: Path) -> None:
    source, moves = _source(tmp_path), ColdMoves(local_settings(tmp_path))
    for name in ("data.moved-to-ssd.vhd", "d" * 245 + "01.vhd", "d" * 245 + "02.vhd"):
        (source / name).write_bytes(name.encode())
    wanted = _files(source)
    plan = await moves.plan(str(source), str(tmp_path / "곳"), options=MoveOptions(grace_s=3600))
    record = await moves.run(plan.record)
    assert len(_files(source)) == len(wanted)
    assert (await moves.run(record, later_s=3700)).phase is MovePhase.DONE
    assert (_files(source), _files(tmp_path / "곳")) == ({}, wanted)


async def test_a_move_to_a_server_that_is_away_is_ordered_and_meets_that_at_its_turn(tmp_path: Path) -> None:
    source, file = _source(tmp_path), tmp_path / "replicad.yaml"
    (tmp_path / "pw").write_text("비밀")
    (tmp_path / "pw").chmod(0o600)
    with socket() as closed:
        closed.bind(("127.0.0.1", 0))
        file.write_text(
            f"state_dir: {tmp_path}/state\n"
            f"servers: {{away: {{address: '127.0.0.1:{closed.getsockname()[1]}', username: u, "
            f"password_file: {tmp_path}/pw}}}}\n",
            encoding="utf-8",
        )
        settings, wanted = load_settings(file), Wanted(parse_address(r"\\away\vms\곳"), (), MoveOptions())
        async with Shares(settings) as shares:
            for pattern in (str(source), f"{tmp_path}/원본*"):
                now = datetime(2026, 1, 1, tzinfo=UTC)
                (move,) = await moves_of(pattern, wanted, (), settings, shares, lambda: "0" * 32, now)
                assert (move.phase, move.vm, move.record.files) == (MovePhase.WAITING, source.name, ())
