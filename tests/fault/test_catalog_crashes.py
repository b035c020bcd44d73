"""A catalog whose daemon is killed, whose disk becomes full, or that two processes use at once."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from replicad.catalog.catalog import Catalog, open_catalog
from replicad.model.agenda import Agenda
from replicad.model.errors import OutOfSpaceError
from replicad.model.runs import Failure, Outcome, Run, Severity, Trigger
from tests.support.filesystems import mounted
from tests.support.full import fill, make_room
from tests.support.processes import other_process

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
MANY = 100_000

# Finishes cycles, and tells of each one as soon as it is noted. One more is under way all the time.
FINISHES = """
import asyncio, sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from replicad.catalog.catalog import open_catalog
from replicad.model.agenda import Agenda
from replicad.model.runs import Outcome, Run, Trigger

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)

def fail(sentence):
    sys.exit(sentence)

async def main(path, vm, count):
    async with open_catalog(Path(path), fail) as catalog:
        await catalog.begin_run(Run("열린 " + vm, Trigger.REQUEST, NOW, NOW))
        for n in range(1, int(count) + 1):
            run = await catalog.begin_run(Run(vm, Trigger.SCHEDULE, NOW, NOW))
            run = replace(run, ended_at=NOW, outcome=Outcome.DONE, point=n)
            await catalog.finish(run, Agenda(vm, due_at=NOW, failures=n))
            print(run.number, n, flush=True)
    print("closed", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def fail(sentence: str) -> None:
    """For where no warning is expected."""
    raise AssertionError(sentence)


@pytest.mark.parametrize("acknowledged", [1, 40, 400])
async def test_every_acknowledged_end_outlives_a_kill(tmp_path: Path, acknowledged: int) -> None:
    path = tmp_path / "상태 🗄" / "catalog.sqlite"
    told: dict[int, int] = {}
    with other_process(FINISHES, str(path), "웹 01", str(MANY)) as other:
        for _ in range(acknowledged):
            number, n = map(int, other.line().split())
            told[number] = n
        other.kill()
        assert other.process.stdout is not None
        for line in other.process.stdout.read().splitlines(keepends=True):
            if line.endswith("\n"):
                number, n = map(int, line.split())
                told[number] = n
    async with open_catalog(path, fail) as catalog:
        under_way = await catalog.interrupted_runs(NOW)
        runs = await catalog.runs("웹 01", limit=MANY)
        found = {run.number: run.point for run in runs if run.outcome is Outcome.DONE}
        assert found.items() >= told.items()
        assert len(found) - len(told) in (0, 1)
        # In one transaction with the run that it belongs to.
        assert (await catalog.agendas())["웹 01"].failures == max(found.values(), key=lambda n: n or 0)
        assert [run.vm for run in under_way][:1] == ["열린 웹 01"]
        assert {run.vm for run in under_way[1:]} <= {"웹 01"}
        assert len(under_way) <= 2
        assert {run.outcome for run in under_way} == {Outcome.INTERRUPTED}


async def test_two_processes_make_and_use_one_catalog_at_once(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    count = 150
    with (
        other_process(FINISHES, str(path), "가", str(count)) as one,
        other_process(FINISHES, str(path), "나", str(count)) as two,
    ):
        numbers = [int(other.line().split()[0]) for _ in range(count) for other in (one, two)]
        assert (one.line(), two.line()) == ("closed", "closed")
    assert len(set(numbers)) == 2 * count
    async with open_catalog(path, fail) as catalog:
        for vm in ("가", "나"):
            runs = await catalog.runs(vm, limit=MANY)
            assert [run.point for run in runs] == list(range(count, 0, -1))
            assert (await catalog.agendas())[vm].failures == count


async def _finish_some(catalog: Catalog, told: dict[int, Run], count: int) -> None:
    failure = Failure("오류 " * 200, "BusyError", Severity.TRANSIENT, NOW)
    for n in range(count):
        run = await catalog.begin_run(Run("웹", Trigger.SCHEDULE, NOW, NOW, failure=failure))
        run = replace(run, ended_at=NOW, outcome=Outcome.FAILED, point=n)
        await catalog.finish(run, Agenda("웹", failures=run.number))
        told[run.number] = run


async def _check_all_there(catalog: Catalog, told: dict[int, Run]) -> None:
    runs = {run.number: run.point for run in await catalog.runs("웹", limit=MANY) if run.outcome is not None}
    assert runs == {number: run.point for number, run in told.items()}
    assert (await catalog.agendas())["웹"].failures == max(told)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
async def test_full_disk_is_told_and_nothing_is_lost(kind: str) -> None:
    told: dict[int, Run] = {}
    with mounted(kind, 16 << 20) as where:
        path = where / "상태" / "catalog.sqlite"
        async with open_catalog(path, fail) as catalog:
            fill(where)
            with pytest.raises(OutOfSpaceError, match=r"no space is left for it\. Free some space on"):
                await _finish_some(catalog, told, MANY)
            if told:
                await _check_all_there(catalog, told)
            make_room(where)
            await _finish_some(catalog, told, 1)
            await _check_all_there(catalog, told)
            fill(where)
        # There may be no room to close it tidily, nor to open it again.
        try:
            async with open_catalog(path, fail) as catalog:
                await _check_all_there(catalog, told)
        except OutOfSpaceError as error:
            assert "no space is left" in str(error)  # noqa: PT017 - it may go well, too
        make_room(where)
        async with open_catalog(path, fail) as catalog:
            await _check_all_there(catalog, told)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_no_room_for_a_new_catalog_is_told() -> None:
    with mounted("tmpfs", 1 << 20) as where:
        fill(where)
        with pytest.raises(OutOfSpaceError, match="no space is left for it"):
            async with open_catalog(where / "상태" / "catalog.sqlite", fail):
                raise AssertionError("opened")
        make_room(where)
        async with open_catalog(where / "상태" / "catalog.sqlite", fail) as catalog:
            assert await catalog.agendas() == {}
