"""A process beside replicad that has a stopped machine go on if replicad dies: it is run as a program of its own, and
needs nothing but Python's standard library, so that it is ready soon.

It reads lines. `{"monitor": …, "process": "<number>:<start>", "orders": {…}}` is what to do from now on (see
orders.py), and is answered with `ok`; `done` ends it. If its input ends without that word, whoever gave it the orders
has died, and it carries them out, once it gets in at the monitor: if that process still listens there; and on a machine
that runs already, it only clears up.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

READY = b"ready\n"
OK = b"ok\n"
DONE = b"done\n"

_PATIENCE_S = 3600.0
_ASK_AGAIN_EVERY_S = 0.1
_ANSWER_TIMEOUT_S = 30.0
_GREETING_TIMEOUT_S = 5.0
_MAX_PATH_BYTES = 107
_ENDS_IT = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")


class RefusedError(Exception):
    """QEMU refused a command."""


def main() -> int:
    """0: there was nothing to do, or it was done."""
    for name in _ENDS_IT:  # a service manager ends all that a dead service has left, and this is for that moment
        with suppress(AttributeError, ValueError):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    told: dict[str, Any] | None = None
    _answer(READY)
    while (line := sys.stdin.buffer.readline()).endswith(b"\n"):
        if line == DONE:
            return 0
        told = json.loads(line)
        _answer(OK)
    # A line that was cut is nothing that anybody was told to be heard.
    return 0 if told is None or _carried_out(told) else 1


def _answer(word: bytes) -> None:
    with suppress(OSError):  # nobody is there to read it: then the input ends, too
        os.write(1, word)


def _carried_out(told: dict[str, Any]) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            _once(told)
        except (FileNotFoundError, ConnectionRefusedError):
            return True  # it is off
        except (OSError, ValueError) as error:
            why = str(error)
        except RefusedError as error:
            _say(f"{told['monitor']}: the machine that was stopped can't be told to go on: {error}")
            return False
        else:
            return True
        time.sleep(_ASK_AGAIN_EVERY_S)
    _say(f"{told['monitor']}: the machine that was stopped can't be told to go on: {why}")
    return False


def _once(told: dict[str, Any]) -> None:
    with _connected(Path(told["monitor"])) as connected:
        connected.settimeout(_GREETING_TIMEOUT_S)
        monitor = _Monitor(connected)
        connected.settimeout(_ANSWER_TIMEOUT_S)
        status = monitor.execute("query-status", {})
        if _process_behind(connected) != told["process"]:
            return
        orders = told["orders"]
        if not status["running"]:
            for command in orders["before"]:
                monitor.carry_out(command)
        if orders["resume"] and status["status"] == "paused":
            monitor.execute("cont", {})
            _say(f"{told['monitor']}: replicad left the machine stopped, and did not have it go on: it does now")
        for command in orders["after"]:
            monitor.carry_out(command)


class _Monitor:
    """A connection to the monitor, past its greeting."""

    def __init__(self, connected: socket.socket) -> None:
        self._connected = connected
        self._lines: BinaryIO = connected.makefile("rb")
        self._next()
        self._number = 0
        self.execute("qmp_capabilities", {})

    def execute(self, command: str, arguments: dict[str, Any]) -> Any:
        self._number += 1
        request = {"execute": command, "arguments": arguments, "id": self._number}
        self._connected.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RefusedError(f"{command}: {answer['error'].get('desc', '')}")
                return answer["return"]

    def carry_out(self, command: dict[str, Any]) -> None:
        """What fails is passed over: that the machine goes on matters more."""
        with suppress(RefusedError, KeyError):
            if self._applies(command):
                self.execute(command["execute"], command["arguments"])

    def _applies(self, command: dict[str, Any]) -> bool:
        used, there = command.get("if_used"), command.get("if_there")
        if used is None and there is None:
            return True
        graph = self.execute("x-debug-query-block-graph", {})
        names = {node["id"]: node["name"] for node in graph["nodes"]}
        return (used is None or any(names[edge["child"]] == used for edge in graph["edges"])) and (
            there is None or there in names.values()
        )

    def _next(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise ConnectionResetError("the monitor ended the connection")
        answer = json.loads(line)
        return answer if isinstance(answer, dict) else {}


@contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.settimeout(_GREETING_TIMEOUT_S)
        if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
            opened.connect(str(path))
        else:
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                opened.connect(f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.close(directory)
        yield opened


def _process_behind(connected: socket.socket) -> str:
    """The process that listens, by its number and its start, as process.py writes it."""
    credentials = struct.Struct("3i")
    pid = credentials.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))[0]
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return f"{pid}:{fields[19]}"


def _say(text: str) -> None:
    with suppress(OSError):
        os.write(2, f"replicad's watchdog: {text}\n".encode(errors="replace"))


if __name__ == "__main__":
    sys.exit(main())
