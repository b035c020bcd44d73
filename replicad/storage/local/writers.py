"""Which process has a file open for writing, as far as /proc tells it cheaply."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from replicad.model.names import printable

_BUDGET_S = 0.25
_PROC = Path("/proc")


def find_writer(held_fd: int) -> str:
    """`process 123 (qemu-system-x86)` for the file of a descriptor.

    '' if that is not to be seen: the process is another user's or has the file mapped only, or /proc is too large to
    look through in a quarter of a second.
    """
    deadline = time.monotonic() + _BUDGET_S
    of = os.fstat(held_fd)
    try:
        name = (_PROC / "self/fd" / str(held_fd)).readlink().name
    except OSError:
        return ""  # without /proc nobody is named
    for fd in _descriptors():
        if time.monotonic() > deadline:
            break
        try:
            # Reading the link touches no file system; a stat may wait for a dead server.
            if fd.readlink().name == name and os.path.samestat(fd.stat(), of) and _is_for_writing(fd):
                process = fd.parent.parent
                return f"process {process.name} ({printable((process / 'comm').read_text().strip())})"
        except OSError:
            continue  # gone meanwhile, or not ours to look at: then it is not named
    return ""


def _descriptors() -> Iterator[Path]:
    try:
        pids = sorted((p for p in _PROC.iterdir() if p.name.isdigit()), key=lambda p: -int(p.name))
    except OSError:
        return
    for process in pids:
        try:
            yield from list((process / "fd").iterdir())
        except OSError:
            continue  # as above


def _is_for_writing(fd: Path) -> bool:
    for line in (fd.parent.parent / "fdinfo" / fd.name).read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "flags":
            return int(value, 8) & os.O_ACCMODE != os.O_RDONLY
    return False
