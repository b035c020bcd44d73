"""A directory tree on a local file system."""

from __future__ import annotations

import builtins
import errno
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from replicad.model.errors import (
    AlreadyExistsError,
    BusyError,
    InvalidNameError,
    UnsupportedError,
)
from replicad.model.extent_maps import ExtentMap
from replicad.model.names import check_path, last_part
from replicad.storage.port import Capabilities, LockHolder, OpenMode, RoomOnDisk, ShareFile, Stat

from . import cloning, probe, syscalls, tree
from .errnos import translate
from .file import LocalFile
from .leases import WATCH
from .lock import LocalLock, read_holder, take
from .threads import CALL_TIMEOUT_S, FLUSH_TIMEOUT_S, Threads
from .writers import can_be_held, find_writer

T = TypeVar("T")

_METHODS_HINT = (
    "Choose a consistency method that can tell (reflink, command or qemu), or reach the file over SMB."
)  # fmt: skip


class _Held:
    """The files that this process holds. To open one for writing would break our own hold."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._count: Counter[tuple[int, int]] = Counter()

    def add(self, key: tuple[int, int]) -> None:
        with self._guard:
            self._count[key] += 1

    def drop(self, key: tuple[int, int]) -> None:
        with self._guard:
            self._count[key] -= 1
            if not self._count[key]:
                del self._count[key]

    def __contains__(self, key: tuple[int, int]) -> bool:
        with self._guard:
            return key in self._count


# Leases are the process's business with the kernel, whichever share object they were taken through.
_HELD = _Held()


class LocalShare:
    """The directory `root` of this machine and what is below it. Links below it are never followed; `root` may be one.

    The root is looked at when it is used, not before: NotFoundError then if it is not there or is no directory.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._threads = Threads()

    @property
    def name(self) -> str:
        return self._root

    async def open(self, path: str, mode: OpenMode) -> LocalFile:
        self._check(path, "open")
        op = {OpenMode.HOLD: "hold", OpenMode.CREATE: "create"}.get(mode, "open")
        opened = await self._threads.acquire(op, self.subject(path), lambda: self._open(path, mode), _discard)
        fd, forget = opened
        return LocalFile(self._threads, fd, path, self.subject(path), mode, forget)

    async def stat(self, path: str) -> Stat:
        self._check(path)
        found = await self._run("look at", path, lambda: tree.stat_of(self._root, path))
        return _entry(last_part(path), found)

    async def list(self, path: str) -> builtins.list[Stat]:
        self._check(path)
        found = await self._run("list", path, lambda: tree.entries(self._root, path))
        return sorted((_entry(name, status) for name, status in found), key=lambda entry: entry.name)

    async def make_dir(self, path: str) -> None:
        self._check(path)
        await self._run("make directory", path, lambda: tree.make_dir(self._root, path))

    async def rename(self, source: str, target: str, *, replace: bool = False) -> None:
        self._check(source, "rename")
        self._check(target, "rename to")
        if target.startswith(source + "/"):
            raise InvalidNameError("rename", self.subject(source), f"{target!r} lies inside it")
        try:
            await self._run(
                "rename", source, lambda: tree.rename(self._root, source, target, replace=replace)
            )  # fmt: skip
        except AlreadyExistsError as error:
            raise AlreadyExistsError("rename to", self.subject(target), error.answer, error.hint) from error

    async def remove(self, path: str) -> None:
        self._check(path, "remove")
        await self._run("remove", path, lambda: tree.remove(self._root, path))

    async def flush_directory(self, path: str) -> None:
        self._check(path)
        await self._run("flush", path, lambda: tree.flush_directory(self._root, path), FLUSH_TIMEOUT_S)

    async def free_bytes(self) -> int:
        return await self._run("ask for the free space of", "", lambda: tree.free_bytes(self._root))

    async def lock(self, path: str, holder: LockHolder) -> LocalLock:
        self._check(path, "lock")
        return await take(self._threads, self._root, path, self.subject(path), holder)

    async def lock_holder(self, path: str) -> LockHolder | None:
        self._check(path, "ask who holds")
        return await read_holder(self._threads, self._root, path, self.subject(path))

    async def capabilities(self) -> Capabilities:
        self._check("")
        return await self._run("try out", "", lambda: probe.capabilities(self._root))

    async def clones(self, paths: Sequence[str]) -> cloning.LocalClones:
        for path in paths:
            self._check(path, "clone")
        return await cloning.opened(self._threads, self._root, [(path, self.subject(path)) for path in paths])

    async def give_name(self, clone: ShareFile, path: str) -> None:
        self._check(path, "make")
        await cloning.give_name(self._root, clone, path)

    async def fingerprint(self, file: ShareFile) -> str:
        return await cloning.local(file).asked("ask for the identity of", cloning.fingerprint)

    async def extent_map(self, file: ShareFile) -> ExtentMap:
        return await cloning.extent_map(file)

    async def room(self) -> RoomOnDisk:
        return await self._run("ask for the free space of", "", lambda: cloning.room(self._root))

    async def close(self) -> None:
        self._threads.close()

    def subject(self, path: str) -> str:
        """How errors name a path of this share."""
        return f"{self._root.rstrip('/')}/{path}" if path else self._root

    def _check(self, path: str, below_root: str = "") -> None:
        if os.name != "posix":
            hint = "Share the directory over SMB, and give its address as \\\\server\\share."
            raise UnsupportedError("use", self._root, "local directories work on Linux only so far", hint)
        check_path(path)
        if below_root and not path:
            raise InvalidNameError(below_root, self._root, "it is the root of the share")

    async def _run(self, op: str, path: str, call: Callable[[], T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        return await self._threads.run(op, self.subject(path), call, timeout_s)

    def _open(self, path: str, mode: OpenMode) -> tuple[int, Callable[[], None]]:
        if mode is OpenMode.HOLD:
            return self._open_held(path)
        if mode is OpenMode.WRITE:
            there = tree.stat_of(self._root, path)
            if (there.st_dev, there.st_ino) in _HELD:
                raise BusyError("open", self.subject(path), "this process holds it against writing", "Try again later.")
        write = mode is not OpenMode.READ
        return tree.open_file(self._root, path, write=write, create=mode is OpenMode.CREATE), _nothing

    def _open_held(self, path: str) -> tuple[int, Callable[[], None]]:
        fd = tree.open_file(self._root, path, write=False)
        watching_thread = WATCH.enter()
        try:
            syscalls.take_read_lease(fd, watching_thread)
            if not can_be_held(fd):
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        except OSError as error:
            WATCH.leave()
            refusal = self._hold_refused(path, fd, error)
            os.close(fd)
            raise refusal from error
        found = os.fstat(fd)
        key = (found.st_dev, found.st_ino)
        _HELD.add(key)

        def forget() -> None:
            _HELD.drop(key)
            WATCH.leave()

        return fd, forget

    def _hold_refused(self, path: str, fd: int, error: OSError) -> Exception:
        subject = self.subject(path)
        if error.errno == errno.EAGAIN:
            who = find_writer(fd) or "somebody"
            return BusyError("hold", subject, f"{who} has it open for writing", "Try again when the writer is done.")
        if error.errno in (errno.EACCES, errno.EPERM):
            owner = f"it belongs to user {os.fstat(fd).st_uid}, and only its owner may keep writers out of a file"
            return UnsupportedError("hold", subject, owner, f"Run as that user or with CAP_LEASE. {_METHODS_HINT}")
        if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            return UnsupportedError("hold", subject, "this file system can't keep writers out of a file", _METHODS_HINT)
        return translate(error, "hold", subject)


def _entry(name: str, found: os.stat_result) -> Stat:
    is_dir = stat.S_ISDIR(found.st_mode)
    return Stat(
        name=name,
        is_dir=is_dir,
        size_bytes=0 if is_dir else found.st_size,
        allocated_bytes=0 if is_dir else found.st_blocks * 512,
        write_time_ns=found.st_mtime_ns,
        is_link=stat.S_ISLNK(found.st_mode),
        is_special=not (is_dir or stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)),
    )


def _discard(opened: tuple[int, Callable[[], None]]) -> None:
    fd, forget = opened
    forget()
    os.close(fd)


def _nothing() -> None:
    """There is nothing to forget of a file that is not held."""
