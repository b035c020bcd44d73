"""Moves of a daemon: carried out by the configuration that was taken last, each over its own connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from replicad.catalog import Catalog
from replicad.model.known_moves import KnownMove
from replicad.model.progress import Observer
from replicad.service.bandwidth import BandwidthLimits
from replicad.service.compose import Shares
from replicad.service.cycles import also_logged
from replicad.settings import Settings
from replicad.settings.timetable import parse_timetable
from replicad.storage.metered import Meter
from replicad.workflows.context import Context

from .mover import Mover
from .orders import Wanted, moves_of
from .queue import MoveCounts, MoveQueue, MoveView, MoveWatch


class ConfiguredMoves:
    """Work for a `MoveQueue`. `moved` is awaited when a machine may be elsewhere than before."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        limits: BandwidthLimits,
        catalog: Catalog,
        ctx: Context,
        moved: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._catalog = catalog
        self._ctx = ctx
        self._moved = moved
        self._open: set[Shares] = set()

    async def carry_out(self, move: KnownMove, watch: MoveWatch) -> KnownMove:
        """As `Mover.carry_out`."""
        bandwidth = move.record.options.bandwidth
        try:
            async with self._mover(watch.hear, bandwidth, watch.meter) as mover:
                return await mover.carry_out(move)
        finally:
            # Also after an error: it may have been switched before.
            await self._moved()

    async def cancel(self, move: KnownMove) -> KnownMove:
        """As `Mover.cancel`."""
        async with self._mover(lambda _: None) as mover:
            return await mover.cancel(move)

    def give_up(self) -> None:
        """As `Work.give_up`."""
        for shares in self._open:
            shares.give_up()

    async def find(self, source: str, wanted: Wanted, known: Sequence[KnownMove]) -> list[KnownMove]:
        """As `moves_of`."""
        settings, now = self._settings(), self._ctx.clock.now()
        async with self._shares(Shares(settings, limits=self._limits)) as shares:
            return await moves_of(source, wanted, known, settings, shares, self._ctx.new_id, now)

    @asynccontextmanager
    async def _mover(
        self, observe: Observer, bandwidth: str | None = None, meter: Meter | None = None
    ) -> AsyncIterator[Mover]:
        settings, limit = self._settings(), None if bandwidth is None else parse_timetable(bandwidth)
        ctx = replace(self._ctx, observe=also_logged(observe))
        opened = Shares(settings, observe=observe, limits=self._limits, bandwidth=limit, meter=meter)
        async with self._shares(opened) as shares:
            yield Mover(settings, self._catalog, shares, ctx)

    @asynccontextmanager
    async def _shares(self, shares: Shares) -> AsyncIterator[Shares]:
        self._open.add(shares)
        try:
            async with shares:
                yield shares
        finally:
            self._open.discard(shares)


class Finder(Protocol):
    """Who knows what an order means; `ConfiguredMoves` is one."""

    async def find(self, source: str, wanted: Wanted, known: Sequence[KnownMove]) -> list[KnownMove]:
        """As `ConfiguredMoves.find`."""


class Moves:
    """What can be asked of a daemon about moves."""

    def __init__(self, queue: MoveQueue, work: Finder, catalog: Catalog) -> None:
        self._queue = queue
        self._work = work
        self._catalog = catalog

    def counts(self) -> MoveCounts:
        """As `MoveQueue.counts`."""
        return self._queue.counts()

    async def all(self) -> list[MoveView]:
        """All that are remembered, the oldest first."""
        return [self._queue.look(move) for move in await self._catalog.moves()]

    async def one(self, prefix: str) -> MoveView:
        """The one whose id begins so. NotFoundError, ConfigError if several do."""
        return self._queue.look(await self._catalog.move(prefix))

    async def start(self, source: str, wanted: Wanted, at: datetime | None) -> list[MoveView]:
        """Have what was ordered begin when it is its turn, not before `at`; also what was put off, or had stopped.

        ConflictError, and what `find` raises.
        """
        known = await self._catalog.moves()
        moves = await self._work.find(source, wanted, known)
        moves = [replace(move, due=at) for move in moves]
        self._queue.refuse_twins(moves)
        await self._queue.order(moves)
        return [self._queue.look(move) for move in moves]

    async def resume(self, prefix: str) -> MoveView:
        """As `MoveQueue.resume`."""
        move = await self._catalog.move(prefix)
        await self._queue.resume(move)
        return self._queue.look(move)

    async def cancel(self, prefix: str) -> MoveView:
        """As `MoveQueue.cancel`."""
        return MoveView(await self._queue.cancel(await self._catalog.move(prefix)))
