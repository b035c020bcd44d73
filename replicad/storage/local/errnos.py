"""What the operating system's error numbers mean here: the one place where they are translated."""

from __future__ import annotations

import errno
import os

from replicad.model.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    BusyError,
    InvalidNameError,
    NotFoundError,
    OutOfSpaceError,
    PermanentError,
    ReplicadError,
    TimedOutError,
    TransientError,
    UnreachableError,
    UnsupportedError,
)

_Meaning = tuple[type[ReplicadError], str, str]

_RIGHTS = "Check the owner and the mode of the file and of the directories above it."
_LINK = "Give the path that the link points to, or replace the link with what it points to."
_MEANINGS: dict[str, _Meaning] = {
    "ENOENT": (NotFoundError, "it is not there", ""),
    "ENOTDIR": (NotFoundError, "there is no such directory", ""),
    "EEXIST": (AlreadyExistsError, "it is there already", ""),
    "EACCES": (AccessDeniedError, "access was denied", _RIGHTS),
    "EPERM": (AccessDeniedError, "the operation is not permitted", _RIGHTS),
    "EROFS": (AccessDeniedError, "the file system is mounted read-only", "Mount it for writing."),
    "EBADF": (AccessDeniedError, "it was opened for reading only", ""),
    "ENOSPC": (OutOfSpaceError, "no space is left on the file system", "Free some space, or keep fewer points."),
    "EDQUOT": (OutOfSpaceError, "the quota is used up", "Raise the quota, or keep fewer points."),
    "EFBIG": (UnsupportedError, "the file system can't hold so large a file", "Use XFS, btrfs or ext4."),
    "EAGAIN": (BusyError, "somebody holds it against this use", "Try again later."),
    "EBUSY": (BusyError, "it is in use", "Try again later."),
    "ETXTBSY": (BusyError, "it is being executed", "Try again later."),
    "ELOOP": (UnsupportedError, "a symbolic link is in its path, and links are not followed", _LINK),
    "EISDIR": (UnsupportedError, "it is a directory", ""),
    "ENOTEMPTY": (UnsupportedError, "it is a directory that is not empty", ""),
    "ENXIO": (UnsupportedError, "it is a device, a pipe or a socket, not a file", ""),
    "EXDEV": (UnsupportedError, "the two are on different file systems", ""),
    "EINVAL": (UnsupportedError, "the file system refused the request as invalid", ""),
    "EOPNOTSUPP": (UnsupportedError, "the file system can't do that", ""),
    "ENOSYS": (UnsupportedError, "the operating system can't do that", ""),
    "ENOTTY": (UnsupportedError, "the file system can't do that", ""),
    "ENAMETOOLONG": (InvalidNameError, "the name is too long for the file system", "Choose a shorter name."),
    "EILSEQ": (InvalidNameError, "the file system can't store that name", "Choose another name."),
    "EMLINK": (PermanentError, "the directory can't hold another directory", ""),
    "EIO": (PermanentError, "the disk reported an input/output error", "Check the disk and the kernel's log."),
    "EMFILE": (TransientError, "too many files are open in this process", "Raise the limit on open files."),
    "ENFILE": (TransientError, "too many files are open on this machine", "Raise the limit on open files."),
    "ENOMEM": (TransientError, "the machine is out of memory", ""),
    "EINTR": (TransientError, "it was interrupted", ""),
    "ETIMEDOUT": (TimedOutError, "the file system gave no answer in time", "Check what it is mounted from."),
    "ESTALE": (UnreachableError, "the mounted file system has lost it", "Mount it again."),
    "ENOTCONN": (UnreachableError, "the mounted file system is not connected", "Mount it again."),
    "EHOSTDOWN": (UnreachableError, "the mounted file system's server is down", "Check what it is mounted from."),
    "EHOSTUNREACH": (UnreachableError, "the mounted file system's server can't be reached", "Check the network."),
    "ENODEV": (UnreachableError, "the device is gone", "Check the disk and the kernel's log."),
}
_BY_NUMBER = {getattr(errno, name): meaning for name, meaning in _MEANINGS.items() if hasattr(errno, name)}


def translate(error: OSError, op: str, subject: str) -> ReplicadError:
    """The error to raise for `error`. A number without a meaning of its own is a PermanentError that tells it."""
    number = error.errno or 0
    if number in _BY_NUMBER:
        kind, answer, hint = _BY_NUMBER[number]
        return kind(op, subject, answer, hint)
    return PermanentError(op, subject, f"{os.strerror(number)} (error {errno.errorcode.get(number, number)})")
