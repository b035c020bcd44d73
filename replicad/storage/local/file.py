"""Open files of a local share."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from threading import Lock
from types import TracebackType
from typing import Self, TypeVar

from replicad.model.errors import AccessDeniedError, BusyError, IntegrityError, UnsupportedError
from replicad.model.extents import Extent, normalise
from replicad.storage.copying import pieces, refuse_negative, refuse_overlap
from replicad.storage.decorated import innermost
from replicad.storage.port import Buffer, CopyRange, Identity, OpenMode, Piece, ShareFile

from . import syscalls
from .leases import WATCH
from .threads import CALL_TIMEOUT_S, FLUSH_TIMEOUT_S, Threads
from .writers import find_writer, keeps_change_times

T = TypeVar("T")

_WATCH_INTERVAL_S = 0.1
_NAME_AGAIN_AFTER_S = (0.01, 0.05)
_ZEROS = bytes(1024 * 1024)
_COPY_PIECE_BYTES = 64 * 1024 * 1024


class Descriptor:
    """A file descriptor that is closed once nobody uses it any more. Its number may be another file's after that,
    so it is handed out by `use` only."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._guard = Lock()
        self._users = 0
        self._closing = False

    @contextmanager
    def use(self) -> Iterator[int]:
        """The descriptor, which stays open inside. ValueError if it has been closed."""
        with self._guard:
            if self._closing:
                raise ValueError("the file is closed")
            self._users += 1
        try:
            yield self._fd
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._guard:
            self._users -= 1
            last = self._closing and self._users == 0
        if last:
            os.close(self._fd)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def close(self) -> None:
        """Close it now, or when its last user is done."""
        with self._guard:
            if self._closing:
                return
            self._closing = True
            last = self._users == 0
        if last:
            os.close(self._fd)


class Hold:
    """A read lease: the kernel makes writers wait in their open() until it is given back.

    It is given back the moment that the kernel tells of a writer who waits. It is looked at around each read besides,
    and every tenth of a second, for where the kernel can't tell; the kernel would take it away after
    `fs.lease-break-time` (45 s) anyway.
    """

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        self._lost = False
        self._writer = ""
        self._naming = Lock()
        self._loop = asyncio.get_running_loop()
        WATCH.add(self._look)
        # At once for the first time: a writer may have come before us.
        self._timer: asyncio.Handle = self._loop.call_soon(self._watch)

    def stands(self, fd: int) -> bool:
        """Whether nobody has wanted to write until now."""
        if not self._lost and not syscalls.lease_stands(fd):
            self._lost = True
            syscalls.give_lease_back(fd)
        return not self._lost

    def writer(self, fd: int) -> str:
        """Who has broken it, as far as that is to be seen; it may take a moment. Blocking."""
        with self._naming:
            for pause_s in (0.0, *_NAME_AGAIN_AFTER_S):
                if self._writer:
                    break
                time.sleep(pause_s)  # it was let in just now, and may not be inside yet
                self._writer = find_writer(fd)
            self._writer = self._writer or "somebody"
            return self._writer

    def end(self) -> None:
        """Look no more."""
        WATCH.discard(self._look)
        self._timer.cancel()

    def _look(self) -> None:
        try:
            with self._descriptor.use() as fd:
                self.stands(fd)
        except ValueError:
            pass  # closed meanwhile, and the lease with it

    def _watch(self) -> None:
        if self._descriptor.closed:
            return
        with self._descriptor.use() as fd:
            stands = self.stands(fd)
        if stands:
            self._timer = self._loop.call_later(_WATCH_INTERVAL_S, self._watch)


