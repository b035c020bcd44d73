"""What a running QEMU has written since a moment: dirty bitmaps on the nodes of the files themselves.

They note file offsets, so a VHDX's headers, log and block table are in them as well as what the guest wrote. A bitmap
lives in QEMU's memory, under a name that nobody can guess; it tells something only while the same process has the same
file open through the same node, and has noted every write since.

A bitmap is added before the moment, and the one of before goes on noting: read after it, that one has all that was
written before the moment, and some of what was written after it, which does no harm (FACTS §8: what it has when the new
one begins is too little, since QEMU goes on between that and the moment).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from replicad.model.changes import ChangeSet, Outside, Untold
from replicad.model.errors import PermanentError, ReplicadError
from replicad.model.extents import Extent, clip, normalise
from replicad.model.points import Provenance

from .canary import end_sector, is_missing, set_canaries
from .exports import Exports
from .leftovers import END_SUFFIX, prefix_of, remove_bitmaps, remove_left, remove_node
from .monitor import Monitor
from .nodes import Disks, FileNode, find_disks
from .qmp import Qmp
from .sockets import MachineIsOffError

_MIN_GRANULARITY_BYTES = 64 * 1024
_MAX_GRANULARITY_BYTES = 4 * 1024 * 1024
_MAX_BITS = 2**27
"""16 MiB of QEMU's memory."""
_DIRTY = 1
_TRIES = 5

Facts = Mapping[str, str]


class Wanted(Protocol):
    """What a cycle says of itself (`tracking.port.Request`)."""

    @property
    def name(self) -> str: ...

    @property
    def remembered(self) -> Sequence[Facts]: ...

    @property
    def is_last(self) -> bool: ...


class Named(Protocol):
    """A file, by its path below the source."""

    @property
    def path(self) -> str: ...


class Shown(Named, Protocol):
    """A file as the view shows it."""

    @property
    def size_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Begun:
    process: str
    node: str
    inode: str
    bitmap: str
    canary: str = ""
    end_bytes: int = 0
    """The size that the file had when its end was marked."""


