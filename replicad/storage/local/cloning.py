"""Clones of a local share's files, and where the bytes of files lie."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self

from replicad.model.errors import OutOfSpaceError, ReplicadError, UnsupportedError
from replicad.model.extent_maps import ExtentMap
from replicad.model.names import last_part, parent
from replicad.storage.decorated import innermost
from replicad.storage.port import CloneForecast, OpenMode, RoomOnDisk, ShareFile

from . import fiemap, tree
from .approach import Approach
from .errnos import translate
from .file import LocalFile
from .threads import FLUSH_TIMEOUT_S, Threads

_MODE = 0o400
_STALL_S = {fiemap.XFS: 15e-6, fiemap.BTRFS: 8e-6}
"""What an extent adds to the time that writers wait for a clone (docs/performance.md)."""
_OTHER_STALL_S = 15e-6
_SHORT_S = 0.02
"""Clones that take no longer are made at once."""
_ROUNDS = 3
_FEW = 32
"""With no more ranges that have changed nothing is gained by another round."""
_NEVER = (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EXDEV)
"""What a file system says that can't clone, or not these files."""
_HINT = (
    "Clones need XFS (made with reflink=1) or btrfs, and all files of the machine on one file system; the methods "
    "none, qemu and command do without."
)
_FULL_HINT = "Free some space there: what the machine changes while its clones are read needs room of its own."


class LocalClones:
    """`Clones` of local files: the targets have no name, so nothing is left of them whenever this process ends."""

    def __init__(self, threads: Threads, pairs: Sequence[tuple[LocalFile, LocalFile]], subjects: Sequence[str]) -> None:
        self._threads = threads
        self._pairs = tuple(pairs)
        self._subjects = tuple(subjects)
        self._approaches: tuple[Approach | None, ...] = ()
        self._open = AsyncExitStack()
        for source, target in self._pairs:
            self._open.push_async_callback(source.close)
            self._open.push_async_callback(target.close)

    async def forecast(self) -> tuple[CloneForecast, ...]:
        return tuple(
            [await source.asked("count the extents of", _forecast, FLUSH_TIMEOUT_S) for source, _ in self._pairs]
        )

    async def approach(self) -> tuple[CloneForecast, ...]:
        forecasts = await self.forecast()
        if sum(forecast.stall_s for forecast in forecasts) <= _SHORT_S:
            return forecasts
        made: list[tuple[Approach | None, CloneForecast]] = []
        for (source, target), subject, forecast in zip(self._pairs, self._subjects, forecasts, strict=True):
            near = partial(_approach, source, target, forecast)
            made.append(await self._threads.run("clone", subject, near, FLUSH_TIMEOUT_S))
        self._approaches = tuple(approach for approach, _ in made)
        return tuple(forecast for _, forecast in made)

    async def take(self) -> tuple[ShareFile, ...]:
        await self._threads.run("clone", self._subjects[0], self._take, FLUSH_TIMEOUT_S)
        return tuple(target for _, target in self._pairs)

    def _take(self) -> None:
        """On one thread and with nothing between them: the machine may be standing still meanwhile. (Two threads get in
        each other's way, in the interpreter and in the file system.)"""
        left = [*self._approaches] or [None] * len(self._pairs)
        for number, ((source, target), subject) in enumerate(zip(self._pairs, self._subjects, strict=True)):
            with source.descriptor() as source_fd, target.descriptor() as target_fd:
                if not _finished(left[number], source_fd, target_fd):
                    left[number] = None
                    _clone(source_fd, target_fd, subject)
        self._approaches = tuple(left)

    async def held(self) -> bool:
        for (_, target), approach in zip(self._pairs, self._approaches, strict=False):
            if approach is not None and not await target.asked("clone", approach.has_held, FLUSH_TIMEOUT_S):
                return False
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()


async def opened(threads: Threads, root: str, paths: Sequence[tuple[str, str]]) -> LocalClones:
    """These files (each with its name for people), and an empty one without a name for each."""
    pairs: list[tuple[LocalFile, LocalFile]] = []
    async with AsyncExitStack() as stack:
        for path, subject in paths:
            open_both = partial(_open, root, path, subject)
            source_fd, target_fd = await threads.acquire("clone", subject, open_both, _shut)
            source = LocalFile(threads, source_fd, path, subject, OpenMode.READ, _nothing)
            target = LocalFile(threads, target_fd, path, f"the clone of {subject}", OpenMode.READ, _nothing)
            stack.push_async_callback(source.close)
            stack.push_async_callback(target.close)
            pairs.append((source, target))
        stack.pop_all()
    return LocalClones(threads, pairs, [subject for _, subject in paths])


def _open(root: str, path: str, subject: str) -> tuple[int, int]:
    source_fd = tree.open_file(root, path, write=False)
    try:
        with tree.directory(root, "", "clone files in") as above:
            try:
                target_fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, _MODE, dir_fd=above)
            except OSError as error:
                raise _refused(error, subject) from error
        try:
            fiemap.take_after(source_fd, target_fd)
            _try_out(source_fd, target_fd)
        except OSError as error:
            os.close(target_fd)
            raise _refused(error, subject) from error
    except BaseException:
        os.close(source_fd)
        raise
    return source_fd, target_fd


