"""A disk as a snapshot in QEMU shows it, read like any other file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from types import TracebackType
from typing import NoReturn, Self, TypeVar

from replicad.model.errors import AccessDeniedError, UnsupportedError
from replicad.model.extents import Extent, gaps
from replicad.storage.port import Buffer, CopyRange, Identity, Piece, ShareFile
from replicad.storage.using import read_then_use

from .nbd_client import NbdExport

T = TypeVar("T")

_READS_AS_ZEROS = 2


class NbdFile:
    """A `ShareFile` for reading only, of the size that `identity` tells; the export may be longer.

    Once the snapshot is broken every read raises BusyError, and so a read that went well was of the moment.
    """

    def __init__(self, export: NbdExport, path: str, subject: str, identity: Identity) -> None:
        self._export = export
        self._path = path
        self._subject = subject
        self._identity = identity

    @property
    def path(self) -> str:
        return self._path

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._identity.size_bytes - offset))
        return await self._export.read_into(view[:length], offset) if length else 0

    async def read_and(
        self, buffer: bytearray | memoryview, offset: int, use: Callable[[memoryview], T], executor: Executor
    ) -> T:
        return await read_then_use(self, buffer, offset, use, executor)

    async def allocated_extents(self) -> list[Extent]:
        # What the disk has grown by since is not the snapshot's, and QEMU refuses to tell of it.
        size_bytes = self._identity.size_bytes
        return gaps(await self._export.extents("base:allocation", _READS_AS_ZEROS, size_bytes), size_bytes)

    async def identity(self) -> Identity:
        return self._identity

    async def close(self) -> None:
        """The export is closed by whoever made it."""

    async def write(self, data: Buffer, offset: int) -> None:
        self._refuse("write")

    async def write_pieces(self, pieces: Sequence[Piece]) -> None:
        self._refuse("write")

    async def zero(self, offset: int, length: int) -> None:
        self._refuse("zero")

    async def copy_from(self, source: ShareFile, ranges: Sequence[CopyRange]) -> None:
        raise UnsupportedError("copy to", self._subject, "a snapshot can't be written")

    async def flush(self) -> None:
        self._refuse("flush")

    async def set_size(self, size: int) -> None:
        self._refuse("resize")

    def _refuse(self, op: str) -> NoReturn:
        raise AccessDeniedError(op, self._subject, "it is a snapshot, for reading only")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