class LocalFile:
    """An open file of a `LocalShare`."""

    def __init__(
        self, threads: Threads, fd: int, path: str, subject: str, mode: OpenMode, on_close: Callable[[], None]
    ) -> None:
        self._threads = threads
        self._descriptor = Descriptor(fd)
        self._path = path
        self._subject = subject
        self._mode = mode
        self._on_close = on_close
        self._hold = Hold(self._descriptor) if mode is OpenMode.HOLD else None

    @property
    def path(self) -> str:
        return self._path

    async def asked(self, op: str, call: Callable[[int], T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """What `call` says of the open file, by its descriptor, which is its own for as long as it runs. Blocking."""
        return await self._run(op, call, timeout_s)

    def descriptor(self) -> AbstractContextManager[int]:
        """The descriptor, which stays open inside. ValueError if the file is closed."""
        return self._descriptor.use()

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        refuse_negative(offset)
        view = memoryview(buffer).cast("B")
        return await self._run("read", lambda fd: _read(fd, view, offset))

    async def read_and(
        self, buffer: bytearray | memoryview, offset: int, use: Callable[[memoryview], T], executor: Executor
    ) -> T:
        refuse_negative(offset)
        view = memoryview(buffer).cast("B")
        return await self._run("read", lambda fd: use(view[: _read(fd, view, offset)]))

    async def write(self, data: Buffer, offset: int) -> None:
        refuse_negative(offset)
        self._refuse_unless_writable("write")
        view = memoryview(data).cast("B")
        await self._run("write", lambda fd: _write(fd, view, offset))

    async def write_pieces(self, pieces: Sequence[Piece]) -> None:
        refuse_negative(*(offset for _, offset in pieces), 0)
        self._refuse_unless_writable("write")
        views = [(memoryview(data).cast("B"), offset) for data, offset in pieces]
        await self._run("write", lambda fd: _write_pieces(fd, views))

    async def zero(self, offset: int, length: int) -> None:
        refuse_negative(offset, length)
        self._refuse_unless_writable("zero")
        await self._run("zero", lambda fd: _zero(fd, offset, length), FLUSH_TIMEOUT_S)

    async def copy_from(self, source: ShareFile, ranges: Sequence[CopyRange]) -> None:
        self._refuse_unless_writable("copy to")
        for one in ranges:
            refuse_negative(one.source_offset_bytes, one.offset_bytes, one.length_bytes)
        inner = innermost(source)
        if not isinstance(inner, LocalFile):
            raise UnsupportedError("copy to", self._subject, "the source is not on this machine")
        with inner._descriptor.use() as source_fd, self._descriptor.use() as fd:
            if os.path.samestat(os.fstat(source_fd), os.fstat(fd)):
                refuse_overlap(ranges)
        for batch in _batches(ranges):
            await self._run("copy to", partial(inner._copy_to, batch, self._subject))

    def _copy_to(self, ranges: Sequence[CopyRange], subject: str, target_fd: int) -> None:
        with self._descriptor.use() as fd:
            self._require_hold(fd, "copy from")
            for one in ranges:
                if not copy_range(fd, target_fd, one):
                    raise IntegrityError("copy to", subject, f"{self._subject} ends before {one}")
            self._require_hold(fd, "copy from")

    async def allocated_extents(self) -> list[Extent]:
        return await self._run("ask for the allocated ranges of", allocated_extents)

    async def flush(self) -> None:
        self._refuse_unless_writable("flush")
        await self._run("flush", os.fsync, FLUSH_TIMEOUT_S)

    async def set_size(self, size: int) -> None:
        refuse_negative(size)
        self._refuse_unless_writable("resize")
        await self._run("resize", lambda fd: os.ftruncate(fd, size), FLUSH_TIMEOUT_S)

    async def identity(self) -> Identity:
        """The change time is 0 where it can't be relied on."""
        return await self._run("ask for the identity of", _identity)

    async def close(self) -> None:
        if self._descriptor.closed:
            return
        if self._hold is not None:
            self._hold.end()
        self._on_close()
        try:
            if not self._threads.closed:
                await self._threads.run("close", self._subject, self._descriptor.close, FLUSH_TIMEOUT_S)
        finally:
            self._descriptor.close()  # if the call was cancelled before it began, or the share was closed before us

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, op: str, call: Callable[[int], T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        def guarded() -> T:
            with self._descriptor.use() as fd:
                self._require_hold(fd, op)
                result = call(fd)
                # Again, so that nothing is returned that was read after a writer was let in.
                self._require_hold(fd, op)
                return result

        if self._descriptor.closed:
            raise ValueError(f"{self._subject} is closed")
        return await self._threads.run(op, self._subject, guarded, timeout_s)

    def _require_hold(self, fd: int, op: str) -> None:
        if self._hold is not None and not self._hold.stands(fd):
            answer = f"{self._hold.writer(fd)} has opened it for writing meanwhile"
            raise BusyError(op, self._subject, answer, "Try again later, or choose another consistency method.")

    def _refuse_unless_writable(self, op: str) -> None:
        if self._mode not in (OpenMode.WRITE, OpenMode.CREATE):
            raise AccessDeniedError(op, self._subject, "it was opened for reading only")


def _read(fd: int, view: memoryview, offset: int) -> int:
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def _write(fd: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


def _write_pieces(fd: int, pieces: Sequence[tuple[memoryview, int]]) -> None:
    for view, offset in pieces:
        _write(fd, view, offset)


def _zero(fd: int, offset: int, length: int) -> None:
    end = min(offset + length, os.fstat(fd).st_size)
    if end <= offset:
        return
    try:
        syscalls.punch_hole(fd, offset, end - offset)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        for start in range(offset, end, len(_ZEROS)):
            _write(fd, memoryview(_ZEROS)[: end - start], start)


def copy_range(source_fd: int, target_fd: int, one: CopyRange) -> bool:
    """Copy inside the kernel, sharing blocks where the file system can; False if the source ends before the range."""
    if not hasattr(os, "copy_file_range"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    done = 0
    while done < one.length_bytes:
        count = os.copy_file_range(
            source_fd, target_fd, one.length_bytes - done, one.source_offset_bytes + done, one.offset_bytes + done
        )
        if count == 0:
            return False
        done += count
    return True


def _batches(ranges: Sequence[CopyRange]) -> Iterator[list[CopyRange]]:
    batch: list[CopyRange] = []
    size = 0
    for piece in (piece for one in ranges for piece in pieces(one, _COPY_PIECE_BYTES)):
        if batch and size + piece.length_bytes > _COPY_PIECE_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += piece.length_bytes
    if batch:
        yield batch


def allocated_extents(fd: int) -> list[Extent]:
    """The extents outside of which the file reads as zeros; the whole file where the file system can't tell."""
    size = os.fstat(fd).st_size
    found: list[Extent] = []
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                break
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                return [Extent(0, size)]
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        found.append(Extent(start, min(end, size) - start))
        position = end
    return normalise(found)


def _identity(fd: int) -> Identity:
    found = os.fstat(fd)
    changed_ns = found.st_ctime_ns if keeps_change_times(fd) else 0
    return Identity(f"{found.st_dev}:{found.st_ino}", found.st_size, found.st_mtime_ns, changed_ns)
