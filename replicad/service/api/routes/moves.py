"""Moves: what the daemon has under way, and orders to it."""

from __future__ import annotations

from fastapi import APIRouter

from replicad.model.address import parse_address
from replicad.service.api.move_shapes import MoveOrderShape, MovesShape, MoveViewShape
from replicad.service.api.shapes import answers
from replicad.service.moving.configured import Moves


def move_routes(moves: Moves) -> APIRouter:
    """`/moves` and what lies below it."""
    router = APIRouter(tags=["moves"])

    @router.get("/moves", responses=answers(503))
    async def list_moves() -> MovesShape:
        """All moves that are remembered, the oldest first."""
        return MovesShape(moves=tuple(MoveViewShape.seen(view) for view in await moves.all()))

    @router.post("/moves", status_code=202, responses=answers(400, 404, 409, 411, 413, 422, 503))
    async def start_moves(order: MoveOrderShape) -> MovesShape:
        """Have machines moved as soon as it is their turn; a move to the same place that had stopped goes on."""
        views = await moves.start(order.source, order.wanted(parse_address), order.at)
        return MovesShape(moves=tuple(MoveViewShape.seen(view) for view in views))

    @router.get("/moves/{move_id}", responses=answers(400, 404, 422, 503))
    async def show_move(move_id: str) -> MoveViewShape:
        """One move as it stands now, by any first digits of its id that no other has."""
        return MoveViewShape.seen(await moves.one(move_id))

    @router.post("/moves/{move_id}/cancel", responses=answers(400, 404, 409, 411, 413, 422, 503))
    async def cancel_move(move_id: str) -> MoveViewShape:
        """Stop a move before its switch, and take back what it has brought."""
        return MoveViewShape.seen(await moves.cancel(move_id))

    @router.post("/moves/{move_id}/resume", responses=answers(400, 404, 409, 411, 413, 422, 503))
    async def resume_move(move_id: str) -> MoveViewShape:
        """Go on with a move that an error has stopped, or that waits to be tried again."""
        return MoveViewShape.seen(await moves.resume(move_id))

    return router