def _try_out(source_fd: int, target_fd: int) -> None:
    """Where nothing can be cloned that shows now, and not when a machine stands still for it."""
    block = os.fstatvfs(source_fd).f_bsize
    if os.fstat(source_fd).st_size < block:
        return
    try:
        fiemap.clone_range(source_fd, target_fd, 0, block)
    except OSError as error:
        if error.errno in _NEVER:
            raise
    else:
        os.ftruncate(target_fd, 0)


def _approach(source: LocalFile, target: LocalFile, whole: CloneForecast) -> tuple[Approach | None, CloneForecast]:
    """All but what is written from now on, and what that may take; None if it has to be cloned whole."""
    approach = Approach()
    with source.descriptor() as source_fd, target.descriptor() as target_fd:
        try:
            approach.begin(source_fd, target_fd)
            for number in range(_ROUNDS):
                began_s = time.monotonic()
                changed = approach.catch_up(source_fd, target_fd)
                took_s = time.monotonic() - began_s
                if number and changed <= _FEW:  # the first one learns how the file lies
                    break
        except (OSError, ValueError):  # what is wrong, if anything is, the whole clone will tell
            os.ftruncate(target_fd, 0)
            return None, whole
    return approach, CloneForecast(whole.extents, took_s)


def _finished(approach: Approach | None, source_fd: int, target_fd: int) -> bool:
    """Whether what was approached is now the clone; else there is nothing in it."""
    if approach is None:
        return False
    try:
        if approach.finish(source_fd, target_fd):
            return True
    except (OSError, ValueError):
        pass  # what is wrong, if anything is, the whole clone will tell
    # Somebody may have written it all the same: only a whole clone is of one instant then.
    os.ftruncate(target_fd, 0)
    return False


def _clone(source_fd: int, target_fd: int, subject: str) -> None:
    try:
        fiemap.clone(source_fd, target_fd)
    except OSError as error:
        raise _refused(error, subject) from error


def _shut(fds: tuple[int, int]) -> None:
    for fd in fds:
        os.close(fd)


def _nothing() -> None:
    """There is nothing to forget of a file that is not held."""


def _refused(error: OSError, subject: str) -> ReplicadError:
    if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EISDIR):
        return UnsupportedError("clone", subject, "the file system can't do that", _HINT)
    if error.errno == errno.EXDEV:
        return UnsupportedError("clone", subject, "it is on another file system than the source directory", _HINT)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpaceError("clone", subject, "no space is left on the source's file system", _FULL_HINT)
    return translate(error, "clone", subject)


def _forecast(fd: int) -> CloneForecast:
    try:
        count = fiemap.extent_count(fd)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL):
            raise
        count = 0  # nobody can tell, and the clone itself may work
    return CloneForecast(count, count * _STALL_S.get(fiemap.file_system(fd), _OTHER_STALL_S))


def local(file: ShareFile) -> LocalFile:
    """The local file itself. UnsupportedError if it is none."""
    inner = innermost(file)
    if not isinstance(inner, LocalFile):
        raise UnsupportedError("ask for the extents of", file.path, "it is not on this machine")
    return inner


async def extent_map(file: ShareFile) -> ExtentMap:
    """As `CloningShare.extent_map`."""
    return await local(file).asked("ask for the extents of", _extent_map, FLUSH_TIMEOUT_S)


def _extent_map(fd: int) -> ExtentMap:
    # Elsewhere the same place may mean two: on several devices that are numbered alike.
    kind = fiemap.file_system(fd)
    if kind not in (fiemap.XFS, fiemap.BTRFS) or (kind == fiemap.XFS and fiemap.is_realtime(fd)):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    size_bytes = os.fstat(fd).st_size
    found = fiemap.extents(fd)
    if os.fstat(fd).st_size != size_bytes:
        raise ValueError("its size changed while its extents were read")
    return ExtentMap(size_bytes, tuple(found))


def fingerprint(fd: int) -> str:
    """As `CloningShare.fingerprint`: without the device's number, which is another one after a restart."""
    found = os.fstat(fd)
    state = (found.st_ino, fiemap.generation(fd), found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return ":".join(map(str, state))


async def give_name(root: str, clone: ShareFile, path: str) -> None:
    """As `CloningShare.give_name`."""

    def link(fd: int) -> None:
        if os.fstat(fd).st_nlink:  # it has a name already, and is somebody's file
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        with tree.directory(root, parent(path)) as above:
            os.link(f"/proc/self/fd/{fd}", last_part(path), dst_dir_fd=above, follow_symlinks=True)

    await local(clone).asked("keep", link)


def room(root: str) -> RoomOnDisk:
    """As `CloningShare.room`."""
    with tree.directory(root, "", "ask for the free space of") as fd:
        found = os.fstatvfs(fd)
    return RoomOnDisk(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)
