"""Asking the daemon of a configuration: HTTP over the Unix socket in its state directory.

No event loop and nothing but the standard library: this is on the way of commands that must start quickly.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote

from replicad.model.errors import AccessDeniedError, PermanentError, ReplicadError, TimedOutError, UnreachableError
from replicad.settings.find import find_config
from replicad.settings.state_dir import state_dir_of

SOCKET = "api.sock"
ANSWER_S = 30.0
WORK_S = 180.0
"""For what the daemon answers when it is done: a cycle that is stopped finishes what it has begun."""
QUIET_S = 60.0
"""A stream that says nothing for so long is dead: the daemon says something at least every 15 s."""
_CONNECT_S = 5.0
_MOST_LINE_BYTES = 1 << 20


class ToldError(ReplicadError):
    """What the daemon says in place of a result: its own sentence (or lines, for the problems of a configuration), and
    the exit code that goes with it. `kind` is the name of the daemon's error."""

    def __init__(self, kind: str, text: str, exit_code: int) -> None:
        super().__init__("do", "this", text)
        self.kind = kind
        self.exit_code = exit_code

    def __str__(self) -> str:
        return self.answer


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event of a stream."""

    name: str
    data: Any


@dataclass(frozen=True, slots=True)
class Daemon:
    """The daemon that listens, or listened, on `path`. Each call connects anew, so that one that was restarted goes on
    being the same.

    All of them raise ToldError, UnreachableError if nobody listens or the connection is lost, TimedOutError, and
    AccessDeniedError if this user may not ask.
    """

    path: Path

    def is_there(self) -> bool:
        """Whether somebody listens. AccessDeniedError, TimedOutError."""
        try:
            self._connected().close()
        except UnreachableError:
            return False
        return True

    def get(self, path: str) -> Any:
        """What it answers."""
        return self._ask("GET", path, None, ANSWER_S)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What it answers once it has done what it was asked for."""
        return self._ask("POST", path, body, WORK_S)

    @contextmanager
    def follow(self, path: str, body: dict[str, Any] | None = None) -> Iterator[Iterator[ServerEvent]]:
        """Ask for something, which is taken once this is entered, and hear what becomes of it until the stream ends."""
        with self._answered("POST", path, body, QUIET_S, "text/event-stream") as response:
            yield self._events(response)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float) -> Any:
        with self._answered(method, path, body, timeout_s, "application/json") as response:
            return self._value(response)

    @contextmanager
    def _answered(
        self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float, accept: str
    ) -> Iterator[HTTPResponse]:
        """The answer, if it is a good one."""
        headers = {"Accept": accept, "Connection": "close"}
        content = None
        if body is not None:
            content, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        with closing(HTTPConnection("localhost")) as connection:
            connection.sock = self._connected()
            connection.sock.settimeout(timeout_s)
            with self._told_if_lost(timeout_s):
                connection.request(method, path, content, headers)
                response = connection.getresponse()
            with closing(response):
                if response.status >= 400:
                    raise self._refusal(response)
                yield response

    def _connected(self) -> socket.socket:
        """A connection. UnreachableError if nobody listens."""
        if not hasattr(socket, "AF_UNIX"):
            raise UnreachableError("ask", "a daemon", "this system has no Unix sockets for Python")
        deadline_s = time.monotonic() + _CONNECT_S
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(_CONNECT_S)
                connection.connect(str(self.path))
            except OSError as error:
                connection.close()
                if not isinstance(error, BlockingIOError | TimeoutError) or time.monotonic() > deadline_s:
                    raise self._not_connected(error) from None
                time.sleep(0.05)  # so many ask at once that they have to queue
            except BaseException:
                connection.close()
                raise
            else:
                return connection

    def _not_connected(self, error: OSError) -> ReplicadError:
        if isinstance(error, PermissionError):
            hint = "Ask as the user that the daemon runs as, or work without it: --standalone."
            return AccessDeniedError("ask", f"the daemon at {self.path}", "this user may not open its socket", hint)
        if isinstance(error, BlockingIOError | TimeoutError):
            return TimedOutError("ask", f"the daemon at {self.path}", f"it takes no connection for {_CONNECT_S:.0f} s")
        return UnreachableError("ask", "the daemon", f"nobody listens on {self.path}")

    @contextmanager
    def _told_if_lost(self, timeout_s: float) -> Iterator[None]:
        what = f"the daemon at {self.path}"
        try:
            yield
        except TimeoutError:
            raise TimedOutError("ask", what, f"it has said nothing for {timeout_s:.0f} s", "Look at its log.") from None
        except (OSError, HTTPException):
            answer, hint = "it ended the connection before it had answered", "It may be restarting: try again."
            raise UnreachableError("ask", what, answer, hint) from None

    def _value(self, response: HTTPResponse) -> Any:
        with self._told_if_lost(ANSWER_S):
            content = response.read()
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise self._strange(response.status) from None

    def _refusal(self, response: HTTPResponse) -> ReplicadError:
        value = self._value(response)
        match value:
            case {"error": {"kind": str(kind), "text": str(text), "exit_code": int(code)}} if 0 < code < 256:
                return ToldError(kind, text, code)
        return self._strange(response.status)

    def _strange(self, status: int) -> ReplicadError:
        answer = f"its answer ({status}) is none that this program knows"
        hint = "They are probably of different versions: restart the daemon after an upgrade."
        return PermanentError("ask", f"the daemon at {self.path}", answer, hint)

    def _events(self, response: HTTPResponse) -> Iterator[ServerEvent]:
        """As the HTML standard says (§9.2.6), but for what nobody sends here: ids and pauses."""
        name, data = "", []
        while True:
            with self._told_if_lost(QUIET_S):
                line = response.readline(_MOST_LINE_BYTES)
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            field, _, value = text.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
            elif not text:
                if data:
                    try:
                        yield ServerEvent(name, json.loads("\n".join(data)))
                    except ValueError:
                        raise self._strange(response.status) from None
                name, data = "", []


def daemon_of(config: Path | None) -> Daemon:
    """The daemon of the configuration that `--config` or its defaults name, whether it runs or not. ConfigError."""
    return Daemon(state_dir_of(find_config(config, os.environ), os.environ) / SOCKET)


def running_daemon(config: Path | None) -> Daemon | None:
    """The same; None if it does not run. ConfigError, AccessDeniedError, TimedOutError."""
    daemon = daemon_of(config)
    return daemon if daemon.is_there() else None


def needed_daemon(config: Path | None, op: str, subject: str) -> Daemon:
    """The same, for what only it can do. UnreachableError if it does not run."""
    daemon = daemon_of(config)
    if not daemon.is_there():
        answer = f"no daemon runs for this configuration (nobody listens on {daemon.path})"
        raise UnreachableError(op, subject, answer, "Start it with 'replicad run', or 'systemctl start replicad'.")
    return daemon


def path_of(vm: str, *parts: str) -> str:
    """A virtual machine's path in the API."""
    return "/".join(("/vms", quote(vm, safe="", errors="surrogateescape"), *parts))
