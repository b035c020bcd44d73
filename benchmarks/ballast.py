"""Keeping the memory that files lie in from being taken away between two measurements.

The host of a virtual machine takes free memory back within seconds, in pieces of 2 or 4 MiB, and what is written there
next pays for bringing it back: ten times the cost of the writing itself was seen, now for one program and now for
another. Memory is free in such pieces only as long as nobody holds a page in them. So a file in memory is filled and
emptied again but for one page in 64: what lies between stays with the machine, and is what new files are given first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replicad.storage.local.syscalls import punch_hole

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STRIDE_BYTES = 64 * _PAGE_BYTES
_PIECE = bytes(1 << 20)


class Ballast:
    """A file that is nearly all holes, in a directory in memory."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.held_bytes = 0
        """So much memory is kept ready."""

    def hold(self, count: int) -> None:
        """Keep at least `count` bytes of memory ready. They must be free."""
        begin, end = self.held_bytes, -(-count // len(_PIECE)) * len(_PIECE)
        # First all of it, then the holes: else what was filled first would be what is filled next.
        for offset in range(begin, end, len(_PIECE)):
            os.pwrite(self._fd, _PIECE, offset)
        for offset in range(begin, end, _STRIDE_BYTES):
            punch_hole(self._fd, offset + _PAGE_BYTES, _STRIDE_BYTES - _PAGE_BYTES)
        self.held_bytes = max(begin, end)


@contextmanager
def ballast(directory: Path) -> Iterator[Ballast]:
    """A ballast whose file has no name."""
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        yield Ballast(fd)
    finally:
        os.close(fd)
