"""A moment of a running QEMU's disks where the file system can't clone files: whatever the machine is about to
overwrite is copied away first (QEMU's copy-before-write filter below the disk's format).

The copies go to a file without a name beside the disk, which is gone with whoever has it open: nothing is left there
by a crash. If they can't be written the snapshot breaks, and never the machine.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from replicad.model.clock import Clock
from replicad.model.errors import BusyError, OutOfSpaceError, PermanentError, UnsupportedError
from replicad.model.points import Consistency
from replicad.storage.blocking import run_blocking
from replicad.storage.port import Identity, ShareFile
from replicad.storage.undisturbed import undisturbed

from .exports import Exports, remove_exports
from .freezer import QemuFreezer, persistently
from .graph import Graph, query_graph, reattach
from .leftovers import prefix_of, remove_files, remove_left, remove_nodes
from .monitor import Monitor
from .nbd_file import NbdFile
from .nodes import Disks, FileNode, find_disks
from .overlays import refuse_overlaid
from .qmp import Qmp
from .sockets import MachineIsOffError

_LOOK_AT_ROOM_EVERY_S = 0.5
_MAX_GROWTH_BYTES = 2**30
"""How much a disk may grow between the making of the file that copies go to, and the moment itself."""
_CBW_TIMEOUT_S = 10
"""How long a write of the machine may wait for the copy; after that the snapshot breaks."""
_LOOK_UP_TIMEOUT_S = 30.0
_ROOM_HINT = "Make room at the source: what the machine overwrites while it is read is kept there."
T = TypeVar("T")

RoomCheck = Callable[[], Awaitable[str]]
"""Why there is too little room at the source to go on, as a clause; empty if there is enough."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Disks as they were at `taken`, and why others of those asked for are not among them.

    `confirm` is called after the last byte was read, and raises BusyError if they did not stand still until then.
    """

    files: Mapping[str, ShareFile]
    missing: Mapping[str, str]
    consistency: Consistency
    taken: datetime
    confirm: Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Disk:
    path: str
    node: FileNode
    parent: str
    number: int
    target_bytes: int = 0
    size_bytes: int = 0
    """At the moment."""


class QemuSnapshots:
    """Snapshots of the files below `directory` that the QEMU at a monitor has open."""

    def __init__(
        self, monitor: Monitor, exports: Exports, freezer: QemuFreezer, directory: str, room: RoomCheck, clock: Clock
    ) -> None:
        self._monitor = monitor
        self._exports = exports
        self._freezer = freezer
        self._directory = directory
        self._room = room
        self._clock = clock

    @asynccontextmanager
    async def standing(self, name: str, paths: Sequence[str], *, application: bool) -> AsyncIterator[Standing]:
        """Those of the files that QEMU writes, as they were at one moment, until the context ends.

        BusyError if it can't be had now; OutOfSpaceError; UnsupportedError for disks that QEMU can't do it with.
        """
        if short := await self._room():
            raise OutOfSpaceError("snapshot", self._directory, short, "Make room there, or lower 'keep_free'.")
        prefix = prefix_of(name)
        async with self._monitor.session() as qmp, AsyncExitStack() as stack:
            await remove_left(qmp, self._monitor, name, None)
            disks = await find_disks(qmp, self._monitor.executor, self._directory, paths)
            await refuse_overlaid(qmp, self._monitor.executor, self._directory, paths)
            chosen = _chosen(disks, await query_graph(qmp), qmp.subject)
            stack.push_async_callback(lambda: undisturbed(self._detach(prefix)))
            for disk in chosen:
                await self._add_target(qmp, prefix, disk)
            async with self._freezer.frozen(application=application) as reached:
                for disk in chosen:
                    await self._attach(qmp, prefix, disk)
                taken = self._clock.now()
            files = {disk.path: await self._show(stack, qmp, prefix, disk) for disk in chosen}
            given_up: list[str] = []
            stack.push_async_callback(_ended, asyncio.ensure_future(self._watch(prefix, given_up)))
            yield Standing(files, disks.missing, reached, taken, lambda: _confirm(files, given_up))

    async def _add_target(self, qmp: Qmp, prefix: str, disk: _Disk) -> None:
        """The node that copies go to."""
        disk.target_bytes = disk.node.size_bytes + _MAX_GROWTH_BYTES
        path = Path(self._directory) / disk.path
        # Opened on the loop's side of the thread, so that it is closed whatever happens.
        opened: list[int] = []
        try:
            await self._blocking("make a file beside", str(path), lambda: opened.append(_nameless(path, prefix, disk)))
            named = f"{prefix}t{disk.number}"
            added = await qmp.execute("add-fd", {"opaque": named}, descriptor=opened[0])
        finally:
            for descriptor in opened:
                os.close(descriptor)
        try:
            name = f"/dev/fdset/{added['fdset-id']}"
            # Nobody else can have it, so there is nothing to be locked.
            options = {"driver": "file", "filename": name, "locking": "off", "node-name": named}
            await qmp.execute("blockdev-add", options)
        finally:
            await undisturbed(qmp.execute("remove-fd", {"fdset-id": added["fdset-id"]}))

    async def _attach(self, qmp: Qmp, prefix: str, disk: _Disk) -> None:
        """Copy before each write from now on. The machine stands still: a disk that grew after the filter was made, and
        before it is in use, would not be noted by it."""
        path = Path(self._directory) / disk.path
        disk.size_bytes = await self._blocking("look at", str(path), lambda: path.lstat().st_size)
        if disk.size_bytes > disk.target_bytes:
            raise BusyError("snapshot", disk.path, "it grew too fast", "Try again.")
        options = {
            "driver": "copy-before-write",
            "node-name": f"{prefix}c{disk.number}",
            "file": disk.node.name,
            "target": f"{prefix}t{disk.number}",
            "on-cbw-error": "break-snapshot",
            "cbw-timeout": _CBW_TIMEOUT_S,
        }
        try:
            await qmp.execute("blockdev-add", options)
        except PermanentError as error:
            hint = "It takes QEMU 7.1 or later; use a source on XFS or btrfs, else."
            raise UnsupportedError("snapshot", disk.path, error.answer, hint) from error
        await reattach(qmp, disk.parent, f"{prefix}c{disk.number}")

    async def _show(self, stack: AsyncExitStack, qmp: Qmp, prefix: str, disk: _Disk) -> NbdFile:
        access = f"{prefix}a{disk.number}"
        options = {"driver": "snapshot-access", "node-name": access, "file": f"{prefix}c{disk.number}"}
        await qmp.execute("blockdev-add", options)
        export = await stack.enter_async_context(self._exports.exported(qmp, prefix, access))
        return NbdFile(export, disk.path, f"{self._directory}/{disk.path}", _identity(disk))

    async def _watch(self, prefix: str, given_up: list[str]) -> None:
        """Give the snapshot up before it takes the room that the machine itself needs."""
        while not given_up:
            await asyncio.sleep(_LOOK_AT_ROOM_EVERY_S)
            if short := await self._room():
                given_up.append(short)
                await undisturbed(self._detach(prefix))

    async def _detach(self, prefix: str) -> None:
        async def once() -> None:
            try:
                async with self._monitor.session() as qmp:
                    await remove_exports(qmp, prefix)
                    await remove_nodes(qmp, prefix)
                    await remove_files(qmp, prefix)
            except MachineIsOffError:
                return

        await persistently(once)

    async def _blocking(self, op: str, subject: str, call: Callable[[], T]) -> T:
        def translated() -> T:
            try:
                return call()
            except OSError as error:
                kind = OutOfSpaceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else PermanentError
                raise kind(op, subject, error.strerror or str(error)) from error

        return await run_blocking(self._monitor.executor, op, subject, translated, _LOOK_UP_TIMEOUT_S)


def _chosen(disks: Disks, graph: Graph, subject: str) -> list[_Disk]:
    """The nodes to put a filter on, and the one node above each of them."""
    chosen: list[_Disk] = []
    for number, (path, node) in enumerate(sorted(disks.nodes.items())):
        parents = graph.parents(node.name)
        if len(parents) != 1 or node.name in graph.others_above:
            answer = "it is used by something beside the one node of its format"
            hint = "Give the disk to the machine by its format (vhdx, vpc), or use a source on XFS or btrfs."
            raise UnsupportedError("snapshot", f"{path} at {subject}", answer, hint)
        chosen.append(_Disk(path, node, parents[0], number))
    return chosen


def _nameless(path: Path, prefix: str, disk: _Disk) -> int:
    """A new file beside a disk, with no name, in which the copies have room, sparse."""
    descriptor, name = tempfile.mkstemp(prefix=f".{prefix}", dir=path.parent)
    try:
        Path(name).unlink()
        os.ftruncate(descriptor, disk.target_bytes)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _identity(disk: _Disk) -> Identity:
    # The snapshot's own: it has no times, and never changes.
    return Identity("snapshot {}:{}".format(*disk.node.inode), disk.size_bytes, 0, 0)


async def _ended(watching: asyncio.Task[None]) -> None:
    watching.cancel()
    await asyncio.wait([watching])
    if not watching.cancelled() and (error := watching.exception()) is not None:
        raise error


async def _confirm(files: Mapping[str, ShareFile], given_up: Sequence[str]) -> None:
    """A snapshot that broke at any time is not to be read any more at all."""
    for path, file in files.items():
        if given_up:
            raise BusyError("read", path, f"its snapshot was given up: {given_up[0]}", _ROOM_HINT)
        await file.read_into(bytearray(1), 0)
