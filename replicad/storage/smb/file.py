"""An open file on an SMB share."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from types import TracebackType
from typing import Self, TypeVar

from smbprotocol.exceptions import SMBResponseException

from replicad.model.errors import AccessDeniedError, UnsupportedError
from replicad.model.extents import Extent
from replicad.storage.copying import refuse_negative, refuse_overlap
from replicad.storage.port import Buffer, CopyRange, Identity, OpenMode, Piece, ShareFile
from replicad.storage.using import read_then_use

from . import allocation, bulk, calls, status
from .calls import Control, Handle
from .job import AbandonedError, Job
from .lanes import Lanes
from .server_copy import copy_chunks, resume_key

T = TypeVar("T")

_ZEROS = memoryview(bytes(1024 * 1024))
_ZERO_STEP_BYTES = 64 * 1024 * 1024 * 1024
"""The most that one SET_ZERO_DATA covers: a server without holes has to write it."""


class SmbFile:
    """A `ShareFile` on the links of one bundle, with which it is lost: then every call raises UnreachableError.

    Data go over whichever link is the least busy; everything else goes over the main one.
    """

    def __init__(self, lanes: Lanes, path: str, subject: str, mode: OpenMode) -> None:
        self._lanes = lanes
        self._tree = lanes.main.tree
        self._handle = lanes.main.handle
        self._path = path
        self._subject = subject
        self._mode = mode
        self._open = True
        self._tried_sparse = False
        self._resume_key: bytes | None = None

    @property
    def path(self) -> str:
        return self._path

    @property
    def handle(self) -> Handle:
        """The server's name for it on the main link."""
        return self._handle

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        self._usable("read")
        refuse_negative(offset)
        view = memoryview(buffer).cast("B")
        async with self._lanes.lane(len(view)) as lane:
            tree, handle = lane.tree, lane.handle
            return await tree.link.run(
                "read", self._subject, lambda job: bulk.read_into(job, tree, handle, view, offset)
            )

    async def read_and(
        self, buffer: bytearray | memoryview, offset: int, use: Callable[[memoryview], T], executor: Executor
    ) -> T:
        return await read_then_use(self, buffer, offset, use, executor)

    async def write(self, data: Buffer, offset: int) -> None:
        await self.write_pieces([(data, offset)])

    async def write_pieces(self, pieces: Sequence[Piece]) -> None:
        self._usable("write", changes=True)
        refuse_negative(*(offset for _, offset in pieces), 0)
        views = [(memoryview(data).cast("B"), offset) for data, offset in pieces]
        async with self._lanes.lane(sum(len(view) for view, _ in views)) as lane:
            tree, handle = lane.tree, lane.handle
            try:
                await tree.link.run("write", self._subject, lambda job: bulk.write(job, tree, handle, views))
            finally:  # not before: a flush that comes in the middle is not one of all of it
                lane.unflushed = True

    async def zero(self, offset: int, length: int) -> None:
        self._usable("zero", changes=True)
        refuse_negative(offset, length)
        await self._run("zero", lambda job: self._zero(job, offset, length))

    def _zero(self, job: Job, offset: int, length: int) -> None:
        size = calls.query_facts(self._tree, self._handle).size_bytes
        end = min(offset + length, size)
        if offset >= end:
            return
        self.make_sparse(job)
        if self._tree.can_zero:
            try:
                for start in range(offset, end, _ZERO_STEP_BYTES):
                    self._go_on(job)
                    given = struct.pack("<qq", start, min(end, start + _ZERO_STEP_BYTES))
                    self._control(Control.SET_ZERO_DATA, given)
            except SMBResponseException as error:
                if error.status not in status.CANNOT_DO:
                    raise
                self._tree.can_zero = False
            else:
                return
        for begin in range(offset, end, 64 * len(_ZEROS)):
            starts = range(begin, min(end, begin + 64 * len(_ZEROS)), len(_ZEROS))
            bulk.write(job, self._tree, self._handle, [(_ZEROS[: end - start], start) for start in starts])

    def make_sparse(self, job: Job) -> None:
        """Blocking: let the file have holes (FSCTL_SET_SPARSE), once; where the server can't, do without."""
        del job
        if self._tried_sparse or not self._tree.can_be_sparse:
            return
        self._tried_sparse = True
        try:
            self._control(Control.SET_SPARSE, b"\x01")
        except SMBResponseException as error:
            if error.status not in status.CANNOT_DO and error.status != status.ACCESS_DENIED:
                raise
            self._tree.can_be_sparse = error.status == status.ACCESS_DENIED

    async def copy_from(self, source: ShareFile, ranges: Sequence[CopyRange]) -> None:
        self._usable("copy to", changes=True)
        for one in ranges:
            refuse_negative(one.source_offset_bytes, one.offset_bytes, one.length_bytes)
        if not isinstance(source, SmbFile) or source._tree.link is not self._tree.link:
            raise UnsupportedError("copy to", self._subject, "the source is not on the same connection to its server")
        source._usable("copy from")
        if source is self or source._subject == self._subject:
            refuse_overlap(ranges)
        await self._run("copy to", lambda job: self._copy_from(job, source, ranges))

    def _copy_from(self, job: Job, source: SmbFile, ranges: Sequence[CopyRange]) -> None:
        if source._resume_key is None:
            source._resume_key = resume_key(source._tree, source._handle, source._subject)
        copy_chunks(job, self._tree, self._handle, source._resume_key, ranges, self._subject)

    async def allocated_extents(self) -> list[Extent]:
        self._usable("ask for the allocated ranges of")
        return await self._run(
            "ask for the allocated ranges of",
            lambda job: allocation.allocated(job, self._tree, self._handle),
        )

    async def flush(self) -> None:
        self._usable("flush", changes=True)
        await self._lanes.flush()

    async def set_size(self, size: int) -> None:
        self._usable("resize", changes=True)
        refuse_negative(size)
        await self._run("resize", lambda job: calls.set_size(self._tree, self._handle, size))

    async def identity(self) -> Identity:
        self._usable("ask for the identity of")
        facts = await self._run("ask for the identity of", lambda job: calls.query_facts(self._tree, self._handle))
        return Identity(f"{facts.file_id:016x}", facts.size_bytes, facts.write_time_ns, facts.change_time_ns)

    async def close(self) -> None:
        if not self._open:
            return
        self._open = False
        await self._lanes.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, op: str, work: Callable[[Job], T]) -> T:
        return await self._tree.link.run(op, self._subject, work)

    def _control(self, code: Control, given: bytes, most_bytes: int = 0) -> bytes:
        timeout_s = self._tree.link.endpoint.slow_timeout_s
        return calls.control(self._tree, self._handle, code, given, most_bytes, timeout_s)

    def _usable(self, op: str, *, changes: bool = False) -> None:
        if not self._open:
            raise ValueError(f"{self._subject} is closed")
        if changes and self._mode not in (OpenMode.WRITE, OpenMode.CREATE):
            raise AccessDeniedError(op, self._subject, "it was opened for reading only")

    def _go_on(self, job: Job) -> None:
        if job.abandoned:
            raise AbandonedError
