"""File systems of our own, each in a file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .lab import LeftOutError

_MAKE = {"ext4": ["mkfs.ext4", "-q", "-F", "-E", "nodiscard"], "xfs": ["mkfs.xfs", "-q", "-f", "-m", "reflink=1"]}


@contextmanager
def mounted(kind: str, size_bytes: int, directory: Path) -> Iterator[Path]:
    """An empty file system, unmounted and removed in the end. LeftOutError where that can't be made."""
    image, where = directory / f"{kind}.image", directory / kind
    if os.geteuid() != 0:
        raise LeftOutError(f"{kind}: only root can mount")
    where.mkdir()
    try:
        with image.open("wb") as file:
            file.truncate(size_bytes)
        _run(kind, *_MAKE[kind], str(image))
        # Discarded blocks go back to the machine's memory at once.
        _run(kind, "mount", "-t", kind, "-o", "loop,discard", str(image), str(where))
        try:
            yield where
        finally:
            _run(kind, "umount", "-l", str(where))
    finally:
        image.unlink(missing_ok=True)
        where.rmdir()


def _run(kind: str, *command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except FileNotFoundError:
        raise LeftOutError(f"{kind}: {command[0]} is not installed") from None
    if done.returncode:
        raise LeftOutError(f"{kind}: {' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
