"""The journal of a move: its record, beside its files at the destination, and in this host's memory.

What lies beside the files is what counts: it is written before a phase begins, and whoever goes on with the move reads
it again. The host's memory says which moves there are, and may lag behind by the last step.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import blake2b

from pydantic import TypeAdapter, ValidationError

from replicad.model.errors import FormatVersionError, IntegrityError, NotFoundError
from replicad.model.moves import FORMAT_VERSION, MoveRecord
from replicad.model.names import join, path_on
from replicad.storage.documents import exists, read_whole, replace_whole
from replicad.storage.port import OpenMode, Share, ShareFile

_PREFIX = ".replicad-move-"
_FILE = "move.json"
_QUICK = "switching.json"
_LOCK = "move.lock"
_LOCK_AT_SOURCE = ".replicad-moving.lock"
_MAX_BYTES = 64 * 1024 * 1024
_SEAL_BYTES = 32
_ADAPTER: TypeAdapter[MoveRecord] = TypeAdapter(MoveRecord)
_HINT = "Compare the disks at both places by hand; nothing is touched before that."

Remember = Callable[[MoveRecord], Awaitable[None]]
"""Keeps a record in this host's memory, in place of the one of the same move."""


def directory_of(move_id: str) -> str:
    """The move's own directory at each of its places."""
    return _PREFIX + move_id[:16]


def incoming(record: MoveRecord, number: int) -> str:
    """Where a file lies until the switch, below its place."""
    return join(directory_of(record.id), str(number))


def lock_of(move_id: str) -> str:
    """The lock that whoever works on the move holds, below its first place."""
    return join(directory_of(move_id), _LOCK)


def lock_at_source(record: MoveRecord) -> str:
    """The lock that whoever moves anything away from a source holds, below it: the same for every move from there."""
    return _LOCK_AT_SOURCE


def encode(record: MoveRecord) -> bytes:
    """The record as it is written down: one line with its seal, then JSON."""
    data = _ADAPTER.dump_json(record, indent=1)
    return _seal(data) + b"\n" + data + b"\n"


def decode(data: bytes, subject: str) -> MoveRecord:
    """What `encode` wrote. IntegrityError for anything else, FormatVersionError for what a later version wrote."""
    seal, _, body = data.partition(b"\n")
    body = body.removesuffix(b"\n")
    if seal != _seal(body):
        raise IntegrityError(
            "read", subject, "its seal does not fit: it was changed, or its storage damages data", _HINT
        )
    try:
        record = _ADAPTER.validate_json(body)
    except ValidationError:
        raise FormatVersionError("read", subject, "another version of replicad wrote it", "Use that version.") from None
    if record.format != FORMAT_VERSION:
        raise FormatVersionError("read", subject, f"it has the format {record.format}", "Use a later version.")
    return record


def _seal(data: bytes) -> bytes:
    return blake2b(data, digest_size=_SEAL_BYTES, person=b"replicad.move").hexdigest().encode()


async def records_at(place: Share) -> list[MoveRecord]:
    """The records of all moves whose journals lie at this place, as they were written last; none if it is not there."""
    try:
        entries = await place.list("")
    except NotFoundError:
        return []
    found = []
    for entry in entries:
        if entry.is_dir and entry.name.startswith(_PREFIX):
            record = await _latest(place, entry.name)
            if record is not None and directory_of(record.id) == entry.name:
                found.append(record)
    return found


async def _latest(place: Share, directory: str) -> MoveRecord | None:
    """What was written last in a move's directory; None if there is nothing."""
    record = await _read(place, join(directory, _FILE))
    try:
        quick = await _read(place, join(directory, _QUICK))
    except IntegrityError:
        quick = None  # whoever wrote it died over it, and what it was to allow was not begun
    if record is not None and quick is not None and quick.step > record.step:
        return quick
    return record


async def _read(place: Share, path: str) -> MoveRecord | None:
    try:
        data = await read_whole(place, path, _MAX_BYTES)
    except NotFoundError:
        return None
    return decode(data, path_on(place.name, path))


class MoveJournal:
    """The journal of one move, whose lock the caller holds, below its first place.

    Each record is written to a file beside the one that counts, and takes its place. That takes too long for a machine
    that stands still; so the record of that moment goes into a file of its own, made before, and of the two the later
    one counts. What was torn there has no seal that fits, and counts for nothing.
    """

    def __init__(self, place: Share, remember: Remember) -> None:
        self._place = place
        self._remember = remember
        self._step = 0
        self._latest: MoveRecord | None = None

    @property
    def latest(self) -> MoveRecord | None:
        """What was read or written last here."""
        return self._latest

    @property
    def step(self) -> int:
        """How often the record was written down, as far as is known here."""
        return self._step

    async def read(self, move_id: str) -> MoveRecord | None:
        """What was written last; None if there is none yet. IntegrityError for what makes no sense."""
        directory = directory_of(move_id)
        record = await _latest(self._place, directory)
        if record is not None and record.id != move_id:
            subject = path_on(self._place.name, directory)
            raise IntegrityError("read", subject, f"it is of the move {record.id}", _HINT)
        if record is not None:
            self._step, self._latest = record.step, record
        return record

    async def write(self, record: MoveRecord) -> MoveRecord:
        """The same with its step, durable at both places on return."""
        record = self._counted(record)
        await replace_whole(self._place, join(directory_of(record.id), _FILE), encode(record))
        self._latest = record
        await self._remember(record)
        return record

    @asynccontextmanager
    async def quick(self, record: MoveRecord) -> AsyncIterator[QuickJournal]:
        """What a record can be written with while a machine stands still."""
        path = join(directory_of(record.id), _QUICK)
        if await exists(self._place, path):
            await self._place.remove(path)
        async with await self._place.open(path, OpenMode.CREATE) as file:
            await file.flush()
            await self._place.flush_directory(directory_of(record.id))
            yield QuickJournal(file, self._next)

    async def remember(self, record: MoveRecord) -> MoveRecord:
        """The same, in this host's memory: for the ends of a move, when its directory is gone."""
        await self._remember(record)
        self._latest = record
        return record

    def _counted(self, record: MoveRecord) -> MoveRecord:
        self._step += 1
        return replace(record, step=self._step)

    def _next(self, record: MoveRecord) -> MoveRecord:
        self._latest = self._counted(record)
        return self._latest


class QuickJournal:
    """A file for one record at a time."""

    def __init__(self, file: ShareFile, count: Callable[[MoveRecord], MoveRecord]) -> None:
        self._file = file
        self._count = count

    async def write(self, record: MoveRecord) -> MoveRecord:
        """The same with its step, durable beside the files on return."""
        record = self._count(record)
        data = encode(record)
        await self._file.write(data, 0)
        await self._file.set_size(len(data))
        await self._file.flush()
        return record
