"""QEMU's NBD server, started when we need it and stopped when we don't, and what is exported over it.

QEMU has one such server. Its socket is ours: made in a directory that only this user can enter, and handed to QEMU as
an open file, so that QEMU's user needs no rights there, and nobody else can connect.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from replicad.model.errors import BusyError, PermanentError, ReplicadError
from replicad.storage.blocking import run_blocking
from replicad.storage.undisturbed import undisturbed

from .monitor import Monitor
from .nbd_client import NbdExport
from .process import identify, listens_at
from .qmp import Qmp

T = TypeVar("T")

_SOCKET = "nbd"
_BACKLOG = 16
_GONE_TIMEOUT_S = 30.0
_LOOK_AGAIN_S = 0.002
_LOOK_UP_TIMEOUT_S = 10.0


class Exports:
    """What one cycle exports. All names of nodes, exports and directories begin with `prefix`, so that those of a
    cycle that died can be told from others'."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._changing = asyncio.Lock()
        self._users = 0
        self._directory: Path | None = None

    @asynccontextmanager
    async def exported(
        self, qmp: Qmp, prefix: str, node: str, *, bitmap: str | None = None
    ) -> AsyncIterator[NbdExport]:
        """A node, to be read with its allocation, or with a bitmap of its.

        BusyError if somebody else uses QEMU's NBD server; what `Qmp.execute` raises.
        """
        async with self._server(qmp, prefix) as path:
            name = f"{node}-export"
            options: dict[str, object] = {"type": "nbd", "id": name, "node-name": node, "name": name}
            options |= {"bitmaps": [bitmap]} if bitmap else {}
            contexts = (f"qemu:dirty-bitmap:{bitmap}",) if bitmap else ("base:allocation",)
            export = NbdExport(self._monitor.executor, path, name, contexts)
            try:
                await qmp.execute("block-export-add", options)
                yield export
            finally:
                await export.close()
                await undisturbed(remove_exports(qmp, name))

    @asynccontextmanager
    async def _server(self, qmp: Qmp, prefix: str) -> AsyncIterator[Path]:
        async with self._changing:
            directory = self._directory or await self._start(qmp, prefix)
            self._users += 1
        try:
            yield directory / _SOCKET
        finally:
            await undisturbed(self._leave(qmp))

    async def _leave(self, qmp: Qmp) -> None:
        async with self._changing:
            self._users -= 1
            if self._users or self._directory is None:
                return
            directory, self._directory = self._directory, None
            # A connection that is lost ends no server: the next cycle finds it by its socket's path.
            with suppress(ReplicadError):
                await qmp.execute("nbd-server-stop")
            await self._remove(directory)

    async def _start(self, qmp: Qmp, prefix: str) -> Path:
        directory = Path(tempfile.gettempdir()) / f"{prefix}nbd-{secrets.token_hex(4)}"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            await self._blocking(lambda: _listen(listening, directory))
            await self._hand_over(qmp, prefix, listening)
        except BaseException:
            await undisturbed(self._remove(directory))
            raise
        finally:
            listening.close()
        self._directory = directory
        return directory

    async def _hand_over(self, qmp: Qmp, prefix: str, listening: socket.socket) -> None:
        name = _descriptor_name(prefix)
        try:
            await qmp.execute("getfd", {"fdname": name}, descriptor=listening.fileno())
            await qmp.execute("nbd-server-start", {"addr": {"type": "fd", "data": {"str": name}}})
        except BaseException as error:
            await undisturbed(_close_descriptor(qmp, prefix))
            if not isinstance(error, PermanentError):
                raise
            answer = f"its NBD server can't be had ({error.answer})"
            hint = "QEMU has one: who else uses it (a backup, a migration) has to stop it first."
            raise BusyError("read from", qmp.subject, answer, hint) from error

    async def _remove(self, directory: Path) -> None:
        await self._blocking(lambda: shutil.rmtree(directory, ignore_errors=True))

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await run_blocking(self._monitor.executor, "prepare", "a socket", call, _LOOK_UP_TIMEOUT_S)


def _listen(listening: socket.socket, directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700)
        listening.bind(str(directory / _SOCKET))
        listening.listen(_BACKLOG)
    except OSError as error:
        answer = error.strerror or str(error)
        raise PermanentError("make a socket in", str(directory), answer, "Set TMPDIR to a short path.") from error


async def remove_exports(qmp: Qmp, prefix: str) -> None:
    """Remove the exports whose names begin so, and wait until they are gone: their nodes are free then."""
    async with asyncio.timeout(_GONE_TIMEOUT_S):
        while names := [name for name in await _exports(qmp) if name.startswith(prefix)]:
            for name in names:
                with suppress(PermanentError):  # it is about to go already
                    await qmp.execute("block-export-del", {"id": name, "mode": "hard"})
            await asyncio.sleep(_LOOK_AGAIN_S)


async def _exports(qmp: Qmp) -> list[str]:
    return [str(export["id"]) for export in await qmp.execute("query-block-exports")]


async def stop_left_server(qmp: Qmp, monitor: Monitor, prefix: str) -> None:
    """Stop the NBD server that a process of ours left running when it died, unless others export something over it, and
    remove the directories of such sockets. To be called while nothing of that prefix is exported."""
    beginning = str(Path(tempfile.gettempdir()) / f"{prefix}nbd-")

    def is_left() -> bool:
        process = identify(qmp.pid)
        return process is not None and listens_at(process, beginning)

    async def look() -> bool:
        return await run_blocking(monitor.executor, "look at", "QEMU's sockets", is_left, _LOOK_UP_TIMEOUT_S)

    def remove_directories() -> None:
        for directory in Path(tempfile.gettempdir()).glob(f"{prefix}nbd-*"):
            shutil.rmtree(directory, ignore_errors=True)

    await run_blocking(monitor.executor, "remove", "left sockets", remove_directories, _LOOK_UP_TIMEOUT_S)
    if not await look():
        return
    # It may be a socket only, that no server was started with.
    await _close_descriptor(qmp, prefix)
    if await look():
        exports = await qmp.execute("query-block-exports")
        if not any(export.get("type") == "nbd" for export in exports):
            await qmp.execute("nbd-server-stop")


def _descriptor_name(prefix: str) -> str:
    return f"{prefix}nbd"


async def _close_descriptor(qmp: Qmp, prefix: str) -> None:
    with suppress(ReplicadError):  # it was taken, or QEMU is gone
        await qmp.execute("closefd", {"fdname": _descriptor_name(prefix)})
