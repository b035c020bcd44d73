"""Machines: how they stand, what they did, and orders to them."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime
from starlette.responses import Response

from replicad.model.errors import ConfigError, ReplicadError, TransientError
from replicad.service.api.answers import error_response
from replicad.service.api.following import follow
from replicad.service.api.following_verification import follow_verification
from replicad.service.api.orders import SyncOrder, SyncTaken, VerifyOrder, VerifyTaken
from replicad.service.api.shapes import (
    MachineShape,
    PointsShape,
    RunsShape,
    answers,
    machine_shape,
    points_shape,
    run_shape,
)
from replicad.service.api.streams import EventStream, Stop
from replicad.service.control import Control

MOST_RUNS = 1_000
_MOST_NUMBER = (1 << 63) - 1
_STREAM = "text/event-stream"


def machine_routes(control: Control, stop: Stop) -> APIRouter:
    """`/vms` and what lies below it."""
    router = APIRouter(tags=["machines"])
    _add_looks(router, control)
    _add_orders(router, control, stop)
    return router


def _add_looks(router: APIRouter, control: Control) -> None:
    @router.get("/vms", responses=answers(503))
    async def list_machines() -> list[MachineShape]:
        """All machines as they stand now, by name."""
        return [machine_shape(view) for view in await control.machines()]

    @router.get("/vms/{vm}", responses=answers(404, 422, 503))
    async def show_machine(vm: str) -> MachineShape:
        """One machine as it stands now."""
        return machine_shape(await control.machine(vm))

    @router.get("/vms/{vm}/runs", responses=answers(400, 404, 422, 503))
    async def list_runs(
        vm: str,
        limit: Annotated[int, Query(ge=1, le=MOST_RUNS)] = 100,
        before: Annotated[int | None, Query(ge=1, le=_MOST_NUMBER)] = None,
        since: Annotated[AwareDatetime | None, Query(description="Only cycles that began then or later.")] = None,
    ) -> RunsShape:
        """The history of its cycles, the newest first. `before` is `next_before` of the page before."""
        if since is not None and not _is_usable(since):
            raise ConfigError("take", "the parameter 'since'", "nothing was replicated in that year")
        runs = await control.runs(vm, since, limit + 1, before)
        page = runs[:limit]
        return RunsShape(
            runs=[run_shape(run) for run in page], next_before=page[-1].number if len(runs) > limit else None
        )

    @router.get("/vms/{vm}/points", responses=answers(404, 422, 502, 503), response_model=PointsShape)
    async def list_points(vm: str) -> PointsShape | Response:
        """Its recovery points, as the replica has them, which is asked at most once a minute, or after a cycle.

        That may take 20 seconds; no lock is taken."""
        control.look(vm)
        try:
            return points_shape(await control.points(vm), control.keep(vm))
        except TransientError:
            raise
        except ReplicadError as error:
            # Not 404, 409 or 500: it is neither this daemon that fails, nor what was asked for that is wrong.
            return error_response(502, type(error).__name__, str(error), error.exit_code)


def _add_orders(router: APIRouter, control: Control, stop: Stop) -> None:
    @router.post(
        "/vms/{vm}/sync",
        status_code=202,
        response_model=SyncTaken,
        responses={
            200: {"description": "The cycle, as a stream that ends with it.", "content": {_STREAM: {}}},
            **answers(400, 404, 409, 411, 413, 422, 503),
        },
    )
    async def sync(vm: str, request: Request, order: SyncOrder | None = None) -> SyncTaken | Response:
        """Have a cycle begin as soon as there is a place for it; one that is under way does not count.

        With `Accept: text/event-stream` the answer is a stream: `waiting`, `progress` (at most four a second),
        `warning`, and last `ended` (the cycle) or `cancelled` (none will begin). To leave it does not stop the cycle.
        """
        now, under_way = control.now(), control.look(vm).run
        asked = await control.request(vm, resync=order is not None and order.resync)
        if _wants_stream(request.headers.get("accept", "")):
            return EventStream(follow(control, vm, under_way, asked, stop))
        asked.cancel()  # nobody waits for it
        return SyncTaken(vm=vm, requested_at=now)

    @router.post(
        "/vms/{vm}/verify",
        status_code=202,
        response_model=VerifyTaken,
        responses={
            200: {"description": "The verification, as a stream that ends with it.", "content": {_STREAM: {}}},
            **answers(400, 404, 409, 411, 413, 422, 503),
        },
    )
    async def verify(vm: str, request: Request, order: VerifyOrder | None = None) -> VerifyTaken | Response:
        """Have the replica read back and compared as soon as it is its turn; a verification that has begun counts.

        One is done at a time, and it gives way to cycles of the machine. With `Accept: text/event-stream` the answer is
        a stream: `waiting`, `progress` (at most four a second), `warning`, and last `ended` (what was found) or
        `cancelled` (it will not be done). To leave it does not stop the verification.
        """
        now = control.now()
        asked = await control.verify(vm, repair=order is not None and order.repair)
        if _wants_stream(request.headers.get("accept", "")):
            return EventStream(follow_verification(control, vm, asked, stop))
        asked.cancel()  # nobody waits for it
        return VerifyTaken(vm=vm, requested_at=now)

    @router.post("/vms/{vm}/pause", responses=answers(404, 411, 413, 422, 503))
    async def pause(vm: str) -> MachineShape:
        """Begin no cycle any more, and stop the one under way, which a later one goes on with."""
        await control.pause(vm)
        return machine_shape(await control.machine(vm))

    @router.post("/vms/{vm}/resume", responses=answers(404, 411, 413, 422, 503))
    async def resume(vm: str) -> MachineShape:
        """Let cycles begin again, after a pause or an error that only a person could mend."""
        await control.resume(vm)
        return machine_shape(await control.machine(vm))

    @router.post("/vms/{vm}/acknowledge", responses=answers(404, 411, 413, 422, 503))
    async def acknowledge(vm: str) -> MachineShape:
        """Say that somebody has seen that a tracker of changes was found wrong, which ends that warning."""
        await control.acknowledge(vm)
        return machine_shape(await control.machine(vm))


def _wants_stream(accept: str) -> bool:
    """Whether the first choice is a stream; `*/*` is not."""
    return accept.partition(",")[0].partition(";")[0].strip().lower() == _STREAM


def _is_usable(moment: AwareDatetime) -> bool:
    """Whether it can be told in UTC, with a day to spare."""
    try:
        return (moment - timedelta(days=1)).year > 1 and (moment + timedelta(days=1)).year < 9999
    except OverflowError:
        return False
