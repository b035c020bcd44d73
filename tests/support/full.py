"""A file system that is filled to its last block, and given its room back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

FILLER = "채움"
_BLOCK_BYTES = 4096


def fill(where: Path) -> None:
    """Take all the room there is, for files and as far as possible for names."""
    number = len(list(where.glob(f"{FILLER}*")))
    with (where / f"{FILLER} {number}").open("ab") as file:
        piece_bytes = 64 << 20
        while piece_bytes >= _BLOCK_BYTES:
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), piece_bytes)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                piece_bytes //= 2


def make_room(where: Path) -> None:
    """Give back what `fill` took."""
    for path in where.glob(f"{FILLER}*"):
        path.unlink()
