"""A daemon's control API in a few lines: what a test says is what it answers."""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

EVERYTHING_SAID_S = 30.0


def machine(vm: str, **facts: Any) -> dict[str, Any]:
    """A machine's object: well, with a point of a minute ago, unless told otherwise."""
    now = datetime.now(UTC)
    return {
        "vm": vm, "state": "replicating", "health": "normal", "reasons": [],
        "last_point": {"number": 7, "time": (now - timedelta(minutes=1)).isoformat(), "consistency": "cold"},
        "lag_s": 60, "rpo_s": 300, "progress": None, "next_run": (now + timedelta(minutes=4)).isoformat(),
        "paused_since": None, "run": None, "warnings": [],
        "statistics": {
            "since": (now - timedelta(days=1)).isoformat(), "done": 288, "failed": 0, "interrupted": 0, "missed": 0,
            "average_sent_bytes": 1, "largest_sent_bytes": 1, "average_duration_s": 1.0, "longest_duration_s": 1.0,
            "rpo_kept_percent": 100.0,
        },
        "verification": None, "verifying": None, "next_verification": None,
        "tracking": [], "mistake": None, "kept_clones": None,
        **facts,
    }  # fmt: skip


def run_under_way(number: int = 8, trigger: str = "request") -> dict[str, Any]:
    """A cycle that is under way, as a machine's object has it."""
    at = f"2026-11-23T18:00:{number:02}Z"
    return {"number": number, "trigger": trigger, "started_at": at, "due_at": at, "missed": 0}


def run_ended(vm: str, outcome: str = "done", **facts: Any) -> dict[str, Any]:
    """A cycle that ended after 2.5 s."""
    return {
        "number": 8, "vm": vm, "trigger": "request", "due_at": "2026-11-23T18:00:00Z",
        "started_at": "2026-11-23T18:00:00Z", "ended_at": "2026-11-23T18:00:02.500000Z", "outcome": outcome,
        "missed": 0, "kind": "delta", "point": 8, "scanned_bytes": 64 << 20, "changed_bytes": 3 << 20,
        "sent_bytes": 2 << 20, "undo_bytes": 1 << 20, "consistency": "cold", "point_time": "2026-11-23T18:00:00Z",
        "provenance": "full-scan", "resumed": False, "attempts": 1, "tracking": ["full-scan: why"],
        "failure": None, **facts,
    }  # fmt: skip


@dataclass(slots=True)
class Api:
    """What a daemon that is asked on `path` answers, and what it was asked.

    `refusals` stand in place of answers: by method and path a status and a body. `story` is what a stream tells, an
    event's name and data each; None: the connection is lost there. After a story that has no end the stream says
    nothing more until `let_go` is set.
    """

    path: Path
    machines: dict[str, dict[str, Any]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, Any]] = field(default_factory=dict)
    story: list[tuple[str, Any] | None] = field(default_factory=list)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    def refuse(self, request: str, status: int, kind: str, text: str, exit_code: int) -> None:
        """Answer a request with an error."""
        self.refusals[request] = status, {"error": {"kind": kind, "text": text, "exit_code": exit_code}}


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, api: Api) -> None:
        self.api = api
        super().__init__(str(api.path), _Handler)
        api.path.chmod(0o600)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # who asked has left
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def address_string(self) -> str:
        return "socket"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name of the base class
        pass

    def do_GET(self) -> None:
        self._answer("GET", None)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        self._answer("POST", json.loads(self.rfile.read(length)) if length else None)

    def _answer(self, method: str, body: Any) -> None:
        api, path = self.server.api, unquote(self.path)
        request = f"{method} {path}"
        api.asked.append((request, body))
        assert self.headers["Host"] == "localhost"
        if request in api.refusals:
            self._send(*api.refusals[request])
            return
        _, _, vm, *rest = [*path.split("/"), "", ""]
        if request == "GET /vms":
            self._send(200, list(api.machines.values()))
        elif request == "POST /reload":
            self._send(200, {"machines": len(api.machines)})
        elif vm not in api.machines:
            text = f"cannot find virtual machine '{vm}': the daemon keeps: {', '.join(api.machines)}"
            self._send(404, {"error": {"kind": "NotFoundError", "text": text, "exit_code": 10}})
        elif rest[0] in ("sync", "verify") and "text/event-stream" in self.headers["Accept"]:
            self._stream()
        elif rest[0] in ("sync", "verify"):
            self._send(202, {"vm": vm, "requested_at": "2026-11-23T18:00:00Z"})
        else:
            self._send(200, api.machines[vm])

    def _send(self, status: int, value: Any) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self.server.api.story:
            if event is None:
                self.close_connection = True
                return
            name, data = event
            self._chunk(f":\n\nevent: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n")
            if name in ("ended", "cancelled"):
                break
        else:
            self.server.api.let_go.wait(EVERYTHING_SAID_S)
        self._chunk("")

    def _chunk(self, text: str) -> None:
        content = text.encode()
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()


@contextmanager
def api_on(state_dir: Path, *vms: str) -> Iterator[Api]:
    """A daemon that answers on the socket of a state directory, and knows these machines."""
    state_dir.mkdir(parents=True, exist_ok=True)
    api = Api(state_dir / "api.sock", {vm: machine(vm) for vm in vms})
    server = _Server(api)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api
    finally:
        api.let_go.set()
        server.shutdown()
        thread.join()
        server.server_close()
        api.path.unlink()
