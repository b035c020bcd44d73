"""Sealed records are kept twice: in a file of their own, and as a copy of the same bytes beside it.

Whoever reads a record takes its own file if that is sound, else the copy. Whoever writes one for the first time writes
the copy first, so that the own file is the sign that all is there; whoever replaces one begins with the own file, whose
renaming is the moment of the change, and ends with the copy, before anything is deleted that the old record needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic

from replicad.model.errors import FormatVersionError, IntegrityError, NotFoundError
from replicad.model.names import last_part, path_on
from replicad.storage.documents import read_whole, replace_whole
from replicad.storage.port import Share

from .records import MAX_RECORD_BYTES, Record, decode, encode

MISSING = "the file is missing"

Warn = Callable[[str], None]
"""Takes a sentence about what is not as it should be, yet stops nothing."""


def unsaid(text: str) -> None:
    """For who has somebody else to say it."""


@dataclass(frozen=True, slots=True)
class RecordFiles(Generic[Record]):
    """Where one record lies. `check`, given it and its file's name for people, raises IntegrityError for a record that
    does not belong there."""

    share: Share
    path: str
    copy_path: str
    kind: type[Record]
    check: Callable[[Record, str], None] = lambda record, subject: None


@dataclass(frozen=True, slots=True)
class BothFiles(Generic[Record]):
    """What both files hold: the record to go by with its bytes (None if neither is sound), and what is wrong with
    either file, by its path. A copy that differs from a sound record is wrong."""

    record: Record | None
    raw: bytes
    faults: Mapping[str, str]


async def read_own_file(files: RecordFiles[Record]) -> Record:
    """The record as its own file has it, whatever the copy holds. NotFoundError, IntegrityError, FormatVersionError."""
    return (await _read(files, files.path))[0]


async def read_record(files: RecordFiles[Record], warn: Warn) -> Record:
    """The record; if it had to be taken from the copy, `warn` is told.

    NotFoundError if neither file is there; IntegrityError if none is sound; FormatVersionError if a newer replicad
    wrote them.
    """
    try:
        return await read_own_file(files)
    except FormatVersionError:
        raise
    except (IntegrityError, NotFoundError) as error:
        fault = error
    subject, copy = path_on(files.share.name, files.path), last_part(files.copy_path)
    try:
        record, _ = await _read(files, files.copy_path)
    except NotFoundError:
        raise fault from None
    except FormatVersionError:
        raise
    except IntegrityError:
        if isinstance(fault, NotFoundError):
            raise
        raise IntegrityError(fault.op, subject, f"{fault.answer}; {copy} beside it is no better", fault.hint) from None
    answer = MISSING if isinstance(fault, NotFoundError) else fault.answer
    warn(f"{subject}: {answer}; {copy} beside it is used in its place")
    return record


async def read_both(files: RecordFiles[Record]) -> BothFiles[Record]:
    """Look at both files. FormatVersionError if a newer replicad wrote one of them."""
    sound: list[tuple[Record, bytes]] = []
    faults: dict[str, str] = {}
    for path in (files.path, files.copy_path):
        try:
            sound.append(await _read(files, path))
        except FormatVersionError:
            raise
        except NotFoundError:
            faults[path] = MISSING
        except IntegrityError as error:
            faults[path] = error.answer
    if len(sound) == 2 and sound[0][1] != sound[1][1]:
        faults[files.copy_path] = f"it is not the same as {last_part(files.path)}"
    record, raw = sound[0] if sound else (None, b"")
    return BothFiles(record, raw, faults)


async def mend(files: RecordFiles[Record], both: BothFiles[Record]) -> bool:
    """Write the file that is not as it should be anew from the other one; False if neither is sound."""
    if both.record is None:
        return False
    for path in both.faults:
        await replace_whole(files.share, path, both.raw)
    return True


async def write_first(files: RecordFiles[Record], record: Record) -> None:
    """Write a record that was not there before; durable on return. Its own file comes last."""
    raw = encode(record)
    await replace_whole(files.share, files.copy_path, raw)
    await replace_whole(files.share, files.path, raw)


async def write_instead(files: RecordFiles[Record], record: Record) -> None:
    """Replace a record; durable on return. It changes at the moment in which its own file is renamed."""
    raw = encode(record)
    await replace_whole(files.share, files.path, raw)
    await replace_whole(files.share, files.copy_path, raw)


async def _read(files: RecordFiles[Record], path: str) -> tuple[Record, bytes]:
    subject = path_on(files.share.name, path)
    raw = await read_whole(files.share, path, MAX_RECORD_BYTES)
    record = decode(raw, files.kind, subject)
    files.check(record, subject)
    return record, raw
