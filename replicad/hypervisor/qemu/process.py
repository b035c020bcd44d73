"""What /proc tells of a QEMU: which process it is, and which files it really has open. Blocking.

Needs the rights to look at the process: its user's, or root's. Without them nothing is told, and nobody is trusted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from replicad.model.names import printable
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


def command_line(process: Process) -> tuple[str, ...]:
    """The arguments that it was started with; none if they are not to be seen."""
    try:
        data = (_PROC / str(process.pid) / "cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(os.fsdecode(argument) for argument in data.split(b"\0")[:-1])


def writers_of(files: Collection[Inode], but: int | None = None, without: Collection[str] = ()) -> Mapping[Inode, str]:
    """Which of these files processes of this host have open for writing, and by one of them which: its name and number.
    Not looked at are the process `but` and those of the names `without`, nor can be those whose files may not be seen
    by us."""
    found: dict[Inode, str] = {}
    for process in _PROC.iterdir():
        if not process.name.isdecimal() or int(process.name) == but:
            continue
        with suppress(OSError):  # it has ended, or is not ours to look at
            if without and _name(process) in without:
                continue
            for descriptor in (process / "fd").iterdir():
                inode = _written_through(process, descriptor)
                if inode is not None and inode in files and inode not in found:
                    found[inode] = f"{printable(_name(process))} (process {process.name})"
    return found


def _name(process: Path) -> str:
    return (process / "comm").read_text(errors="replace").strip()


def _written_through(process: Path, descriptor: Path) -> Inode | None:
    """The file that an open descriptor writes, if it does."""
    try:
        status = descriptor.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        lines = (process / "fdinfo" / descriptor.name).read_text().splitlines()
    except OSError:
        return None  # closed meanwhile
    flags = next((int(line.split()[1], 8) for line in lines if line.startswith("flags:")), 0)
    return (status.st_dev, status.st_ino) if flags & os.O_ACCMODE != os.O_RDONLY else None


def written_files(process: Process) -> frozenset[Inode] | None:
    """Those of its open files that it may write; None if that is not to be seen."""
    found: set[Inode] = set()
    try:
        for descriptor in list((_PROC / str(process.pid) / "fd").iterdir()):
            try:
                status = descriptor.stat()
                told = (_PROC / str(process.pid) / "fdinfo" / descriptor.name).read_text()
            except FileNotFoundError:
                continue  # closed meanwhile, or nothing that has a place in a file system
            flags = next((line.split()[1] for line in told.splitlines() if line.startswith("flags:")), "0")
            if stat.S_ISREG(status.st_mode) and int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
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


def inode_of_descriptor(process: Process, number: int) -> Inode | None:
    """The file that it has open as that descriptor; None if there is none."""
    try:
        status = (_PROC / str(process.pid) / "fd" / str(number)).stat()
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
