"""Who may ask at all: looked at before anything of a request is believed or read."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .answers import error_response
from .sessions import WAY, Sessions, Way

MAX_BODY_BYTES = 64 << 10
MOST_AT_ONCE = 200
"""Requests, streams among them."""

_OPEN_TO_ALL = frozenset({"/healthz", "/", "/dashboard/session"})
"""The dashboard's empty page, and where it signs in, which looks itself at what it is given."""
_ASSETS = "/dashboard/assets/"

_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_SCHEME_AND_TOKEN = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +(\S+) *")


@dataclass(frozen=True, slots=True)
class Pass:
    """What a request needs: to name one of these hosts (lower case) and, if there is one, to know the token."""

    hosts: frozenset[str]
    token: str | None = field(default=None, repr=False)


class Guard:
    """An ASGI application that hands on to `app` what has the pass.

    The host has to be named so that a page that has its own name resolve to this address gets no answer; an origin, if
    one is sent, has to be this very server, so that pages of others can't give orders. Ports in `Host` are free, as
    tunnels change them. While `is_stopping` nobody is let in any more. The key of one of the `sessions` is as good as
    the token. `/healthz`, and what the dashboard has to show before somebody has signed in, need neither. How a request
    has come in is written into its scope.
    """

    def __init__(self, app: ASGIApp, needs: Pass, is_stopping: Callable[[], bool], sessions: Sessions) -> None:
        self._app = app
        self._needs = needs
        self._sessions = sessions
        self._is_stopping = is_stopping
        self._at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"the API speaks HTTP alone, not {scope['type']}")
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        self._at_once += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._at_once -= 1

    def _refusal(self, scope: Scope) -> Response | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        return (
            self._about_names(_all(headers, b"host"), _all(headers, b"origin"))
            or self._about_token(scope, _all(headers, b"authorization"))
            or self._about_state(scope["path"])
            or _about_body(_all(headers, b"content-length"), _all(headers, b"transfer-encoding"))
        )

    def _about_names(self, hosts: list[bytes], origins: list[bytes]) -> Response | None:
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None or match[1].decode("ascii").lower() not in self._needs.hosts:
            names = " or ".join(sorted(self._needs.hosts))
            return error_response(403, "AccessDeniedError", f"the request's Host must be {names}", 12)
        if any(origin.lower() != b"http://" + hosts[0].lower() for origin in origins):
            return error_response(403, "AccessDeniedError", "the request comes from a page of another origin", 12)
        return None

    def _about_token(self, scope: Scope, given: list[bytes]) -> Response | None:
        scope[WAY] = way = self._way(given)
        path = scope["path"]
        if way is not Way.NOBODY or path in _OPEN_TO_ALL or path.startswith(_ASSETS):
            return None
        text = "the token is missing or wrong: send 'Authorization: Bearer ' and what the token_file holds"
        return error_response(401, "SignInError", text, 12, {"WWW-Authenticate": 'Bearer realm="replicad"'})

    def _way(self, given: list[bytes]) -> Way:
        if self._needs.token is None:
            return Way.SOCKET
        presented = bearer(given)
        # Compared even if none was given: how long this takes tells nothing.
        if hmac.compare_digest(presented, self._needs.token.encode()):
            return Way.TOKEN
        return Way.SESSION if self._sessions.knows(presented) else Way.NOBODY

    def _about_state(self, path: str) -> Response | None:
        if path == "/healthz":
            return None
        if self._is_stopping():
            return error_response(503, "BusyError", "the daemon is stopping", 5, {"Connection": "close"})
        if self._at_once >= MOST_AT_ONCE:
            return error_response(503, "BusyError", f"{MOST_AT_ONCE} others are asking just now", 5)
        return None


def bearer(given: list[bytes]) -> bytes:
    """What stands after `Bearer` in the one header `Authorization`; empty if it is not so."""
    match = _SCHEME_AND_TOKEN.fullmatch(given[0]) if len(given) == 1 else None
    return match[1] if match else b""


def _all(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _about_body(lengths: list[bytes], encodings: list[bytes]) -> Response | None:
    if encodings:
        return error_response(411, "ConfigError", "the body's length must be told (Content-Length)", 2)
    if lengths and (not lengths[0].isdigit() or int(lengths[0][:20]) > MAX_BODY_BYTES):
        text = f"the body is longer than {MAX_BODY_BYTES >> 10} KiB"
        return error_response(413, "ConfigError", text, 2, {"Connection": "close"})
    return None
