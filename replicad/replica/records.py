"""The sealed JSON files of a replica: replica.json, point.json, cycle.json (docs/format.md). Pure.

Each is written in one canonical form and holds the BLAKE2b-256 of that form without its seal. Reading checks the
seal and that the bytes are exactly the canonical form, so that any changed byte is found.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import Field, fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from replicad.model.errors import FormatVersionError, IntegrityError
from replicad.model.points import FORMAT_VERSION, CycleRecord, RecoveryPoint, ReplicaRecord

from .record_sense import nonsense_in

Record = TypeVar("Record", bound=ReplicaRecord | RecoveryPoint | CycleRecord)

MAX_RECORD_BYTES = 16 * 1024 * 1024
_HINTS: dict[type, str] = {
    ReplicaRecord: (
        "Put it back from a backup of the replica's share; RECOVERY.txt beside it tells how to take the disks of the "
        "latest point without it."
    ),
    RecoveryPoint: (
        "Put it back from a backup of the replica's share; until then this point and those before it can't be "
        "restored, and if it is the latest one, RECOVERY.txt tells how to take its disks by hand."
    ),
    CycleRecord: "It is only about the cycle that was interrupted: run 'replicad sync', which goes on without it.",
}


def _plain(value: object) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(given) for f in fields(value) if (given := getattr(value, f.name)) or not _left_out(f)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


def _left_out(field: Field[Any]) -> bool:
    return "left out" in field.metadata


def _canonical(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _seal(document: dict[str, Any]) -> str:
    return hashlib.blake2b(_canonical(document), digest_size=32, person=b"replicad.record").hexdigest()


def encode(record: ReplicaRecord | RecoveryPoint | CycleRecord) -> bytes:
    """The record's canonical bytes, sealed."""
    document = _plain(record)
    return _canonical({**document, "seal": _seal(document)})


def damaged_record(subject: str, kind: type[Any], reason: str) -> IntegrityError:
    """The error for a record that can't be what was written."""
    return IntegrityError("use", subject, f"it is damaged: {reason}", _HINTS[kind])


def decode(raw: bytes, kind: type[Record], subject: str) -> Record:
    """The record in `raw`.

    Raises FormatVersionError if a newer replicad wrote it, else IntegrityError for anything but the exact bytes that
    `encode` gives for a record that can be true: nothing in it leads out of the replica's directory.
    """

    def damaged(reason: str) -> IntegrityError:
        return damaged_record(subject, kind, reason)

    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise damaged("it is not JSON") from None
    if not isinstance(document, dict):
        raise damaged("it is not a JSON object")
    seal = document.pop("seal", None)
    try:
        sealed = seal == _seal(document) and _canonical({**document, "seal": seal}) == raw
    except (ValueError, RecursionError):
        sealed = False
    if not sealed:
        raise damaged("its seal does not match its content")
    version = document.get("format")
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            "use", subject, f"it is in format {version!r}, and this version knows only format {FORMAT_VERSION}",
            "Use the version of replicad that wrote it, or a newer one.",
        )  # fmt: skip
    try:
        record: Record = _checker(kind).validate_json(_canonical(document), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise damaged(f"{'.'.join(str(p) for p in first['loc'])}: {first['msg']}") from None
    if (nonsense := nonsense_in(record)) is not None:
        raise damaged(f"it makes no sense: {nonsense}")
    return record


def _checker(kind: type[Any]) -> TypeAdapter[Any]:
    """Making one takes some 70 times as long as checking a record with it, and a replica has hundreds of them."""
    checker = _checkers.get(kind)
    if checker is None:
        checker = _checkers[kind] = TypeAdapter(kind)
    return checker


_checkers: dict[type, TypeAdapter[Any]] = {}
