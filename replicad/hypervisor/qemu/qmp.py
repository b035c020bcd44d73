"""One connection to the monitor of a running QEMU, over which it is given commands (QMP)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NoReturn

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError

from replicad.model.errors import NotFoundError, PermanentError, TimedOutError, UnreachableError, UnsupportedError

from . import sockets

GREETING_TIMEOUT_S = 5.0
"""QEMU greets at once, or another client has the socket."""
_FAREWELL_TIMEOUT_S = 2.0

# What it tells its log, each time that a machine is off, is raised besides, in our words.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL + 1)

_MEANINGS: dict[str, type[PermanentError]] = {
    "CommandNotFound": UnsupportedError,
    "KVMMissingCap": UnsupportedError,
    "DeviceNotFound": NotFoundError,
    "DeviceNotActive": NotFoundError,
}


class Qmp:
    """Commands to one QEMU, each with a time limit. After a lost connection, or a command that was not answered in
    time, `lost` says so, and every other command fails as well."""

    def __init__(self, client: QMPClient, connected: socket.socket, subject: str, pid: int, timeout_s: float) -> None:
        self._client = client
        self._socket = connected
        self._timeout_s = timeout_s
        self.subject = subject
        """How errors name it."""
        self.pid = pid
        """The process that listens at the monitor's socket: the one that ran `listen`, which is QEMU itself unless
        somebody opened the socket for it. 0: not to be seen from here."""
        self.lost = False
        self._passing = asyncio.Lock()

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, descriptor: int | None = None
    ) -> Any:
        """What QEMU returns, of the shape that its manual tells. A file `descriptor` goes along to commands that take
        one (`getfd`, `add-fd`), and stays the caller's.

        PermanentError, or the one of its kinds that fits, if QEMU refuses; UnreachableError if it went away (the
        command may have been carried out); TimedOutError (it may still be).
        """
        if descriptor is None:
            return await self._execute(command, arguments)
        async with self._passing:  # the command takes whichever came last
            try:
                self._client.send_fd_scm(descriptor)
            except (QMPError, OSError) as error:
                self._went_away(f"run '{command}' at", error)
            return await self._execute(command, arguments)

    async def _execute(self, command: str, arguments: Mapping[str, object] | None) -> Any:
        op = f"run '{command}' at"
        if self.lost:
            raise UnreachableError(op, self.subject, "the connection was lost")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._client.execute(command, dict(arguments or {}))
        except ExecuteError as error:
            kind = _MEANINGS.get(error.error_class, PermanentError)
            raise kind(op, self.subject, f"QEMU says: {error.error.error.desc}") from error
        except TimeoutError as error:
            self._give_up()  # an answer that comes now would be to something else than we think
            answer = f"QEMU gave no answer within {self._timeout_s:g} s"
            raise TimedOutError(op, self.subject, answer, "Check what its disks and this host are doing.") from error
        except (QMPError, OSError, EOFError) as error:
            self._went_away(op, error)

    async def close(self) -> None:
        """End the connection. Never raises."""
        self.lost = True
        # What a broken connection was broken by comes once more when it is closed.
        with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError):
            async with asyncio.timeout(_FAREWELL_TIMEOUT_S):
                await self._client.disconnect()

    def _give_up(self) -> None:
        """Have QEMU see the end of this connection now: it lets nobody else in before, and a machine that stands still
        may be waiting for the next one."""
        self.lost = True
        with contextlib.suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    def _went_away(self, op: str, error: Exception) -> NoReturn:
        self._give_up()
        hint = "Was the virtual machine shut down?"
        raise UnreachableError(op, self.subject, "the connection was lost", hint) from error


async def connect(executor: Executor, path: Path, timeout_s: float) -> Qmp:
    """A connection, greeted and ready.

    MachineIsOffError if nobody listens; BusyError if another client has the socket; AccessDeniedError. What QEMU does
    not answer in `timeout_s` seconds later fails.
    """
    connected = await sockets.connect(executor, path, "the monitor")
    subject = f"the monitor {path}"
    client = QMPClient()
    # Nobody reads its events, and they would pile up.
    client.events.event_filter = lambda event: False
    try:
        pid = sockets.peer_pid(connected)
        async with asyncio.timeout(GREETING_TIMEOUT_S):
            await client.connect(connected)
    except TimeoutError as error:
        connected.close()
        answer = f"it did not greet within {GREETING_TIMEOUT_S:g} s, so another client is likely to be connected"
        raise sockets.busy(subject, answer) from error
    except ConnectError as error:
        connected.close()
        if isinstance(error.exc, EOFError | OSError):
            raise UnreachableError("connect to", subject, "it ended the connection") from error
        hint = "Give the socket of a QMP monitor (-qmp, or -mon with mode=control)."
        raise UnsupportedError("connect to", subject, "what listens there is no QMP monitor", hint) from error
    except BaseException:
        connected.close()
        raise
    return Qmp(client, connected, subject, pid, timeout_s)
