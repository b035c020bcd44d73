"""What this host remembers between two cycles so that it need not read everything: one small file a replica.

To lose it costs a full scan, never a point: a mark counts only for the very state of a disk that it was made for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from replicad.model.changes import BaseState
from replicad.model.errors import IntegrityError, NotFoundError
from replicad.model.points import Provenance, Trust
from replicad.storage.documents import read_whole, replace_whole
from replicad.storage.port import Share

_DIRECTORY = "tracking"
_MAX_BYTES = 16 * 1024 * 1024
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """What a tracker remembers of one file in one state."""

    path: str
    state: BaseState
    tracker: Provenance
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Doubt:
    """A tracker was found wrong about what changed of one file since one state, and no point was committed after it."""

    path: str
    state: BaseState
    trust: Trust


@dataclass(frozen=True, slots=True)
class Marks:
    """All that is remembered for one replica.

    `application_at` is when the guest was last quiesced for a point, and `application_next` when it was for the one
    that is about to be committed.
    """

    format: int = _FORMAT
    marks: tuple[Mark, ...] = ()
    application_at: datetime | None = None
    doubts: tuple[Doubt, ...] = ()
    application_next: datetime | None = None

    def doubt(self, path: str, state: BaseState) -> Doubt | None:
        """What was found wrong about a file since this very state."""
        return next((d for d in self.doubts if d.path == path and d.state == state), None)

    def of(self, path: str, state: BaseState, tracker: Provenance) -> Mark | None:
        """The mark of a file in this very state, if this tracker made one."""
        return next(
            (m for m in reversed(self.marks) if m.path == path and m.state == state and m.tracker is tracker), None
        )


@dataclass(frozen=True, slots=True)
class _Sealed:
    seal: str
    marks: Marks


_ADAPTER: TypeAdapter[_Sealed] = TypeAdapter(_Sealed)


class MarkStore:
    """Marks in a share of this host, for one writer at a time."""

    def __init__(self, share: Share) -> None:
        self._share = share

    async def load(self, replica_id: str) -> Marks:
        """What is remembered; nothing if there is none, or what is there makes no sense."""
        try:
            data = await read_whole(self._share, _path(replica_id), _MAX_BYTES)
        except (NotFoundError, IntegrityError):
            return Marks()
        try:
            found = _ADAPTER.validate_json(data)
        except ValidationError:
            return Marks()
        # A byte that changed by itself must not become a change that is not looked at.
        return found.marks if found.marks.format == _FORMAT and _encode(found.marks) == data else Marks()

    async def save(self, replica_id: str, marks: Marks) -> None:
        """Put it in place of what was remembered, durably. Raises what the share raises."""
        await self._share.make_dir(_DIRECTORY)
        await replace_whole(self._share, _path(replica_id), _encode(marks))


def _path(replica_id: str) -> str:
    return f"{_DIRECTORY}/{replica_id}.json"


def _encode(marks: Marks) -> bytes:
    seal = hashlib.blake2b(_ADAPTER.dump_json(_Sealed("", marks)), digest_size=32, person=b"replicad.marks")
    return _ADAPTER.dump_json(_Sealed(seal.hexdigest(), marks), indent=1)
