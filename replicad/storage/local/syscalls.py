"""System calls that Python has no function for, and those that only some platforms have.

Everything raises OSError; what a platform lacks is ENOSYS or EOPNOTSUPP.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import struct
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

if sys.platform != "win32":
    import fcntl

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_RENAME_NOREPLACE = 1
_F_SETSIG = 10
_F_SETOWN_EX = 15
_F_OWNER_TID = 0


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _function(name: str, *argument_types: Any) -> Callable[..., int]:
    try:
        function = getattr(_libc(), name)
    except (AttributeError, OSError, TypeError):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    function.argtypes = argument_types
    function.restype = ctypes.c_int

    def call(*arguments: Any) -> int:
        if (result := int(function(*arguments))) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    return call


def rename_no_replace(source_dir: int, source: str, target_dir: int, target: str) -> None:
    """Rename, or EEXIST if the target is there: one atomic step. EINVAL or ENOSYS where that is not to be had."""
    call = _function(
        "renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
    )  # fmt: skip
    call(source_dir, os.fsencode(source), target_dir, os.fsencode(target), _RENAME_NOREPLACE)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Free the range, so that it reads as zeros; the size stays. EOPNOTSUPP where the file system can't."""
    call = _function("fallocate64", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    call(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, length)


def file_system_facts(fd: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
    """Have the kernel write the facts of a file's file system (`struct statfs`) into a buffer that is large enough."""
    call = _function("fstatfs", ctypes.c_int, ctypes.c_void_p)
    call(fd, ctypes.addressof(buffer))


def control(fd: int, request: int, buffer: bytearray) -> None:
    """Ask a file's file system for something (ioctl), which reads and writes the buffer. Other threads go on meanwhile,
    which they don't with `fcntl.ioctl` and a buffer of more than a kilobyte."""
    call = _function("ioctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
    call(fd, request, ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer)))


def take_read_lease(fd: int, watching_thread: int | None = None) -> None:
    """Keep writers out of the file of a read-only descriptor. That one waits is told to a thread, by SIGURG.

    EAGAIN while anybody has it open for writing or mapped shared and writable (who has closed the descriptor since
    included); EACCES for a file of another owner without CAP_LEASE; EINVAL where the file system has no leases.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    # The signal that tells of a writer is SIGIO unless chosen otherwise, and SIGIO ends the process. SIGURG is ignored
    # by default.
    fcntl.fcntl(fd, _F_SETSIG, signal.SIGURG)
    if watching_thread is not None:
        fcntl.fcntl(fd, _F_SETOWN_EX, struct.pack("ii", _F_OWNER_TID, watching_thread))
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)


def lease_stands(fd: int) -> bool:
    """Whether the lease is whole: False as soon as a writer waits for it, and ever after."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK


def give_lease_back(fd: int) -> None:
    """Let a waiting writer in. Fine if the kernel has taken the lease away already, or another thread was quicker."""
    with contextlib.suppress(BlockingIOError):  # EAGAIN: there is none to give back
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def try_lock(fd: int, *, exclusive: bool) -> bool:
    """Lock an open file for as long as it is open; whether that went well."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
