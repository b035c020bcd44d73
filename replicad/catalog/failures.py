"""What SQLite's and the operating system's answers mean for the catalog: the one place where they are translated."""

from __future__ import annotations

import errno
import sqlite3

from replicad.model.errors import AccessDeniedError, BusyError, OutOfSpaceError, PermanentError, ReplicadError

from .rows import SenselessRowError

_ROOM = "Free some space on its file system."
_RIGHTS = "Check the owner and the mode of the file and of the directories above it."
_DISK = "Check the disk and the kernel's log."
_ANEW = "Start the daemon again: it puts the file aside and begins a new one."

_MEANINGS: dict[int, tuple[type[ReplicadError], str, str]] = {
    sqlite3.SQLITE_FULL: (OutOfSpaceError, "no space is left for it", _ROOM),
    sqlite3.SQLITE_BUSY: (BusyError, "another process is writing it", "See what else uses this state_dir."),
    sqlite3.SQLITE_LOCKED: (BusyError, "another process is writing it", "See what else uses this state_dir."),
    sqlite3.SQLITE_READONLY: (AccessDeniedError, "it can't be written", _RIGHTS),
    sqlite3.SQLITE_PERM: (AccessDeniedError, "access was denied", _RIGHTS),
    sqlite3.SQLITE_CANTOPEN: (PermanentError, "it, or a file beside it, can't be opened", _RIGHTS),
    sqlite3.SQLITE_IOERR: (PermanentError, "the disk reported an input/output error", _DISK),
    sqlite3.SQLITE_CORRUPT: (PermanentError, "it is damaged", _ANEW),
    sqlite3.SQLITE_NOTADB: (PermanentError, "it is damaged", _ANEW),
}


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary result code. What the sqlite3 module itself complains of has SQLITE_ERROR."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def from_sqlite(error: sqlite3.Error, op: str, subject: str) -> ReplicadError:
    """The error to raise for `error`; a code without a meaning of its own is a PermanentError that tells it."""
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_SHMSIZE:
        # The index of the log lies in a file, too, and this is how a file system without room for it shows.
        return OutOfSpaceError(op, subject, "no space is left for it", _ROOM)
    if (meaning := _MEANINGS.get(code_of(error))) is not None:
        kind, answer, hint = meaning
        return kind(op, subject, answer, hint)
    return PermanentError(op, subject, f"SQLite answered '{error}'", _ANEW)


def from_os(error: OSError, op: str, subject: str) -> ReplicadError:
    """The error to raise for one of the calls that are made beside SQLite."""
    answer = error.strerror or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpaceError(op, subject, "no space is left for it", _ROOM)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessDeniedError(op, subject, answer, _RIGHTS)
    return PermanentError(op, subject, answer)


def from_row(error: SenselessRowError, op: str, subject: str) -> ReplicadError:
    """The error to raise for a row that makes no sense."""
    return PermanentError(op, subject, f"it is damaged: {error}", _ANEW)
