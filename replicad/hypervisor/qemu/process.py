"""What /proc tells of a QEMU: which process it is, and which files it really has open. Blocking.

Needs the rights to look at the process: its user's, or root's. Without them nothing is told, and nobody is trusted.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from replicad.storage.processes import start_of_process

_PROC = Path("/proc")
Inode = tuple[int, int]
"""A file, by its device and number."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that is not taken for a later one with the same number."""

    pid: int
    started: str
    """In the kernel's ticks since it began itself."""

    def __str__(self) -> str:
        return f"{self.pid}:{self.started}"


def identify(pid: int) -> Process | None:
    """The process with that number now; None if it is not to be seen."""
    started = start_of_process(pid) if pid else None
    return Process(pid, started) if started else None


def open_files(process: Process) -> frozenset[Inode] | None:
    """The regular files that it has open; None if that is not to be seen."""
    found: set[Inode] = set()
    try:
        for descriptor in list((_PROC / str(process.pid) / "fd").iterdir()):
            try:
                status = descriptor.stat()
            except FileNotFoundError:
                continue  # closed meanwhile, or nothing that has a place in a file system
            if stat.S_ISREG(status.st_mode):
                found.add((status.st_dev, status.st_ino))
    except OSError:
        return None
    return frozenset(found)


def inode_as_seen_by(process: Process, file_name: str) -> Inode | None:
    """The file that a name means to that process, with its root and its working directory; None if there is none."""
    there = _PROC / str(process.pid) / ("root" if file_name.startswith("/") else "cwd")
    try:
        status = Path(f"{there}/{file_name}").stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def listens_at(process: Process, beginning: str) -> bool:
    """Whether it has a Unix socket open that was bound to a path which begins so, even if the path is gone."""
    try:
        lines = (_PROC / str(process.pid) / "net/unix").read_text(errors="surrogateescape").splitlines()[1:]
        bound = {
            fields[6]
            for line in lines
            if len(fields := line.split(maxsplit=7)) == 8 and fields[7].startswith(beginning)
        }
        if not bound:
            return False
        names = [str(descriptor.readlink()) for descriptor in list((_PROC / str(process.pid) / "fd").iterdir())]
    except OSError:
        return False
    return any(name == f"socket:[{number}]" for name in names for number in bound)
