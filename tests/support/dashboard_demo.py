"""A fleet with a past: what the dashboard's pictures show, and what its tests look at in many shapes.

The API, the supervisor and the catalog are real; what the machines did until now was written into the catalog.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

from replicad.catalog import open_catalog
from replicad.model.agenda import Agenda, LatestPoint
from replicad.model.errors import OutOfSpaceError
from replicad.model.known_moves import KnownMove
from replicad.model.moves import MovedFile, MovePhase, MoveRecord
from replicad.model.points import (
    Consistency,
    CycleKind,
    FileKind,
    RecoveryPoint,
    Statistics,
)
from replicad.model.progress import Advanced, FreezePredicted, PhaseStarted
from replicad.model.runs import Failure, Outcome, Run, Severity, Trigger
from replicad.service.moving.queue import MoveWatch
from replicad.service.watch import Watch
from replicad.settings.load import parse
from tests.support.live_api import TOKEN, free_port, live_api_on_a_thread

MIB, GIB = 1 << 20, 1 << 30
_DISK = (MovedFile(0, "disk.vhdx", FileKind.DISK, 0, "disk.vhdx", 40 * GIB),)


def minutes(count: int) -> timedelta:
    """So many minutes."""
    return timedelta(minutes=count)


LOST = (
    "cannot write \\\\nas2\\replica\\file02\\disks\\data.vhdx.updating: the server reset the connection. "
    "Try again when it can be reached."
)
NO_SPACE = (
    "cannot write \\\\nas2\\replica\\mail01\\disks\\mail.vhdx.updating: no space is left, and 3.2 GiB more are needed. "
    "Make room, or lower 'keep', and run 'replicad prune mail01'."
)


@dataclass(frozen=True)
class _Past:
    """What a machine did: a cycle every `every`, the last one begun `ago`; it ended with `failure`, if any."""

    vm: str
    every: timedelta
    ago: timedelta
    takes_s: float
    sends_bytes: int
    failure: Failure | None = None
    failures: int = 0
    paused: timedelta | None = None
    span: timedelta = timedelta(hours=30)


@dataclass(frozen=True)
class Fleet:
    """Where it is asked."""

    url: str
    token: str


def _failure(text: str, error: str, severity: Severity, at: datetime) -> Failure:
    return Failure(text, error, severity, at)


def _pasts(now: datetime) -> list[_Past]:
    hour = timedelta(hours=1)
    return [
        _Past("web01", minutes(5), minutes(2), 21, 30 * MIB),
        _Past("web02", minutes(5), minutes(4), 18, 22 * MIB),
        _Past("db01", minutes(15), minutes(9), 95, 840 * MIB),
        _Past("회계 서버 📒", hour, minutes(37), 40, 12 * MIB),
        _Past("build-runner", hour, minutes(12), 160, 2 * GIB),
        _Past(
            "file02", minutes(15), minutes(58), 120, 310 * MIB,
            _failure(LOST, "UnreachableError", Severity.TRANSIENT, now - minutes(3)), 4,
        ),
        _Past(
            "mail01", minutes(15), hour * 3, 150, 900 * MIB,
            _failure(NO_SPACE, "OutOfSpaceError", Severity.LASTING, now - minutes(6)), 1,
        ),
        _Past("dc01", hour, hour * 2 + minutes(20), 33, 18 * MIB, paused=hour * 2),
    ]  # fmt: skip


def _runs(past: _Past, now: datetime, luck: Random) -> list[Run]:
    """The history, the oldest first. Every fortieth cycle or so is slow, and every eightieth fails."""
    runs: list[Run] = []
    last = now - past.ago
    count = int(past.span / past.every)
    for back in range(count, -1, -1):
        began = last - back * past.every
        slow = luck.random() < 0.025
        sent = int(past.sends_bytes * luck.lognormvariate(0, 0.5) * (9 if slow else 1))
        took = timedelta(seconds=past.takes_s * luck.uniform(0.7, 1.4) * (4 if slow else 1))
        done = Run(
            past.vm, Trigger.SCHEDULE, began, began, ended_at=min(began + took, now), outcome=Outcome.DONE,
            kind="delta", point=count - back + 1, scanned_bytes=40 * GIB, changed_bytes=int(sent * 1.3),
            sent_bytes=sent,
        )  # fmt: skip
        if back and luck.random() < 0.0125:
            failure = Failure(LOST.replace("file02", past.vm), "UnreachableError", Severity.TRANSIENT, began + took)
            done = replace(done, outcome=Outcome.FAILED, kind=None, point=None, failure=failure)
        runs.append(done)
    if past.failure is not None:
        tries = [past.ago * n / (past.failures + 1) for n in range(past.failures, 0, -1)]
        for ago in tries:
            at = max(last + past.every, now - ago)
            runs.append(
                Run(
                    past.vm, Trigger.RETRY, at, at, ended_at=at + timedelta(seconds=42), outcome=Outcome.FAILED,
                    failure=replace(past.failure, at=at + timedelta(seconds=42)),
                )
            )  # fmt: skip
    return runs


def _agenda(past: _Past, now: datetime, latest: Run) -> Agenda:
    due = now + past.every - past.ago % past.every
    return Agenda(
        past.vm, due_at=due, retry_at=now + timedelta(minutes=8) if past.failures > 1 else None,
        failures=past.failures, failure=past.failure, paused_at=now - past.paused if past.paused else None,
        latest=LatestPoint(latest.point or 1, latest.started_at, Consistency.COLD),
    )  # fmt: skip


def _points(runs: list[Run], now: datetime) -> list[RecoveryPoint]:
    """What the default rules keep of a past that is longer than the history."""
    done = [run for run in runs if run.outcome is Outcome.DONE]
    kept: dict[str, Run] = {f"{run.started_at:%F %H}": run for run in done}
    recent = sorted({run.started_at for run in [*kept.values(), *done[-12:]]})
    older = [now - timedelta(days=days, hours=2) for days in (24, 17, 10, 6, 5, 4, 3, 2)]
    times = [*older, *(time for time in recent if time > older[-1])]
    return [
        RecoveryPoint(
            1, "r", runs[0].vm, number, number - 1 or None, time, CycleKind.DELTA if number > 1 else CycleKind.INITIAL,
            Consistency.COLD, 1, "replica-host", (), (), (), Statistics(40 * GIB, 31 * MIB, 24 * MIB, 30 * MIB, 21_000),
            pinned=number == 3,
        )
        for number, time in enumerate(times, 1)
    ]  # fmt: skip


@contextmanager
def demo_fleet(directory: Path) -> Iterator[Fleet]:
    """The fleet, while it lives: seven machines with a past, and one whose first copy is under way."""
    now, luck = datetime.now(UTC).replace(microsecond=0), Random(26)
    port, token = free_port(), directory / "api.token"
    token.touch(0o600)
    token.write_text(TOKEN)
    pasts = _pasts(now)
    machines = "".join(
        f"  {past.vm}: {{source: '\\\\nas1\\vms\\{past.vm}', replica: '\\\\nas2\\replica', "
        f"every: {int(past.every.total_seconds())}s}}\n"
        for past in pasts
    )
    text = (
        f"state_dir: {directory}\napi: {{listen: '127.0.0.1:{port}', token_file: {token}}}\n"
        "servers: {nas1: {address: nas1.example}, nas2: {address: nas2.example}}\nvirtual_machines:\n"
        f"{machines}  archive: {{source: '\\\\nas1\\vms\\archive', replica: '\\\\nas2\\replica', rpo: 1d}}\n"
    )
    settings = parse(text.encode(), directory / "replicad.yaml", {})
    histories = {past.vm: _runs(past, now, luck) for past in pasts}
    writing = _write_down(directory / "catalog.sqlite", pasts, histories, now)
    with ThreadPoolExecutor(1) as thread:  # the browser's driver has an event loop on this one
        thread.submit(asyncio.run, writing).result()
    points = {vm: _points(runs, now) for vm, runs in histories.items()}

    async def copy(vm: str, watch: Watch) -> None:
        watch.hear(PhaseStarted("initial", 96 * GIB))
        watch.hear(Advanced(37 * GIB, 21 * GIB))
        await asyncio.Event().wait()

    with live_api_on_a_thread(settings, copy, points, _carry) as api:
        asyncio.run_coroutine_threadsafe(api.control.request("archive"), api.serving.get_loop()).result(30)
        yield Fleet(f"http://127.0.0.1:{port}/", TOKEN)


def _moves(now: datetime) -> list[KnownMove]:
    """One under way, one that an error stopped, one that waits for the evening, and one that is done."""

    def move(vm: str, began: datetime, phase: MovePhase, **more: Any) -> MoveRecord:
        source, place = rf"\\nas1\vms\{vm}", rf"\\nas3\fast\{vm}"
        name = blake2b(vm.encode(), digest_size=16).hexdigest()
        return MoveRecord(name, vm, source, (place,), began, phase=phase, **more)

    done = move("old-files", now - minutes(200), MovePhase.DONE, rounds=3, freeze_ms=58.0)
    return [
        KnownMove(done, ended=now - minutes(170)),
        KnownMove(move("web02", now - minutes(14), MovePhase.PRECOPY, rounds=2, files=_DISK)),
        KnownMove(move("회계 서버 📒", now - minutes(50), MovePhase.BULK, files=_DISK)),
        KnownMove(move("build-runner", now - minutes(3), MovePhase.WAITING), due=now + timedelta(hours=5)),
    ]


async def _carry(move: KnownMove, watch: MoveWatch) -> KnownMove:
    """As `Mover.carry_out`."""
    if move.vm != "web02":
        raise OutOfSpaceError("write", rf"\\nas3\fast\{move.vm}", "3.2 GiB more are needed", "Make room.")
    watch.hear(PhaseStarted("round 3", 3 * GIB))
    watch.hear(FreezePredicted(2, 0.184))
    watch.hear(Advanced(2 * GIB, 120 * MIB))
    await asyncio.Event().wait()
    raise AssertionError("nobody ends it")


async def _write_down(path: Path, pasts: list[_Past], histories: dict[str, list[Run]], now: datetime) -> None:
    async with open_catalog(path, print) as catalog:
        for move in _moves(now):
            await catalog.save_move(move)
        for past in pasts:
            runs = histories[past.vm]
            latest = next(run for run in reversed(runs) if run.outcome is Outcome.DONE)
            agenda = _agenda(past, now, latest)
            for run in runs:
                begun = await catalog.begin_run(replace(run, ended_at=None, outcome=None))
                await catalog.finish(replace(run, number=begun.number), agenda)
