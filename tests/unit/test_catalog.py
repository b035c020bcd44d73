"""This host's memory: agendas, the history of cycles and its bounds, and what becomes of files that are no catalog."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from replicad.catalog import figures
from replicad.catalog import runs as table
from replicad.catalog.catalog import Catalog, open_catalog
from replicad.catalog.runs import Bounds
from replicad.catalog.schema import MIGRATIONS, migrate, version_of
from replicad.model.agenda import Agenda, LatestPoint
from replicad.model.errors import BusyError, FormatVersionError, NotFoundError, PermanentError
from replicad.model.points import Consistency
from replicad.model.runs import Failure, Outcome, Run, Severity, Trigger
from replicad.model.tracking_words import TrackerMistake
from replicad.model.verification import VerificationOutcome, VerificationPlan, VerificationResult

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAMAGED = VerificationPlan(
    "웹 01",
    due_at=NOW,
    retry_at=NOW + MINUTE,
    requested_at=NOW - 2 * MINUTE,
    repair_requested=True,
    failures=2,
    last=VerificationResult(NOW, VerificationOutcome.FAILED, "잃음: the connection was lost"),
    damage=VerificationResult(NOW - MINUTE, VerificationOutcome.DAMAGED, "disks/웹.vhd", 3, 1 << 40, 0.25),
    sound_at=NOW - 9 * MINUTE,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "상태 dir 🗄" / "catalog.sqlite"


def fail(sentence: str) -> None:
    """For where no warning is expected."""
    raise AssertionError(sentence)


async def begin(catalog: Catalog, vm: str = "웹 01", at: datetime = NOW) -> Run:
    return await catalog.begin_run(Run(vm, Trigger.SCHEDULE, at, at))


async def finish(catalog: Catalog, vm: str = "웹 01", at: datetime = NOW) -> Run:
    run = replace(await begin(catalog, vm, at), ended_at=at + MINUTE, outcome=Outcome.DONE, sent_bytes=7)
    await catalog.finish(run, Agenda(vm, due_at=at + 5 * MINUTE))
    return run


async def test_what_was_saved_is_there_after_a_restart(path: Path) -> None:
    async with open_catalog(path, fail) as catalog:
        run = await finish(catalog)
        await catalog.save_agenda(Agenda("나", paused_at=NOW))
    async with open_catalog(path, fail) as catalog:
        assert await catalog.agendas() == {
            "웹 01": Agenda("웹 01", due_at=NOW + 5 * MINUTE),
            "나": Agenda("나", paused_at=NOW),
        }
        assert await catalog.runs() == (run,)
        assert (await begin(catalog)).number > run.number


async def test_file_is_for_its_owner_alone(path: Path) -> None:
    async with open_catalog(path, fail) as catalog:
        await finish(catalog)
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
        assert len(list(path.parent.iterdir())) == 3
    path.chmod(0o644)
    async with open_catalog(path, fail):
        assert path.stat().st_mode & 0o777 == 0o600


async def test_history_outlives_the_agenda_of_a_vm(path: Path) -> None:
    async with open_catalog(path, fail) as catalog:
        run = await finish(catalog)
        await catalog.forget("웹 01")
        await catalog.forget("never there")
        assert await catalog.agendas() == {}
        assert await catalog.runs("웹 01") == (run,)


async def test_runs_come_in_pages_the_newest_first(path: Path) -> None:
    async with open_catalog(path, fail) as catalog:
        runs = [await finish(catalog, vm, NOW + n * MINUTE) for n in range(6) for vm in ("가", "나")]
        runs.reverse()
        assert await catalog.runs(limit=5) == tuple(runs[:5])
        assert await catalog.runs(limit=5, before=runs[4].number) == tuple(runs[5:10])
        assert await catalog.runs("가", limit=2, before=runs[5].number) == (runs[7], runs[9])
        since = NOW + 3 * MINUTE
        assert await catalog.runs(since=since) == tuple(run for run in runs if run.started_at >= since)
        assert await catalog.runs("나", since) == tuple(r for r in runs if r.vm == "나" and r.started_at >= since)
        assert await catalog.runs("다") == ()
        assert await catalog.runs(since=NOW + timedelta(days=1)) == ()


async def test_since_goes_by_time_also_when_the_clock_was_set_back(path: Path) -> None:
    async with open_catalog(path, fail) as catalog:
        runs = [await finish(catalog, at=NOW + n * MINUTE) for n in (0, 50, 1, 60, 2)]
        for vm in (None, "웹 01"):
            assert await catalog.runs(vm, NOW + 40 * MINUTE) == (runs[3], runs[1])


async def test_runs_under_way_at_a_death_are_closed_as_interrupted_once(path: Path) -> None:
    async with open_catalog(path, fail) as catalog:
        done = await finish(catalog)
        left = [await begin(catalog, vm) for vm in ("가", "나")]
    async with open_catalog(path, fail) as catalog:
        closed = tuple(replace(run, outcome=Outcome.INTERRUPTED, ended_at=NOW + MINUTE) for run in left)
        assert await catalog.interrupted_runs(NOW + MINUTE) == closed
        assert await catalog.interrupted_runs(NOW + 2 * MINUTE) == ()
        assert await catalog.runs() == (*reversed(closed), done)


async def test_machine_whose_cycle_was_under_way_at_a_death_is_wanted_at_once_though_its_due_time_has_moved(
    path: Path,
) -> None:
    """As after a reload in the middle of it: then the agenda is saved as it is while the cycle runs."""
    ahead = Agenda("가", due_at=NOW + 60 * MINUTE)
    async with open_catalog(path, fail) as catalog:
        await finish(catalog)
        await catalog.save_agenda(ahead)
        await begin(catalog, "가")
        await begin(catalog, "never saved")
    async with open_catalog(path, fail) as catalog:
        await catalog.interrupted_runs(NOW + MINUTE)
    async with open_catalog(path, fail) as catalog:  # it died again before anything began
        assert await catalog.interrupted_runs(NOW + 2 * MINUTE) == ()
        assert await catalog.agendas() == {
            "웹 01": Agenda("웹 01", due_at=NOW + 5 * MINUTE),
            "가": replace(ahead, retry_at=NOW + MINUTE),
        }


async def test_a_run_that_nobody_began_can_not_end_and_changes_nothing(path: Path) -> None:
    async with open_catalog(path, fail) as catalog:
        run = replace(await begin(catalog), number=99, ended_at=NOW, outcome=Outcome.DONE)
        with pytest.raises(NotFoundError, match="there is no cycle of number 99"):
            await catalog.finish(run, Agenda("웹 01", due_at=NOW))
        assert await catalog.agendas() == {}


async def test_history_of_each_vm_is_bounded(path: Path) -> None:
    async with open_catalog(path, fail, bounds=Bounds(runs_of_vm=5, runs=1000, least_of_vm=2)) as catalog:
        first = await begin(catalog)
        runs = [await finish(catalog, at=NOW + n * MINUTE) for n in range(9)]
        other = await finish(catalog, "나")
        # What is under way never goes.
        assert await catalog.runs("웹 01") == (*reversed(runs[-4:]), first)
        assert await catalog.runs("나") == (other,)


async def test_many_vms_share_the_room_there_is(path: Path) -> None:
    async with open_catalog(path, fail, bounds=Bounds(runs=12, least_of_vm=2)) as catalog:
        for vm in ("가", "나", "다", "라"):
            for n in range(9):
                await finish(catalog, vm, NOW + n * MINUTE)
        await finish(catalog, "가")
        assert [len(await catalog.runs(vm)) for vm in ("가", "나", "다", "라")] == [3, 6, 4, 3]


async def test_old_history_goes_also_of_vms_that_nobody_replicates_any_more(path: Path) -> None:
    async with open_catalog(path, fail) as catalog:
        await finish(catalog, "gone", NOW - timedelta(days=91))
        await catalog.forget("gone")
        kept = await finish(catalog, at=NOW - timedelta(days=89))
        last = await finish(catalog)
        assert await catalog.runs() == (last, kept)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name, runs FROM vm").fetchall() == [("웹 01", 2)]
    connection.close()


async def test_file_shrinks_when_history_goes(path: Path) -> None:
    bounds = Bounds(spare_bytes=64 << 10)
    async with open_catalog(path, fail, bounds=bounds) as catalog:
        await finish(catalog)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)"
            " INSERT INTO run SELECT NULL, vm_id, triggered_by, due_at, started_at, missed, ended_at, outcome, kind,"
            " point, 0, 0, 0, printf('%.200c', 'x'), 'E', 'final', 0, 0, NULL, NULL, NULL, 0, NULL, '' FROM run, n"
        )
    connection.close()
    large = path.stat().st_size
    async with open_catalog(path, fail, bounds=replace(bounds, runs_of_vm=100)) as catalog:
        for _ in range(330):
            await finish(catalog)
        assert len(await catalog.runs(limit=1000)) == 100
    assert path.stat().st_size < large // 20


async def test_fleet_of_a_thousand_vms_stays_small_and_its_cycles_end_at_a_low_price(path: Path) -> None:
    vms, runs_of_vm = 1000, 60
    async with open_catalog(path, fail) as catalog:
        for n in range(vms):
            await begin(catalog, f"vm {n}")
        await catalog.interrupted_runs(NOW)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?)"
            " INSERT INTO run SELECT NULL, vm_id, triggered_by, due_at, started_at, missed, ended_at, 'done', 'delta',"
            " n, 1 << 40, 1 << 30, 1 << 30, NULL, NULL, NULL, NULL, 1 << 30, 'crash', started_at, 'full-scan', 0, 1, ''"
            " FROM n, run",
            (runs_of_vm - 1,),
        )
    connection.close()
    assert path.stat().st_size < vms * runs_of_vm * 240
    bounds = Bounds(runs=vms * runs_of_vm, least_of_vm=1)
    async with open_catalog(path, fail, bounds=bounds) as catalog:
        took_s: list[float] = []
        for n in range(300):
            run = replace(await begin(catalog, f"vm {n % 3}"), ended_at=NOW + MINUTE, outcome=Outcome.DONE)
            began_s = time.perf_counter()
            await catalog.finish(run, Agenda(run.vm, due_at=NOW))
            took_s.append(time.perf_counter() - began_s)
        assert len(await catalog.runs("vm 0", limit=1000)) == runs_of_vm
    # Tenths of a millisecond where nothing else runs; the bound is for a machine with much else to do.
    assert statistics.median(took_s) < 0.02
    assert path.stat().st_size < vms * runs_of_vm * 240


def test_no_question_reads_the_whole_history() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    run = Run("웹", Trigger.SCHEDULE, NOW, NOW)
    run = replace(run, number=table.begin(connection, run), ended_at=NOW, outcome=Outcome.DONE)
    figures.statistics(connection, "웹", 60, NOW - MINUTE, NOW + MINUTE)
    table.end(connection, run, NOW, Bounds(runs_of_vm=0, least_of_vm=0))
    table.interrupt_all(connection, NOW)
    for vm in (None, "웹"):
        for since in (None, NOW):
            table.read_runs(connection, vm, since, 10, 5)
    connection.set_trace_callback(None)
    plans = [
        step[3]
        for statement in asked
        if statement.strip().startswith(("SELECT", "DELETE", "UPDATE", "WITH"))
        for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]
    assert len(plans) > 10
    by_index = ("SCAN run USING INDEX run_under_way",)
    assert any("run USING COVERING INDEX run_figures" in plan for plan in plans)
    assert [plan for plan in plans if "SCAN run" in plan and not plan.startswith(by_index)] == []
    # One day of one machine is sorted, to tell which point came after which.
    assert len([plan for plan in plans if "TEMP B-TREE" in plan]) == 1
    connection.close()


def _damage_a_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 4] = b"\xa5" * 4096 * 2
    path.write_bytes(content)


def _write_foreign(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE 메모 (x)")
    connection.close()


def _drop_a_table(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE agenda")
    connection.close()


def _write_a_senseless_time(path: Path) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE agenda SET due_at = ?", (1 << 62,))
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"no database, " * 999),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        _damage_a_page,
        _write_foreign,
        _drop_a_table,
        _write_a_senseless_time,
    ],
    ids=["no database", "cut off", "damaged page", "another program's", "no table", "senseless time"],
)
async def test_damaged_file_is_put_aside_and_a_new_one_begun(path: Path, damage: Callable[[Path], object]) -> None:
    async with open_catalog(path, fail) as catalog:
        await finish(catalog)
    for name in ("catalog.sqlite.damaged-20260131T120000Z", "catalog.sqlite.damaged-20260131T120000Z-2"):
        damage(path)
        damaged = path.read_bytes()
        said: list[str] = []
        async with open_catalog(path, said.append, now=lambda: NOW) as catalog:
            assert await catalog.agendas() == {}
            await finish(catalog)
        assert (path.parent / name).read_bytes() == damaged
        assert len(said) == 1
        assert f"put aside as {name}; a new one is begun" in said[0]
    async with open_catalog(path, fail) as catalog:
        assert len(await catalog.runs()) == 1


async def test_catalog_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    async with open_catalog(path, fail) as catalog:
        await finish(catalog)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(FormatVersionError, match="a newer replicad wrote it"):
        async with open_catalog(path, fail):
            raise AssertionError("opened")
    assert path.read_bytes() == before


async def test_catalog_of_the_version_before_is_read_and_gone_on_with(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parents[1] / "support" / "catalog_version_1.sql").read_text())
    connection.close()
    failure = Failure(
        "cannot write 'it''s': the connection was lost", "UnreachableError", Severity.TRANSIENT, NOW + MINUTE
    )  # fmt: skip
    done = Run(
        "웹 서버 🖥", Trigger.SCHEDULE, NOW, NOW, 2, NOW + MINUTE, Outcome.DONE, "delta", 7, 64 << 20, 3 << 20, 2 << 20,
        number=1,
    )  # fmt: skip
    failed = Run("db", Trigger.RETRY, NOW, NOW, 0, NOW + MINUTE, Outcome.FAILED, failure=failure, number=2)
    async with open_catalog(path, fail) as catalog:
        (closed,) = await catalog.interrupted_runs(NOW + 6 * MINUTE)
        assert closed.number == 3
        assert await catalog.runs() == (closed, failed, done)
        assert await catalog.agendas() == {
            "웹 서버 🖥": Agenda(
                "웹 서버 🖥", NOW + 5 * MINUTE, NOW + 6 * MINUTE, latest=LatestPoint(7, NOW, Consistency.COLD)
            ),
            "db": Agenda("db", NOW + 5 * MINUTE, NOW + 2 * MINUTE, failures=1, failure=failure),
            "쉬는 기계": Agenda("쉬는 기계", requested_at=NOW, resync_requested=True, paused_at=NOW),
        }  # fmt: skip
        made = replace(
            await begin(catalog), ended_at=NOW, outcome=Outcome.DONE, undo_bytes=5, consistency=Consistency.CRASH,
            point_time=NOW, provenance="full-scan", resumed=True, attempts=2,
        )  # fmt: skip
        await catalog.end_run(made)
    async with open_catalog(path, fail) as catalog:
        assert await catalog.runs(limit=1) == (made,)


def test_migrations_are_done_whole_or_not_at_all(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "c", isolation_level=None)
    migrate(connection)
    connection.execute("INSERT INTO vm (name) VALUES ('웹')")
    add = "ALTER TABLE vm ADD COLUMN note TEXT NOT NULL DEFAULT '새'"
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, [*MIGRATIONS, [add], ["no SQL"]])
    assert version_of(connection) == len(MIGRATIONS)
    assert connection.execute("SELECT * FROM vm").fetchall() == [(1, "웹", 0)]
    migrate(connection, [*MIGRATIONS, [add]])
    assert version_of(connection) == len(MIGRATIONS) + 1
    assert connection.execute("SELECT * FROM vm").fetchall() == [(1, "웹", 0, "새")]
    connection.close()


async def test_catalog_from_before_there_were_verifications_keeps_all_it_has(path: Path) -> None:
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, MIGRATIONS[:1])
    connection.execute("INSERT INTO vm (name) VALUES ('웹 01')")
    connection.execute(
        "INSERT INTO agenda (vm_id, due_at, resync_requested, failures) VALUES (1, ?, 0, 3)",
        [int(NOW.timestamp() * 1e6)],
    )
    connection.execute(
        "INSERT INTO run (vm_id, triggered_by, due_at, started_at, missed, scanned_bytes, changed_bytes, sent_bytes) "
        "VALUES (1, 'schedule', 0, 0, 2, 0, 0, 0)"
    )
    connection.close()
    async with open_catalog(path, fail) as catalog:
        assert await catalog.agendas() == {"웹 01": Agenda("웹 01", due_at=NOW, failures=3)}
        assert [run.missed for run in await catalog.runs()] == [2]
        assert await catalog.verifications() == {}
        await catalog.save_verification(DAMAGED)
    async with open_catalog(path, fail) as catalog:
        assert await catalog.verifications() == {"웹 01": DAMAGED}


async def test_catalog_from_before_trackers_were_checked_keeps_all_it_has(path: Path) -> None:
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, MIGRATIONS[:3])
    connection.execute("INSERT INTO vm (name) VALUES ('웹 01')")
    connection.execute(
        "INSERT INTO agenda (vm_id, due_at, resync_requested, failures, left_at) VALUES (1, ?, 0, 3, NULL)",
        [int(NOW.timestamp() * 1e6)],
    )
    connection.execute(
        "INSERT INTO run (vm_id, triggered_by, due_at, started_at, missed, scanned_bytes, changed_bytes, sent_bytes) "
        "VALUES (1, 'schedule', 0, 0, 2, 0, 0, 0)"
    )
    connection.close()
    mistake = TrackerMistake(7, NOW, "웹 🖥.vhdx: extents called chunk 5 unchanged, and that was wrong")
    agenda = Agenda("웹 01", due_at=NOW, failures=3)
    wrong = replace(agenda, mistake=mistake, checked_point=7, tracking=("full-scan: why", "b.vhdx: unchanged-file"))
    async with open_catalog(path, fail) as catalog:
        assert await catalog.agendas() == {"웹 01": agenda}
        assert [(run.missed, run.tracking) for run in await catalog.runs()] == [(2, ())]
        await catalog.save_agenda(wrong)
    async with open_catalog(path, fail) as catalog:
        assert await catalog.agendas() == {"웹 01": wrong}


async def test_what_is_known_of_verifications_is_there_after_a_restart_until_it_is_forgotten(path: Path) -> None:
    sound = VerificationPlan(
        "나 💾", last=VerificationResult(NOW, VerificationOutcome.CLEAN, None, 0, 7, 1.5), sound_at=NOW
    )
    async with open_catalog(path, fail) as catalog:
        await catalog.save_verification(replace(DAMAGED, due_at=None))
        await catalog.save_verification(DAMAGED)
        await catalog.save_verification(sound, VerificationPlan("다"))
    async with open_catalog(path, fail) as catalog:
        assert await catalog.verifications() == {"웹 01": DAMAGED, "나 💾": sound, "다": VerificationPlan("다")}
        await catalog.forget("나 💾")
        assert set(await catalog.verifications()) == {"웹 01", "다"}


async def test_directory_in_its_place_is_told(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(PermanentError, match="cannot open the catalog"):
        async with open_catalog(path, fail):
            raise AssertionError("opened")


async def test_other_writer_makes_a_call_wait_and_then_fail_as_busy(path: Path) -> None:
    async with open_catalog(path, fail) as catalog:
        run = replace(await begin(catalog), ended_at=NOW, outcome=Outcome.DONE)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusyError, match="another process is writing it"):
            await catalog.end_run(run)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(catalog.end_run(run))
            await asyncio.sleep(0)  # it is on its way to the thread
            other.execute("ROLLBACK")
        assert waiting.done()
        other.close()
        assert await catalog.runs() == (run,)


async def test_cancelled_call_that_has_not_begun_never_does_and_one_that_has_is_taken_back(path: Path) -> None:
    async with open_catalog(path, fail) as catalog:
        await finish(catalog)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.create_task(begin(catalog, "begun"))
        await asyncio.sleep(0)
        second = asyncio.create_task(catalog.save_agenda(Agenda("queued")))
        await asyncio.sleep(0)
        second.cancel()
        first.cancel()
        await asyncio.sleep(0)
        other.execute("ROLLBACK")
        other.close()
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert list(await catalog.agendas()) == ["웹 01"]
        assert [run.vm for run in await catalog.runs()] == ["웹 01"]
        await finish(catalog)


async def test_many_calls_cancelled_at_any_moment_leave_it_whole(path: Path) -> None:
    async with open_catalog(path, fail) as catalog:
        for n in range(60):
            vm = f"vm {n}"
            run = replace(await begin(catalog, vm), ended_at=NOW, outcome=Outcome.DONE)
            task = asyncio.create_task(catalog.finish(run, Agenda(vm, due_at=NOW)))
            for _ in range(n % 6):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        ended = {run.vm for run in await catalog.runs(limit=100) if run.outcome is Outcome.DONE}
        assert ended == set(await catalog.agendas())


@pytest.mark.parametrize("turns", range(5))
async def test_opening_that_is_cancelled_leaves_nothing_open(path: Path, turns: int) -> None:
    async def use() -> None:
        async with open_catalog(path, fail) as catalog:
            await finish(catalog)
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not [name for name in path.parent.glob("*") if name.name.endswith("-wal")]
    async with open_catalog(path, fail) as catalog:
        await finish(catalog)


async def test_closing_waits_for_what_is_under_way(path: Path) -> None:
    async with open_catalog(path, fail) as catalog:
        tasks = [asyncio.create_task(finish(catalog, f"vm {n}")) for n in range(5)]
        saving = [asyncio.create_task(catalog.save_agenda(Agenda(f"나 {n}"))) for n in range(5)]
        await asyncio.sleep(0)
    await asyncio.gather(*saving)
    await asyncio.gather(*tasks, return_exceptions=True)
    with pytest.raises(ValueError, match="closed"):
        await catalog.agendas()
    async with open_catalog(path, fail) as catalog:
        assert {f"나 {n}" for n in range(5)} <= set(await catalog.agendas())


async def test_nothing_is_done_on_the_loops_thread(path: Path) -> None:
    threads: set[str] = set()

    def note(sentence: str) -> None:
        threads.add(threading.current_thread().name)

    path.parent.mkdir()
    path.write_bytes(b"no database at all")
    async with open_catalog(path, note):
        assert threads == {"catalog_0"}
