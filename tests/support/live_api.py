"""The API over its real sockets, with a real supervisor and catalog, and cycles that do what a test says."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from replicad.catalog import Catalog, open_catalog
from replicad.model.agenda import LatestPoint
from replicad.model.errors import NotFoundError
from replicad.model.known_moves import KnownMove
from replicad.model.moves import MovePhase
from replicad.model.points import Consistency, CycleKind, RecoveryPoint, Statistics
from replicad.model.runs import Run
from replicad.model.tracking_words import TrackerMistake, mistakes_of
from replicad.service.api.doors import SOCKET, open_doors
from replicad.service.api.server import serve
from replicad.service.control import Control
from replicad.service.cycles_first import CyclesFirst
from replicad.service.hub import Hub
from replicad.service.metrics import Figures
from replicad.service.moving.configured import Moves
from replicad.service.moving.orders import Wanted
from replicad.service.moving.queue import MoveQueue, MoveWatch
from replicad.service.plans import schedules_of, verification_schedules_of
from replicad.service.point_lists import PointLists
from replicad.service.supervisor import Supervisor
from replicad.service.surroundings import system_clock
from replicad.service.verifying import Verifier
from replicad.service.watch import Watch
from replicad.settings import Settings
from replicad.settings.load import parse
from replicad.workflows.covered import Covered
from replicad.workflows.damage import Verification
from replicad.workflows.list_points import PointList
from replicad.workflows.replicate import CycleReport

VM, OTHER = "웹 서버 💾", "db"
TOKEN = "0123456789abcdef0123456789abcdef"

Work = Callable[[str, Watch], Awaitable[None]]
Moving = Callable[[KnownMove, MoveWatch], Awaitable[KnownMove]]
Reading = Callable[[str, Watch, bool], Awaitable[Verification]]


async def no_work(vm: str, watch: Watch) -> None:
    """A cycle that has nothing to do."""


async def nothing_found(vm: str, watch: Watch, repair: bool) -> Verification:
    """A verification of a replica that is sound."""
    return Verification(points=[1], read_bytes=100)


async def no_moving(move: KnownMove, watch: MoveWatch) -> KnownMove:
    """A move that has nothing to do."""
    return replace(move, record=replace(move.record, phase=MovePhase.DONE), ended=system_clock().now())


@asynccontextmanager
async def _nothing_held(vm: str, watch: Watch) -> AsyncIterator[None]:
    yield


@dataclass
class Api:
    """What runs, and how to ask it."""

    settings: Settings
    control: Control
    hub: Hub
    figures: Figures
    serving: asyncio.Task[None]
    supervising: asyncio.Task[None]

    @property
    def path(self) -> Path:
        return self.settings.state_dir / SOCKET

    def client(self, **options: Any) -> httpx.AsyncClient:
        """A client at the Unix socket."""
        return unix_client(self.path, **options)

    def history(self, vm: str | None = None) -> list[Run]:
        """The cycles until now, the newest first. For tests that block, from another thread."""
        return list(asyncio.run_coroutine_threadsafe(self.control.runs(vm), self.serving.get_loop()).result(30))

    def sync(self, *vms: str) -> list[Run]:
        """Have machines run a cycle each, and wait for the ends of them. For tests that block, from another thread."""

        async def all_of_them() -> list[Run]:
            return [await (await self.control.request(vm)) for vm in vms]

        return asyncio.run_coroutine_threadsafe(all_of_them(), self.serving.get_loop()).result(60)

    async def stop(self) -> None:
        """Have it stop serving, as the daemon does."""
        self.serving.cancel()
        await asyncio.wait([self.serving])


def unix_client(path: Path, **options: Any) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30, **options)


def configuration(directory: Path, machines: tuple[str, ...] = (VM, OTHER), tcp_port: int | None = None) -> Settings:
    """Machines that are replicated when asked for, with the state beside them."""
    text = f"state_dir: {directory}\n"
    if tcp_port is not None:
        token = directory / "api.token"
        token.touch(0o600)
        token.write_text(f"{TOKEN}\n")
        text += f"api: {{listen: '127.0.0.1:{tcp_port}', token_file: {token}}}\n"
    text += "virtual_machines:\n"
    for name in machines:
        key, source = (json.dumps(text, ensure_ascii=False) for text in (name, f"/srv/vms/{name}"))
        text += f"  {key}: {{source: {source}, replica: /srv/replica, rpo: 1h}}\n"
    return parse(text.encode(), directory / "replicad.yaml", {})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Scripted:
    """Cycles that do `work`, and then have made a point."""

    def __init__(self, work: Work, reading: Reading, points: Mapping[str, Sequence[RecoveryPoint]]) -> None:
        self._work = work
        self._reading = reading
        self._number = 0
        self._points = {vm: list(made) for vm, made in points.items()}

    async def run(self, vm: str, watch: Watch, *, resync: bool) -> CycleReport:
        """As `Cycles.run`."""
        await self._work(vm, watch)
        self._number += 1
        counted = Statistics(100, 40, 30, 20, 1)
        point = RecoveryPoint(
            1, "r", vm, self._number, self._latest(vm), system_clock().now(), CycleKind.DELTA, Consistency.COLD, 1,
            "h", (), (), (), counted,
        )  # fmt: skip
        self._points.setdefault(vm, []).append(point)
        return CycleReport(point, False, counted)

    async def verify(self, vm: str, watch: Watch, covered: Covered, *, repair: bool) -> Verification:
        """As `Verifications.verify`."""
        return await self._reading(vm, watch, repair)

    async def points(self, vm: str) -> PointList:
        """Those that were made."""
        return PointList(vm, tuple(self._points.get(vm, ())), None)

    async def mistakes_after(self, vm: str, number: int) -> tuple[TrackerMistake, ...] | None:
        """As `Cycles.mistakes_after`."""
        return mistakes_of(point for point in self._points.get(vm, ()) if point.number > number)

    def _latest(self, vm: str) -> int | None:
        return self._points[vm][-1].number if self._points.get(vm) else None

    async def latest_point(self, vm: str) -> LatestPoint | None:
        """As `Cycles.latest_point`."""
        return None

    def give_up(self) -> None:
        """As `Cycles.give_up`."""


class _ScriptedMoves:
    """Moves that do `moving`."""

    def __init__(self, moving: Moving, catalog: Catalog) -> None:
        self._moving = moving
        self._catalog = catalog

    async def carry_out(self, move: KnownMove, watch: MoveWatch) -> KnownMove:
        """As `Work.carry_out`."""
        return await self._moving(move, watch)

    async def cancel(self, move: KnownMove) -> KnownMove:
        """As `Work.cancel`."""
        record = replace(move.record, phase=MovePhase.CANCELLED)
        cancelled = replace(move, record=record, ended=system_clock().now(), error=None)
        await self._catalog.save_move(cancelled)
        return cancelled

    async def find(self, source: str, wanted: Wanted, known: Sequence[KnownMove]) -> list[KnownMove]:
        """As `Finder.find`."""
        raise NotFoundError("find", source, "nothing is there")

    def give_up(self) -> None:
        """As `Work.give_up`."""


@asynccontextmanager
async def live_api(
    settings: Settings,
    work: Work = no_work,
    reload: Callable[[], Awaitable[None]] | None = None,
    reading: Reading = nothing_found,
    points: Mapping[str, Sequence[RecoveryPoint]] = MappingProxyType({}),
    moving: Moving = no_moving,
) -> AsyncIterator[Api]:
    """All of it, running."""

    async def no_reload() -> None:
        pass

    clock = system_clock()
    with open_doors(settings, print) as doors:
        async with open_catalog(settings.state_dir / "catalog.sqlite", print) as catalog:
            figures = Figures(lambda: 7)
            hub = Hub(figures.hear)
            scripted = _Scripted(work, reading, points)
            verifier = Verifier(scripted, catalog, clock, lambda vm: supervisor.look(vm).agenda, hub.tell)
            await verifier.keep(verification_schedules_of(settings), await catalog.verifications())
            first = CyclesFirst(scripted, verifier)
            supervisor = Supervisor(first, catalog, clock, settings.max_concurrent, hub.tell)
            await supervisor.keep(schedules_of(settings), await catalog.agendas(), settings.max_concurrent)
            lists = PointLists(scripted.points, clock)
            scripted_moves = _ScriptedMoves(moving, catalog)
            queue = MoveQueue(scripted_moves, catalog, clock, 2, _nothing_held, hub.tell)
            await queue.keep()
            control = Control(
                lambda: settings, supervisor, catalog, clock, reload or no_reload, hub, verifier, lists,
                moves=Moves(queue, scripted_moves, catalog),
            )  # fmt: skip
            supervising = asyncio.create_task(supervisor.run())
            serving = asyncio.create_task(serve(control, figures, doors))
            others = [asyncio.create_task(verifier.run()), asyncio.create_task(queue.run())]
            try:
                yield Api(settings, control, hub, figures, serving, supervising)
            finally:
                for task in (serving, supervising, *others):
                    task.cancel()
                await asyncio.wait([serving, supervising, *others])


@contextmanager
def live_api_on_a_thread(
    settings: Settings,
    work: Work = no_work,
    points: Mapping[str, Sequence[RecoveryPoint]] = MappingProxyType({}),
    moving: Moving = no_moving,
) -> Iterator[Api]:
    """The same, for tests that block."""
    loop = asyncio.new_event_loop()
    up, over = threading.Event(), asyncio.Event()
    living: list[Api] = []

    async def live() -> None:
        async with live_api(settings, work, points=points, moving=moving) as api:
            living.append(api)
            up.set()
            await over.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(live())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert up.wait(30)
        yield living[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)
    assert not thread.is_alive()


@dataclass(frozen=True)
class Told:
    """One event of a stream; `name` is empty for a comment."""

    name: str
    data: Any


async def events_of(response: httpx.Response) -> AsyncIterator[Told]:
    """Those of a stream, one after the other, until it ends."""
    name, data = "", ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
        elif line.startswith(":"):
            yield Told("", None)
        elif line == "" and name:
            yield Told(name, json.loads(data))
            name, data = "", ""
