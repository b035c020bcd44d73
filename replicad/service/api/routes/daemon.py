"""The daemon itself: its configuration, its events, whether it lives, and its figures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from replicad.service.api.answers import error_response
from replicad.service.api.move_shapes import MoveShape
from replicad.service.api.orders import Alive, Ready, ReloadShape
from replicad.service.api.shapes import VerifiedShape, answers, run_shape
from replicad.service.api.streams import COMMENT, QUIET_S, EventStream, Stop, event
from replicad.service.control import Control
from replicad.service.events import (
    CycleBegan,
    CycleEnded,
    Event,
    MachineChanged,
    MoveBegan,
    MoveStopped,
    Trouble,
    VerificationBegan,
    VerificationEnded,
)
from replicad.service.metrics import CONTENT_TYPE, Figures


class Changed(BaseModel):
    """A machine was paused, resumed, added, removed, or got another schedule."""

    vm: str


class Troubled(BaseModel):
    """What an administrator should know; of one machine, or of the daemon as a whole."""

    vm: str | None
    text: str


def daemon_routes(control: Control, figures: Figures, stop: Stop) -> APIRouter:
    """What is not of one machine."""
    router = APIRouter(tags=["daemon"])

    @router.post("/reload", responses=answers(400, 411, 413, 422, 503))
    async def reload() -> ReloadShape:
        """Take the configuration file as it is now, or, if anything is wrong in it, nothing of it."""
        await control.reload()
        return ReloadShape(machines=len(control.names()))

    @router.get(
        "/events",
        response_class=Response,
        responses={200: {"description": "Events, without end.", "content": {"text/event-stream": {}}}, **answers(503)},
    )
    async def events() -> Response:
        """What happens from now on, in all machines: `machine`, `began`, `ended`, `verifying`, `verified`,
        `move`, `trouble`.

        Who reads too slowly misses the oldest events that it has not read.
        """
        return EventStream(_told(control, stop))

    @router.get("/healthz")
    async def healthz() -> Alive:
        """The event loop lives. Needs no token."""
        return Alive()

    @router.get("/readyz", responses=answers(503), response_model=Ready)
    async def readyz() -> Ready | Response:
        """The machines are kept."""
        if stop.is_set:
            return error_response(503, "BusyError", "the daemon is stopping", 5)
        return Ready(machines=len(control.names()))

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"description": "Figures for Prometheus.", "content": {CONTENT_TYPE: {}}}, **answers(503)},
    )
    async def metrics() -> Response:
        """All figures, in the text format of Prometheus."""
        return Response(await figures.exposition(control), headers={"Content-Type": CONTENT_TYPE})

    return router


async def _told(control: Control, stop: Stop) -> AsyncGenerator[str, None]:
    with control.hub.subscription() as queue:
        yield COMMENT
        while not stop.is_set:
            getting, stopping = asyncio.ensure_future(queue.get()), asyncio.ensure_future(stop.wait())
            try:
                await asyncio.wait({getting, stopping}, timeout=QUIET_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.cancel()
                if not getting.done():
                    getting.cancel()
            if getting.done() and not getting.cancelled():
                yield _piece(getting.result())
            elif not stop.is_set:
                yield COMMENT


def _piece(happened: Event) -> str:
    match happened:
        case CycleBegan(run):
            return event("began", run_shape(run))
        case CycleEnded(run):
            return event("ended", run_shape(run))
        case VerificationBegan(vm):
            return event("verifying", Changed(vm=vm))
        case VerificationEnded(vm, result):
            return event("verified", VerifiedShape(vm=vm, at=result.at, outcome=result.outcome, text=result.text))
        case MachineChanged(vm):
            return event("machine", Changed(vm=vm))
        case MoveBegan(move) | MoveStopped(move):
            return event("move", MoveShape.of(move))
        case Trouble(vm, text):
            return event("trouble", Troubled(vm=vm, text=text))
