"""Moves of files that nobody uses, between any shares."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from replicad.hypervisor.held import HeldUser
from replicad.model.moves import MoveOptions, MoveRecord
from replicad.model.progress import ProgressEvent
from replicad.service.bandwidth import BandwidthLimits
from replicad.service.compose import Shares
from replicad.service.moving.parts import move_parts, open_shares
from replicad.service.surroundings import surroundings
from replicad.settings import Consistency, Settings
from replicad.workflows.context import Context
from replicad.workflows.move import move
from replicad.workflows.move_plan import Elsewhere, MovePlan, plan_move

VM = "웹 서버"


@dataclass
class ColdMoves:
    """What each process of ours starts with."""

    settings: Settings
    consistency: Consistency = field(default_factory=lambda: Consistency(wait_s=0))
    events: list[ProgressEvent] = field(default_factory=list)
    takes: Callable[[str], bool] | None = None
    remembered: list[MoveRecord] = field(default_factory=list)
    vm: str = VM
    limits: BandwidthLimits | None = None

    async def plan(
        self, source: str, *places: str, elsewhere: tuple[Elsewhere, ...] = (), options: MoveOptions | None = None
    ) -> MovePlan:
        """What would be moved."""
        async with self._surroundings() as (ctx, shares):
            record = MoveRecord(ctx.new_id(), self.vm, source, places, ctx.clock.now(), options or MoveOptions())
            opened = await open_shares(record, shares)
            return await plan_move(record, opened.source, opened.places, elsewhere=elsewhere, takes=self.takes)

    async def run(self, record: MoveRecord, later_s: float = 0) -> MoveRecord:
        """Move it, so much later than now."""
        async with self._surroundings() as (now, shares):
            clock = replace(now.clock, now=lambda: now.clock.now() + timedelta(seconds=later_s))
            ctx = replace(now, clock=clock)
            opened = await open_shares(record, shares)
            parts = move_parts(record, self.consistency, opened, self.settings, ctx, self._remember, takes=self.takes)
            assert isinstance(parts.user, HeldUser) is (self.consistency.commands.switch is None)
            return await move(record, parts, ctx)

    async def move(self, source: str, *places: str, elsewhere: tuple[Elsewhere, ...] = ()) -> MoveRecord:
        """Plan and move."""
        return await self.run((await self.plan(source, *places, elsewhere=elsewhere)).record)

    async def _remember(self, record: MoveRecord) -> None:
        self.remembered.append(record)

    @asynccontextmanager
    async def _surroundings(self) -> AsyncIterator[tuple[Context, Shares]]:
        hear = self.events.append
        async with (
            surroundings(self.settings.state_dir, hear) as ctx,
            Shares(self.settings, observe=hear, limits=self.limits) as shares,
        ):
            yield ctx, shares


def local_settings(root: Path) -> Settings:
    """A configuration with no server and no machine."""
    return Settings(root / "replicad.yaml", root / "state")
