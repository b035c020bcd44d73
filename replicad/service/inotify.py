"""A hint that something happened in a directory, from Linux's inotify(7).

Three calls of the C library, and a descriptor that the event loop waits for. What is in the events is not looked at:
whoever gets the hint looks at the directory itself, and so an overflow, or a hint too many, does no harm.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from collections.abc import Callable
from typing import Any

_IN_ATTRIB = 0x4
_IN_CLOSE_WRITE = 0x8
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_IN_ONLYDIR = 0x0100_0000
_MASK = _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_ONLYDIR
_EVENTS_BYTES = 64 << 10


class Inotify:
    """An inotify descriptor. Raises OSError: ENOSYS where there is none, EMFILE or ENOSPC at the user's limits."""

    def __init__(self) -> None:
        self.fd = _call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)

    def add(self, directory: str) -> None:
        """Be told of what appears in `directory`; again is fine, also if another one has taken its place."""
        _call("inotify_add_watch", self.fd, ctypes.c_char_p(os.fsencode(directory)), ctypes.c_uint32(_MASK))

    def drain(self) -> None:
        """Forget the events that wait. Never blocks."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, _EVENTS_BYTES):
                pass

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)


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