class BitmapTracker:
    """A `Tracker` of the files below `directory` that the QEMU at a monitor has open, for one cycle after the other.

    It never makes a cycle fail: what can't be known is `Untold`. Files that QEMU does not use are.
    """

    def __init__(self, monitor: Monitor, exports: Exports, directory: str) -> None:
        self._monitor = monitor
        self._exports = exports
        self._directory = directory
        self._prefix = ""
        self._begun: dict[str, _Begun] = {}
        self._marked: set[str] = set()
        self._why: dict[str, str] = {}
        self._passed = False
        self._is_last = False

    @property
    def provenance(self) -> Provenance:
        return Provenance.DIRTY_BITMAP

    async def begin(self, request: Wanted, files: Sequence[Named]) -> None:
        self._prefix = prefix_of(request.name)
        self._begun, self._marked, self._why, self._passed = {}, set(), {}, False
        if request.is_last:
            # The machine stands still, and all that it wrote is noted: there is no moment to come.
            self._is_last = self._passed = True
            return
        paths = [file.path for file in files]
        try:
            async with self._monitor.session() as qmp:
                disks = await find_disks(qmp, self._monitor.executor, self._directory, paths)
                self._why = dict(disks.missing)
                remembered = {facts.get("bitmap", "") for facts in request.remembered}
                await remove_left(qmp, self._monitor, request.name, remembered)
                await self._add(qmp, disks)
                await self._add_canaries(qmp, paths)
        except ReplicadError as error:
            self._why = dict.fromkeys(paths, _clause(error))

    async def _add(self, qmp: Qmp, disks: Disks) -> None:
        actions = []
        for path, node in disks.nodes.items():
            bitmap = f"{self._prefix}{secrets.token_hex(16)}"
            # Before it is there: if we are cancelled now, it is removed in the end.
            self._begun[path] = _Begun(str(disks.process), node.name, _text(node), bitmap)
            data = {"node": node.name, "name": bitmap, "granularity": granularity_bytes(node.size_bytes)}
            data |= {"persistent": False}
            end = data | {"name": bitmap + END_SUFFIX, "disabled": True}
            actions += [{"type": "block-dirty-bitmap-add", "data": one} for one in (data, end)]
        if actions:
            await qmp.execute("transaction", {"actions": actions})

    async def _add_canaries(self, qmp: Qmp, paths: Sequence[str]) -> None:
        waiting = set(self._begun)
        for _ in range(_TRIES):
            disks = await find_disks(qmp, self._monitor.executor, self._directory, paths)
            for path in waiting & disks.nodes.keys():
                node, begun = disks.nodes[path], self._begun[path]
                granularity = node.bitmaps[begun.bitmap].granularity_bytes
                offset = await set_canaries(qmp, self._prefix, node, begun.bitmap, granularity)
                if offset is not None:
                    self._begun[path] = replace(begun, canary=str(offset), end_bytes=node.size_bytes)
            waiting = {path for path in waiting if not self._begun[path].canary}
            if not waiting:
                return

    async def passed(self) -> None:
        if not self._begun or self._why.keys() >= self._begun.keys():
            return
        try:
            async with self._monitor.session() as qmp:
                # A transaction waits for all that was under way, and so it is noted. It asks for nothing else: QEMU
                # 7.2 dies of one that enables a bitmap which has just gone with its disk.
                await qmp.execute("transaction", {"actions": []})
            self._passed = True
        except ReplicadError as error:
            self._why |= dict.fromkeys(self._begun, _clause(error))

    async def changes(self, file: Shown, since: Facts) -> ChangeSet | Untold:
        if (self._begun.get(file.path) is None and not self._is_last) or not self._passed:
            return Untold(self._why.get(file.path, "QEMU's bitmaps were not asked for it"))
        try:
            async with self._monitor.session() as qmp:
                why = ""
                for _ in range(_TRIES):
                    disks = await find_disks(qmp, self._monitor.executor, self._directory, [file.path])
                    node = disks.nodes.get(file.path)
                    if node is None:
                        return Untold(disks.missing[file.path])
                    if doubt := _doubt(disks, node, since, file.size_bytes):
                        return Untold(doubt)
                    read = await self._read(qmp, node, since["bitmap"])
                    if not isinstance(read, Untold):
                        if is_missing(since["canary"], read):
                            return Untold("somebody cleared its bitmap")
                        changed = normalise(clip([*read, *_grown(since)], file.size_bytes))
                        return ChangeSet(tuple(changed), Outside.UNCHANGED, self.provenance)
                    why = read.reason
                return Untold(why)
        except ReplicadError as error:
            return Untold(_clause(error))

    async def _read(self, qmp: Qmp, node: FileNode, bitmap: str) -> list[Extent] | Untold:
        """What a bitmap has noted until now; Untold if it could not be copied, as when the file grew meanwhile."""
        shadow = f"{self._prefix}s"
        # The file's own node can't be exported: whoever exports it would keep the machine from growing it.
        options = {"driver": "null-co", "node-name": shadow, "size": node.size_bytes, "read-zeroes": True}
        await qmp.execute("blockdev-add", options)
        try:
            copy = {"node": shadow, "name": "copy"}
            granularity = node.bitmaps[bitmap].granularity_bytes
            await qmp.execute("block-dirty-bitmap-add", {**copy, "granularity": granularity, "disabled": True})
            source = {"node": node.name, "name": bitmap}
            try:
                await qmp.execute("block-dirty-bitmap-merge", {"node": shadow, "target": "copy", "bitmaps": [source]})
            except PermanentError as error:
                return Untold(_clause(error))
            async with self._exports.exported(qmp, self._prefix, shadow, bitmap="copy") as export:
                return await export.extents("qemu:dirty-bitmap:copy", _DIRTY)
        finally:
            await remove_node(qmp, shadow)

    async def mark(self, file: Shown) -> Facts | None:
        begun = self._begun.get(file.path)
        if begun is None or not self._passed:
            return None
        self._marked.add(file.path)
        return {
            "bitmap": begun.bitmap,
            "canary": begun.canary,
            "end_bytes": str(begun.end_bytes),
            "node": begun.node,
            "inode": begun.inode,
            "process": begun.process,
            "size_bytes": str(file.size_bytes),
        }

    async def forget(self, path: str, facts: Facts) -> None:
        bitmap = facts.get("bitmap", "")
        if not bitmap:
            return
        try:
            async with self._monitor.session() as qmp:
                await remove_bitmaps(qmp, {bitmap})
        except MachineIsOffError:
            return  # and so are its bitmaps

    async def end(self) -> None:
        unused = {begun.bitmap for path, begun in self._begun.items() if path not in self._marked}
        if not unused:
            return
        try:
            async with self._monitor.session() as qmp:
                await remove_bitmaps(qmp, unused)
        except ReplicadError:
            return  # what is not remembered is removed when the next cycle begins


def granularity_bytes(size_bytes: int) -> int:
    """How much one bit of a bitmap stands for. Chunks are not smaller than the least of it, so less would tell no
    more."""
    wanted = _MIN_GRANULARITY_BYTES
    while wanted < _MAX_GRANULARITY_BYTES and size_bytes // wanted > _MAX_BITS:
        wanted *= 2
    return wanted


def _text(node: FileNode) -> str:
    return "{}:{}".format(*node.inode)


def _doubt(disks: Disks, node: FileNode, since: Facts, size_bytes: int) -> str:
    """Why a bitmap of an earlier cycle says nothing of this file, as a clause; empty if it does."""
    if str(disks.process) != since.get("process"):
        return "QEMU was started anew since, and its bitmap is gone"
    if _text(node) != since.get("inode"):
        return "the file was replaced by another since"
    bitmap = node.bitmaps.get(since.get("bitmap", ""))
    if node.name != since.get("node") or bitmap is None:
        return "its bitmap is gone"
    if not bitmap.sound:
        return "its bitmap was stopped, or somebody else works on it"
    if not since.get("canary", "").isdecimal():
        return "nothing was set in its bitmap that would tell if somebody cleared it"
    # What was cut off and has grown again is zeros, and nobody noted them.
    end = node.bitmaps.get(bitmap.name + END_SUFFIX)
    if end is None or not end.set_bytes or min(size_bytes, node.size_bytes) < int(since.get("size_bytes", "0")):
        return "the file became shorter"
    return ""


def _grown(since: Facts) -> list[Extent]:
    """What a file grew by between the marking of its end and the moment: whether it was cut off later is not known."""
    begin, end = end_sector(int(since.get("end_bytes", "0"))), int(since.get("size_bytes", "0"))
    return [Extent(begin, end - begin)] if end > begin else []


def _clause(error: ReplicadError) -> str:
    return f"cannot {error.op} {error.subject}: {error.answer}"
