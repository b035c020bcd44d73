"""Lock files of a local share: an flock that the kernel takes back when its holder dies."""

from __future__ import annotations

import asyncio
import errno
import os
from types import TracebackType
from typing import Self

import aiofiles

from replicad.model.errors import LockedError, NotFoundError
from replicad.storage import holder as holders
from replicad.storage.port import LockHolder

from . import syscalls, tree
from .file import Descriptor
from .threads import Threads

_TRIES = 200
_PAUSE_S = 0.005
_NAMELESS = LockHolder(host="", machine_id="", boot_id="", pid=0, process_start="", since="")


class LocalLock:
    """A held lock file."""

    def __init__(self, threads: Threads, root: str, path: str, subject: str, fd: int) -> None:
        self._threads = threads
        self._root = root
        self._path = path
        self._subject = subject
        self._descriptor = Descriptor(fd)

    async def check(self) -> None:
        if self._descriptor.closed or not await self._threads.run("check the lock", self._subject, self._stands):
            raise LockedError(
                "keep the lock", self._subject, "its file was removed or replaced", "Let nobody remove lock files."
            )

    async def release(self) -> None:
        if self._descriptor.closed:
            return
        try:
            await self._threads.run("give back the lock", self._subject, self._remove_and_close)
        finally:
            self._descriptor.close()  # which frees it even if the call was cancelled before it began

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()

    def _stands(self) -> bool:
        with self._descriptor.use() as fd:
            return is_at(fd, self._root, self._path)

    def _remove_and_close(self) -> None:
        # While it is still held: whoever gets it next sees that it is no longer at its path, and tries again.
        if self._stands():
            tree.remove(self._root, self._path)
        self._descriptor.close()


def is_at(fd: int, root: str, path: str) -> bool:
    """Whether an open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), tree.stat_of(root, path))
    except (FileNotFoundError, NotFoundError):
        return False


async def take(threads: Threads, root: str, path: str, subject: str, holder: LockHolder) -> LocalLock:
    """Take the lock, or LockedError with its holder's name."""
    content = holders.encode(holder)
    for _ in range(_TRIES):
        fd = await threads.acquire("lock", subject, lambda: _try_take(root, path, content), _close)
        if fd is not None:
            return LocalLock(threads, root, path, subject, fd)
        who = await read_holder(threads, root, path, subject)
        if who is not None:
            answer = "others are taking it" if who == _NAMELESS else f"it is held by {holders.describe(who)}"
            raise LockedError("lock", subject, answer, "Wait until it is done.")
        # Whoever kept it from us has given it back, or only asked for its holder, which takes an instant.
        await asyncio.sleep(_PAUSE_S)
    raise LockedError("lock", subject, "others take it and give it back all the time", "Try again later.")


def _try_take(root: str, path: str, content: bytes) -> int | None:
    while True:
        fd = tree.open_lock_file(root, path)
        kept = False
        try:
            if not syscalls.try_lock(fd, exclusive=True):
                return None
            if is_at(fd, root, path):
                _write_content(fd, content)
                kept = True
                return fd
            # Its holder removed it between our opening and our locking it.
        finally:
            if not kept:
                os.close(fd)


def _write_content(fd: int, content: bytes) -> None:
    os.ftruncate(fd, 0)
    try:
        os.pwrite(fd, content, 0)
    except OSError as error:
        # On a full file system the lock has to work without its text: whoever makes room needs the lock first.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


async def read_holder(threads: Threads, root: str, path: str, subject: str) -> LockHolder | None:
    """Who holds the lock now; one without a name if the file does not say; None if nobody does."""
    fd = await threads.acquire("ask who holds", subject, lambda: _open_if_held(root, path), _close)
    if fd is None:
        return None
    try:
        async with aiofiles.open(fd, "rb", buffering=0, closefd=False, executor=threads.executor) as file:
            content = await file.read(holders.MAX_HOLDER_BYTES + 1)
    finally:
        os.close(fd)
    return holders.decode(content or b"") or _NAMELESS


def _open_if_held(root: str, path: str) -> int | None:
    try:
        fd = tree.open_file(root, path, write=False)
    except FileNotFoundError:
        return None
    held = False
    try:
        held = not syscalls.try_lock(fd, exclusive=False)
    finally:
        if not held:
            os.close(fd)
    return fd if held else None


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
