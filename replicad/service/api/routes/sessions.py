"""Signing in with a browser (docs/decisions/0006)."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter, Request
from starlette.responses import Response

from replicad.model.errors import ConfigError
from replicad.service.api.answers import error_response
from replicad.service.api.guard import bearer
from replicad.service.api.orders import Session, SignedIn, SignIn, SignInUrl
from replicad.service.api.sessions import CODE_S, SESSION_S, WAY, Sessions, Way
from replicad.service.api.shapes import answers
from replicad.service.control import Control


def session_routes(control: Control, sessions: Sessions, url: str | None) -> APIRouter:
    """`/dashboard/code` and `/dashboard/session`."""
    router = APIRouter(tags=["dashboard"])

    @router.post("/dashboard/code", response_model=SignInUrl, responses=answers(400, 403, 411, 413, 503))
    async def new_code(request: Request) -> SignInUrl | Response:
        """An address of the dashboard that signs in, once, within two minutes. Not for who has only a session."""
        if request.scope[WAY] not in (Way.SOCKET, Way.TOKEN):
            return error_response(403, "AccessDeniedError", "only who knows the token may make a code", 12)
        if url is None:
            hint = "Add 'api: {listen: 127.0.0.1:8600, token_file: …}', or use 'ssh -L' (docs/dashboard.md)."
            raise ConfigError("open", "the dashboard", "this daemon listens on no address that browsers know", hint)
        expires_at = control.now() + timedelta(seconds=CODE_S)
        return SignInUrl(url=f"{url}#code={sessions.new_code()}", expires_at=expires_at)

    @router.post(
        "/dashboard/session", status_code=201, response_model=Session, responses=answers(400, 401, 411, 413, 422, 503)
    )
    async def sign_in(request: Request, given: SignIn | None = None) -> Session | Response:
        """A key for who has a code, or sends the token; it is good for twelve hours, or until the daemon ends."""
        if request.scope[WAY] not in (Way.SOCKET, Way.TOKEN) and (given is None or not sessions.take(given.code)):
            text = "the token or code is wrong, or the code was used or is older than two minutes"
            return error_response(401, "SignInError", text, 12)
        return Session(key=sessions.open(), expires_at=control.now() + timedelta(seconds=SESSION_S))

    @router.get("/dashboard/session", responses=answers(503))
    async def look(request: Request) -> SignedIn:
        """Whether whoever asks is let in; needs no token."""
        return SignedIn(signed_in=request.scope[WAY] is not Way.NOBODY)

    @router.delete("/dashboard/session", status_code=204, responses=answers(411, 413, 503))
    async def sign_out(request: Request) -> None:
        """End the session whose key is sent."""
        sessions.close(bearer([value for name, value in request.scope["headers"] if name == b"authorization"]))

    return router
