"""A hint that something happened in a directory, from Linux's inotify(7).

Three calls of the C library, and a descriptor that the event loop waits for. Whoever gets the hint looks at the
directory itself, and so an overflow, or a hint too many, does no harm.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_IN_MODIFY = 0x2
_IN_ATTRIB = 0x4
_IN_CLOSE_WRITE = 0x8
_IN_MOVED_FROM = 0x40
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_DELETE = 0x200
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_IN_ONLYDIR = 0x0100_0000
_MASK = _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_ONLYDIR
WRITES = _IN_MODIFY | _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE | _IN_ONLYDIR
"""What changes the content of a directory's files, or which there are."""
_IN_Q_OVERFLOW = 0x4000
_IN_ISDIR = 0x4000_0000
_EVENTS_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Happened:
    """One event: in which directory, to what name in it; or, if `overflowed`, any number that nobody knows."""

    watch: int
    name: str
    is_dir: bool
    overflowed: bool


class Inotify:
    """An inotify descriptor. Raises OSError: ENOSYS where there is none, EMFILE or ENOSPC at the user's limits."""

    def __init__(self) -> None:
        self.fd = _call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)

    def add(self, directory: str, mask: int = _MASK) -> int:
        """Be told of what appears in `directory`, or of what else the mask says; again is fine, also if another one has
        taken its place. The number by which events name it."""
        return _call("inotify_add_watch", self.fd, ctypes.c_char_p(os.fsencode(directory)), ctypes.c_uint32(mask))

    def events(self) -> list[Happened]:
        """What has happened, and was not told yet; some of it, if that is much. Never blocks."""
        with contextlib.suppress(BlockingIOError):
            return list(_parsed(os.read(self.fd, _EVENTS_BYTES)))
        return []

    def drain(self) -> None:
        """Forget the events that wait. Never blocks."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, _EVENTS_BYTES):
                pass

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)


def _parsed(data: bytes) -> Iterator[Happened]:
    position = 0
    while position < len(data):
        watch, mask, _, length = struct.unpack_from("iIII", data, position)
        name = data[position + 16 : position + 16 + length].rstrip(b"\0")
        yield Happened(watch, os.fsdecode(name), bool(mask & _IN_ISDIR), bool(mask & _IN_Q_OVERFLOW))
        position += 16 + length


def _call(name: str, *arguments: Any) -> int:
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None, use_errno=True), name)
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if (result := int(function(*arguments))) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
