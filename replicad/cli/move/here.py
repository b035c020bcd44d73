"""Moves in this process: the catalog, the shares and whatever else they need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replicad.model.known_moves import KnownMove
from replicad.model.progress import Observer, Warned

if TYPE_CHECKING:
    from replicad.catalog import Catalog
    from replicad.service.compose import Shares
    from replicad.service.moving.mover import Mover
    from replicad.settings import Settings
    from replicad.workflows.context import Context


@asynccontextmanager
async def opened_catalog(settings: Settings, observe: Observer) -> AsyncIterator[Catalog]:
    """This host's memory, which a daemon may be using, too."""
    from asyncio import get_running_loop

    from replicad.catalog import CATALOG_FILE, open_catalog

    loop = get_running_loop()

    def warn(text: str) -> None:
        loop.call_soon_threadsafe(observe, Warned(text))

    async with open_catalog(settings.state_dir / CATALOG_FILE, warn) as catalog:
        yield catalog


@dataclass(frozen=True, slots=True)
class Moving:
    """What one move works with."""

    mover: Mover
    shares: Shares
    ctx: Context


@asynccontextmanager
async def moving(
    settings: Settings, catalog: Catalog, observe: Observer, bandwidth: str | None = None
) -> AsyncIterator[Moving]:
    """For as long as the context lasts; `bandwidth` is a timetable as people type it."""
    from replicad.service.compose import Shares
    from replicad.service.moving.mover import Mover
    from replicad.service.surroundings import surroundings
    from replicad.settings.timetable import parse_timetable

    limit = None if bandwidth is None else parse_timetable(bandwidth)
    async with (
        surroundings(settings.state_dir, observe) as ctx,
        Shares(settings, observe=observe, bandwidth=limit) as shares,
    ):
        yield Moving(Mover(settings, catalog, shares, ctx), shares, ctx)


def facts_of(move: KnownMove) -> dict[str, Any]:
    """What `--json` prints of a move."""
    from replicad.service.api.move_shapes import MoveShape

    return MoveShape.of(move).model_dump(mode="json")
