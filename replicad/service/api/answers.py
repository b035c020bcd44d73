"""Errors as the API tells them: `{"error": {"kind", "text", "exit_code"}}`. No traceback, and nothing of the request's
values but what the sentences of our own errors name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from replicad.model.errors import (
    BusyError,
    ConfigError,
    ConflictError,
    NotFoundError,
    ReplicadError,
    TransientError,
)
from replicad.model.names import printable

_DEFECT = "this program has a defect; the daemon's log has the details"


def error_response(
    status: int, kind: str, text: str, exit_code: int = 1, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error in its shape."""
    body = {"error": {"kind": kind, "text": text, "exit_code": exit_code}}
    return JSONResponse(body, status, {**_ALWAYS, **(headers or {})})


_ALWAYS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def status_of(error: ReplicadError) -> int:
    """The HTTP status that goes with an error."""
    match error:
        case NotFoundError():
            return 404
        case ConfigError():
            return 400
        case BusyError() | ConflictError():
            return 409
        case TransientError():
            return 503
    return 500


def tell_errors(app: FastAPI) -> None:
    """Have all that goes wrong told in this shape."""

    async def ours(_: Request, error: Exception) -> Response:
        if not isinstance(error, ReplicadError):
            raise error
        return error_response(status_of(error), type(error).__name__, str(error), error.exit_code)

    async def wrong(_: Request, error: Exception) -> Response:
        details = error.errors() if isinstance(error, RequestValidationError) else []
        is_json = any(detail.get("type") == "json_invalid" for detail in details)
        return error_response(400 if is_json else 422, "ConfigError", _sentence(details), ConfigError.exit_code)

    async def http(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        path = printable(request.url.path)
        if error.status_code == 404:
            return error_response(404, "NotFoundError", f"there is nothing at {path}", NotFoundError.exit_code)
        if error.status_code == 405:
            text = f"{path} does not know the method {printable(request.method)}"
            return error_response(405, "UnsupportedError", text, headers=error.headers)
        return error_response(error.status_code, "ConfigError", str(error.detail), ConfigError.exit_code)

    async def defect(_: Request, __: Exception) -> Response:
        return error_response(500, "InternalError", _DEFECT)  # Starlette raises it on, and uvicorn logs it

    app.add_exception_handler(ReplicadError, ours)
    app.add_exception_handler(RequestValidationError, wrong)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, defect)


def _sentence(details: Sequence[Mapping[str, Any]]) -> str:
    """The first complaint in words; the value is not shown, as nobody knows what it is."""
    if not details:
        return "the request is wrong"
    first = details[0]
    where, *path = (str(part) for part in first.get("loc", ()))
    name = ".".join(path) if path and first.get("type") != "json_invalid" else ""
    places = {"query": "the parameter", "body": "the body's", "path": "the path's", "header": "the header"}
    place = f"{places.get(where, where)} {printable(name)!r}" if name else f"the {where}"
    said = str(first.get("msg", "it is wrong"))
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return printable(f"{place}: {said[:1].lower()}{said[1:]}{more}")
