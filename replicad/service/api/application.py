"""The API as one ASGI application, without what it listens on."""

from __future__ import annotations

from fastapi import FastAPI

from replicad import __version__
from replicad.service.control import Control
from replicad.service.metrics import Figures

from .answers import tell_errors
from .dashboard.routes import dashboard_routes
from .routes.daemon import daemon_routes
from .routes.machines import machine_routes
from .routes.moves import move_routes
from .routes.sessions import session_routes
from .sessions import Sessions
from .shapes import answers
from .streams import Stop


def application(control: Control, figures: Figures, stop: Stop, sessions: Sessions, url: str | None) -> FastAPI:
    """All routes; `url` is where browsers reach it, if anywhere.

    Its description is at `/openapi.json`; pages that need the internet to be read are left out.
    """
    app = FastAPI(
        title="replicad",
        version=__version__,
        description="The control API of the replicad daemon.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=answers(401, 403, 405),
    )
    app.include_router(machine_routes(control, stop))
    if control.moves is not None:
        app.include_router(move_routes(control.moves))
    app.include_router(daemon_routes(control, figures, stop))
    app.include_router(session_routes(control, sessions, url))
    app.include_router(dashboard_routes(control))
    tell_errors(app)
    return app
