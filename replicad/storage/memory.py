"""An in-memory share: a verified fake, held to the same contract as the real ones.

It is as strict as the strictest of them (nothing can be flushed through a READ file, write times move only when the
writer closes, names are not durable before `flush_directory`) and it is deterministic: its clock is a counter.
Every call lets other tasks run once before it takes effect, and takes effect in one step.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace as with_changes
from random import Random
from types import TracebackType
from typing import Self, TypeVar

from replicad.model.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    BusyError,
    IntegrityError,
    InvalidNameError,
    LockedError,
    NotFoundError,
    UnreachableError,
    UnsupportedError,
)
from replicad.model.extents import Extent
from replicad.model.names import check_path, join

from .copying import refuse_negative, refuse_overlap
from .decorated import innermost
from .holder import describe, encode
from .memory_tree import Directory, FileNode, Tree
from .port import Buffer, Capabilities, CopyRange, Identity, LockHolder, OpenMode, Piece, ShareFile, Stat
from .sparse import PAGE_BYTES
from .using import read_then_use

T = TypeVar("T")

_UNLIMITED_BYTES = 1 << 60


class MemoryFile:
    """An open file of a `MemoryShare`."""

    def __init__(self, share: MemoryShare, node: FileNode, path: str, mode: OpenMode) -> None:
        self._share = share
        self._node = node
        self._path = path
        self._mode = mode
        self._wrote = False
        self._open = True
        self._lost = False
        node.openers.append(self)

    @property
    def path(self) -> str:
        return self._path

    @property
    def mode(self) -> OpenMode:
        """What it was opened for."""
        return self._mode

    @property
    def share(self) -> MemoryShare:
        """The view that opened it."""
        return self._share

    def lose(self) -> None:
        """What a broken hold, a dead server or a dead client does: the handle is gone without having been closed."""
        self._lost = True
        if self in self._node.openers:
            self._node.openers.remove(self)
        self._share.tree.reclaim(self._node)

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        await self._turn("read")
        refuse_negative(offset)
        return self._node.content.read_into(memoryview(buffer).cast("B"), offset)

    async def read_and(
        self, buffer: bytearray | memoryview, offset: int, use: Callable[[memoryview], T], executor: Executor
    ) -> T:
        return await read_then_use(self, buffer, offset, use, executor)

    async def write(self, data: Buffer, offset: int) -> None:
        await self._turn("write", changes=True)
        refuse_negative(offset)
        self._wrote = True
        if len(data):
            self._grow(offset)
            self._node.content.write(memoryview(data).cast("B"), offset)

    async def write_pieces(self, pieces: Sequence[Piece]) -> None:
        for data, offset in pieces:
            await self.write(data, offset)

    async def zero(self, offset: int, length: int) -> None:
        await self._turn("zero", changes=True)
        refuse_negative(offset, length)
        self._wrote = True
        self._node.content.zero(offset, length, free=self._share.tree.capabilities.zero)

    async def copy_from(self, source: ShareFile, ranges: Sequence[CopyRange]) -> None:
        await self._turn("copy to", changes=True)
        source = innermost(source)
        if not isinstance(source, MemoryFile) or source._node.tree is not self._node.tree:
            raise UnsupportedError("copy to", self._subject, "the source is on another share")
        if not self._share.tree.capabilities.server_copy:
            raise UnsupportedError("copy to", self._subject, "the share can't copy by itself")
        if source._node is self._node:
            refuse_overlap(ranges)
        source._usable("read")
        self._wrote = True
        for one in ranges:
            refuse_negative(one.source_offset_bytes, one.offset_bytes, one.length_bytes)
            if one.source_offset_bytes + one.length_bytes > source._node.content.size:
                raise IntegrityError("copy to", self._subject, f"{source._subject} ends before {one}")
            buffer = bytearray(one.length_bytes)
            source._node.content.read_into(memoryview(buffer), one.source_offset_bytes)
            self._node.content.write(memoryview(buffer), one.offset_bytes)

    async def allocated_extents(self) -> list[Extent]:
        await self._turn("ask for the allocated ranges of")
        content = self._node.content
        if self._share.tree.capabilities.allocated_extents:
            return content.extents()
        return [Extent(0, content.size)] if content.size else []

    async def flush(self) -> None:
        await self._turn("flush", changes=True)
        self._node.content.flush()

    async def set_size(self, size: int) -> None:
        await self._turn("resize", changes=True)
        refuse_negative(size)
        self._wrote = True
        self._grow(size)
        self._node.content.set_size(size)

    async def identity(self) -> Identity:
        await self._turn("ask for the identity of")
        node = self._node
        return Identity(str(node.number), node.content.size, node.write_time_ns, node.change_time_ns)

    async def close(self) -> None:
        await asyncio.sleep(0)
        if not self._open:
            return
        self._open = False
        if self in self._node.openers:
            self._node.openers.remove(self)
            if self._wrote:
                self._node.write_time_ns = self._node.change_time_ns = self._share.tree.tick()
            self._share.tree.reclaim(self._node)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _grow(self, size: int) -> None:
        content, before = self._node.content, self._node.content.size
        if size > before:
            content.set_size(size)
            if not self._share.tree.capabilities.sparse:
                content.zero(before, size - before, free=False)

    @property
    def _subject(self) -> str:
        return self._share.subject(self._path)

    async def _turn(self, op: str, *, changes: bool = False) -> None:
        await asyncio.sleep(0)
        self._usable(op)
        if changes and self._mode not in (OpenMode.WRITE, OpenMode.CREATE):
            raise AccessDeniedError(op, self._subject, "it was opened for reading only")

    def _usable(self, op: str) -> None:
        if not self._open:
            raise ValueError(f"{self._subject} is closed")
        if self._lost and self._mode is OpenMode.HOLD:
            raise BusyError(op, self._subject, "somebody has opened it for writing meanwhile", "Try again later.")
        if self._lost:
            raise UnreachableError(op, self._subject, "the share went away while it was open")


class MemoryLock:
    """A held lock file of a `MemoryShare`."""

    def __init__(self, share: MemoryShare, node: FileNode, path: str) -> None:
        self._share = share
        self._node = node
        self._path = path

    @property
    def share(self) -> MemoryShare:
        """The view that holds it."""
        return self._share

    async def check(self) -> None:
        await asyncio.sleep(0)
        if self._node.lock is not self or self._share.tree.find(self._path) is not self._node:
            raise LockedError("keep the lock", self._share.subject(self._path), "it was lost", "Start again.")

    async def release(self) -> None:
        await asyncio.sleep(0)
        if self._node.lock is self:
            self._node.lock = None
            if self._share.tree.find(self._path) is self._node:
                self._share.tree.remove(self._path)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()


class MemoryShare:
    """A tree of files in memory, as one host sees it; `view()` gives another host's.

    Capabilities that are told to be missing are missing. With `volatile`, `crash()` loses what was not flushed.
    """

    def __init__(
        self,
        name: str = "memory",
        *,
        case_sensitive: bool = True,
        capacity_bytes: int | None = None,
        server_copy: bool = True,
        sparse: bool = True,
        zero: bool = True,
        allocated_extents: bool = True,
        hold: bool = True,
        flush_directory: bool = True,
        volatile: bool = False,
    ) -> None:
        self._name = name
        self._dead = False
        self.tree = Tree(
            case_sensitive=case_sensitive,
            most_pages=None if capacity_bytes is None else capacity_bytes // PAGE_BYTES,
            capabilities=Capabilities(server_copy, sparse, zero, allocated_extents, hold, flush_directory),
            volatile=volatile,
        )

    def view(self, name: str | None = None) -> MemoryShare:
        """The same tree, seen by another host."""
        other = MemoryShare(name or self._name)
        other.tree = self.tree
        return other

    def subject(self, path: str) -> str:
        """How errors name a path of this share."""
        return join(self._name, path)

    def die(self) -> None:
        """What the death of this host's process does: its open files are closed and its locks are free.

        Nothing takes effect through this view from then on, calls under way included; use another `view()`.
        """
        self._dead = True
        for node in self.tree.files():
            for opener in [o for o in node.openers if o.share is self]:
                opener.lose()
            if node.lock is not None and node.lock.share is self:
                node.lock = None

    def crash(self, luck: Random | None = None) -> None:
        """What a power failure of the server does: data not flushed and names not flushed are gone, and so is every
        open file and lock of every view. With `luck`, any part of what was not flushed may have survived, in any
        order: sectors, sizes, and changes of names (each with those that it builds on). Needs `volatile`."""
        if not self.tree.volatile:
            raise ValueError("only a volatile share can crash")
        for node in self.tree.files():
            node.lock = None
            for opener in list(node.openers):
                opener.lose()
        self.tree.crash(luck)

    def break_hold(self, path: str) -> None:
        """What a local process that insists on writing does to the holds on a file."""
        for opener in [o for o in self._file("break the hold on", path).openers if o.mode is OpenMode.HOLD]:
            opener.lose()

    @property
    def name(self) -> str:
        return self._name

    async def open(self, path: str, mode: OpenMode) -> MemoryFile:
        await self._turn(path, below_root="open")
        if mode is OpenMode.CREATE:
            if self.tree.find(path) is not None:
                raise AlreadyExistsError("create", self.subject(path), "it is there already")
            return MemoryFile(self, self._create("create", path), path, mode)
        node = self._file("open", path)
        modes = {opener.mode for opener in node.openers}
        if mode is OpenMode.HOLD:
            if not self.tree.capabilities.hold:
                raise UnsupportedError("hold", self.subject(path), "the share can't keep writers out")
            if modes & {OpenMode.WRITE, OpenMode.CREATE}:
                raise BusyError("hold", self.subject(path), "somebody has it open for writing", "Try again later.")
        if mode is OpenMode.WRITE and OpenMode.HOLD in modes:
            raise BusyError("open", self.subject(path), "somebody holds it against writing", "Try again later.")
        return MemoryFile(self, node, path, mode)

    async def stat(self, path: str) -> Stat:
        await self._turn(path)
        node = self.tree.find(path)
        if node is None:
            raise NotFoundError("look at", self.subject(path), "it is not there")
        return with_changes(node.stat(), name=self.tree.stored_name(path))

    async def list(self, path: str) -> builtins.list[Stat]:
        await self._turn(path)
        directory = self._directory("list", path)
        found = (with_changes(node.stat(), name=name) for name, node in directory.entries.values())
        return sorted(found, key=lambda entry: entry.name)

    async def make_dir(self, path: str) -> None:
        await self._turn(path)
        done: builtins.list[str] = []
        for part in path.split("/") if path else ():
            done.append(part)
            here = "/".join(done)
            node = self.tree.find(here)
            if isinstance(node, FileNode):
                raise AlreadyExistsError("make directory", self.subject(here), "a file of that name is there")
            if node is None:
                self.tree.link(here, self.tree.new_directory())

    async def rename(self, source: str, target: str, *, replace: bool = False) -> None:
        await self._turn(source, below_root="rename")
        await self._turn(target, below_root="rename to")
        node, there = self.tree.find(source), self.tree.find(target)
        if node is None:
            raise NotFoundError("rename", self.subject(source), "it is not there")
        self._directory("rename to", target.rpartition("/")[0])
        if isinstance(node, Directory) and self.tree.is_below(target, node):
            raise InvalidNameError("rename", self.subject(source), f"{target!r} lies inside it")
        if there is not None and there is not node:
            if not replace:
                raise AlreadyExistsError("rename to", self.subject(target), "it is there already")
            if isinstance(there, Directory) or isinstance(node, Directory):
                raise AlreadyExistsError("rename to", self.subject(target), "directories are never replaced")
        self.tree.rename(source, target)

    async def remove(self, path: str) -> None:
        await self._turn(path, below_root="remove")
        node = self.tree.find(path)
        if node is None:
            raise NotFoundError("remove", self.subject(path), "it is not there")
        if isinstance(node, Directory) and node.entries:
            raise UnsupportedError("remove", self.subject(path), "it is a directory that is not empty")
        self.tree.remove(path)

    async def flush_directory(self, path: str) -> None:
        await self._turn(path)
        directory = self._directory("flush", path)
        if self.tree.capabilities.flush_directory:
            self.tree.flush_names(directory)

    async def free_bytes(self) -> int:
        await asyncio.sleep(0)
        room = self.tree.room
        return _UNLIMITED_BYTES if room.most_pages is None else (room.most_pages - room.used_pages) * PAGE_BYTES

    async def lock(self, path: str, holder: LockHolder) -> MemoryLock:
        await self._turn(path, below_root="lock")
        node = self.tree.find(path)
        if isinstance(node, Directory):
            raise AlreadyExistsError("lock", self.subject(path), "a directory of that name is there")
        if node is not None and node.lock is not None and node.holder is not None:
            who = describe(node.holder)
            raise LockedError("lock", self.subject(path), f"it is held by {who}", "Wait until it is done.")
        node = node or self._create("lock", path)
        node.lock, node.holder = MemoryLock(self, node, path), holder
        node.content.set_size(0)
        node.content.write(memoryview(encode(holder)), 0)
        return node.lock

    async def lock_holder(self, path: str) -> LockHolder | None:
        await self._turn(path)
        node = self.tree.find(path)
        return node.holder if isinstance(node, FileNode) and node.lock is not None else None

    async def capabilities(self) -> Capabilities:
        await asyncio.sleep(0)
        return self.tree.capabilities

    async def close(self) -> None:
        await asyncio.sleep(0)

    async def _turn(self, path: str, *, below_root: str = "") -> None:
        await asyncio.sleep(0)
        if self._dead:
            raise UnreachableError("use", self.subject(path), "the process of this host is dead")
        check_path(path)
        if below_root and not path:
            raise InvalidNameError(below_root, self.subject(path), "it is the root of the share")

    def _file(self, op: str, path: str) -> FileNode:
        node = self.tree.find(path)
        if node is None:
            raise NotFoundError(op, self.subject(path), "it is not there")
        if isinstance(node, Directory):
            raise UnsupportedError(op, self.subject(path), "it is a directory")
        return node

    def _directory(self, op: str, path: str) -> Directory:
        node = self.tree.find(path)
        if not isinstance(node, Directory):
            raise NotFoundError(op, self.subject(path), "there is no such directory")
        return node

    def _create(self, op: str, path: str) -> FileNode:
        directory, _, _ = path.rpartition("/")
        self._directory(op, directory)
        node = self.tree.new_file()
        self.tree.link(path, node)
        return node
