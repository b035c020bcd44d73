"""The page, its assets, and the pieces of HTML that it asks for again and again."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException
from starlette.responses import Response

from replicad.model.errors import ReplicadError
from replicad.service.api.move_shapes import MoveViewShape
from replicad.service.api.shapes import machine_shape, points_shape
from replicad.service.control import Control

from . import views
from .rendering import ASSETS, asset, render
from .series import series_of

SPANS = {"6 hours": timedelta(hours=6), "day": timedelta(days=1), "week": timedelta(days=7)}
_MOST_RUNS = 20_000
"""As many as the catalog keeps of a machine."""
_CYCLES_SHOWN = 30

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_FOR_A_YEAR = "private, max-age=31536000, immutable"
"""The page names assets by what they hold."""


def dashboard_routes(control: Control) -> APIRouter:
    """`/`, and `/dashboard/…`. Not in `/openapi.json`: it is for the page alone, and changes with it."""
    router = APIRouter(include_in_schema=False)
    _add_page(router)
    _add_pieces(router, control)
    return router


def _add_page(router: APIRouter) -> None:
    page = render("page.html", assets=ASSETS, spans=list(SPANS))

    @router.get("/")
    async def show_page() -> Response:
        return _html(page)  # nothing of any machine is in it: who has not signed in may see it

    @router.get("/dashboard/assets/{name}")
    async def show_asset(name: str) -> Response:
        found = asset(name)
        if found is None:
            raise HTTPException(404)
        headers = {**_HEADERS, "Cache-Control": _FOR_A_YEAR, "Content-Type": found.media_type}
        return Response(found.content, headers=headers)


def _add_pieces(router: APIRouter, control: Control) -> None:
    @router.get("/dashboard/machines")
    async def show_machines(
        query: Annotated[str, Query(max_length=200)] = "",
        show: Annotated[str, Query(max_length=20)] = "all",
        limit: Annotated[int, Query(ge=1, le=views.MOST_SHOWN)] = views.SHOWN_AT_FIRST,
    ) -> Response:
        machines = [machine_shape(view) for view in await control.machines()]
        fleet = views.fleet(machines, query, show, limit)
        return _html(render("machines.html", fleet=fleet, show=show, query=query, now=control.now()))

    @router.get("/dashboard/moves")
    async def show_moves() -> Response:
        known = () if control.moves is None else await control.moves.all()
        now = control.now()
        rows = views.moves_shown([MoveViewShape.seen(view) for view in known], now)
        return _html(render("moves.html", rows=rows, now=now) if rows else "")

    @router.get("/dashboard/now")
    async def show_now(vm: str) -> Response:
        machine = machine_shape(await control.machine(vm))
        verification = views.verification_of(machine)
        return _html(render("now.html", machine=machine, verification=verification, now=control.now()))

    @router.get("/dashboard/charts")
    async def show_charts(vm: str, span: Annotated[str, Query(max_length=20)] = "day") -> Response:
        now, machine = control.now(), machine_shape(await control.machine(vm))
        since = now - SPANS.get(span, SPANS["day"])
        runs = await control.runs(vm, since - timedelta(days=1), _MOST_RUNS)
        latest = machine.last_point.time if machine.last_point is not None else None
        series = series_of(runs, latest, since, now)
        data = json.dumps({**asdict(series), "rpo_s": machine.rpo_s, "since": since.timestamp()})
        return _html(render("charts.html", machine=machine, series=series, data=data, span=span))

    @router.get("/dashboard/cycles")
    async def show_cycles(vm: str) -> Response:
        return _html(render("cycles.html", vm=vm, runs=await control.runs(vm, limit=_CYCLES_SHOWN)))

    @router.get("/dashboard/points")
    async def show_points(vm: str) -> Response:
        control.look(vm)
        try:
            known = points_shape(await control.points(vm), control.keep(vm))
        except ReplicadError as error:
            return _html(render("points.html", vm=vm, problem=str(error), known=None, line=None))
        line = views.time_line(known.points, control.now())
        return _html(render("points.html", vm=vm, problem=None, known=known, line=line))


def _html(text: str) -> Response:
    return Response(text, headers={**_HEADERS, "Content-Type": "text/html; charset=utf-8"})
