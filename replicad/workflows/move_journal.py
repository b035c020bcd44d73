"""The journal of a move: its record, beside its files at the destination, and in this host's memory.

What lies beside the files is what counts: it is written before a phase begins, and whoever goes on with the move reads
it again. The host's memory says which moves there are, and may lag behind by the last step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import blake2b

from pydantic import TypeAdapter, ValidationError

from replicad.model.errors import FormatVersionError, IntegrityError, NotFoundError
from replicad.model.moves import FORMAT_VERSION, MoveRecord
from replicad.model.names import join, path_on
from replicad.storage.documents import read_whole, replace_whole
from replicad.storage.port import Share

_PREFIX = ".replicad-move-"
_FILE = "move.json"
_LOCK = "move.lock"
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


class MoveJournal:
    """The journal of one move, whose lock the caller holds, below its first place."""

    def __init__(self, place: Share, remember: Remember) -> None:
        self._place = place
        self._remember = remember

    async def read(self, move_id: str) -> MoveRecord | None:
        """What was written last; None if there is none yet. IntegrityError for what makes no sense."""
        path = join(directory_of(move_id), _FILE)
        subject = path_on(self._place.name, path)
        try:
            data = await read_whole(self._place, path, _MAX_BYTES)
        except NotFoundError:
            return None
        record = decode(data, subject)
        if record.id != move_id:
            raise IntegrityError("read", subject, f"it is of the move {record.id}", _HINT)
        return record

    async def write(self, record: MoveRecord) -> MoveRecord:
        """The same, durable at both places on return."""
        await self.write_beside(record)
        await self._remember(record)
        return record

    async def write_beside(self, record: MoveRecord) -> MoveRecord:
        """The same, durable beside the files on return: for the moment when a machine stands still."""
        await replace_whole(self._place, join(directory_of(record.id), _FILE), encode(record))
        return record

    async def remember(self, record: MoveRecord) -> MoveRecord:
        """The same, in this host's memory: for the ends of a move, when its directory is gone."""
        await self._remember(record)
        return record
