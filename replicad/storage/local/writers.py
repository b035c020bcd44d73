"""Who may write a file: which process has it open for that, and whether other machines can."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from replicad.model.names import printable

from . import fiemap

_BUDGET_S = 0.25
_PROC = Path("/proc")

# By the numbers of Linux' statfs.
_OF_THIS_KERNEL = frozenset({
    fiemap.BTRFS, 0x01021994, 0x858458F6, 0x2FC12FC1, 0xCA451A4E,  # tmpfs, ramfs, ZFS, bcachefs
    0x794C7630,  # overlayfs
})  # fmt: skip
_ASKING_THE_SERVER = frozenset({0x6969, 0xFF534D42, 0xFE534D42, 0x517B})
"""NFS and SMB: there a lease is granted only while the server keeps others out, and taken away when it does no more."""
_OF_CLUSTERS = frozenset({0x7461636F, 0x01161970, 0x47504653, 0xA501FCF5})
"""OCFS2, GFS2, GPFS, VxFS: several machines have the block device."""


def can_be_held(fd: int) -> bool:
    """Whether a lease on the file keeps everybody out: where other machines, or a program that serves the file system,
    can write it past this kernel (FUSE, virtiofs, 9p, file systems of clusters), the kernel grants one all the same."""
    kind = fiemap.file_system(fd)
    if kind in _OF_THIS_KERNEL or kind in _ASKING_THE_SERVER:
        return True
    # What has a block device of its own is written by the kernel alone, file systems of FUSE included (ntfs-3g).
    return os.major(os.fstat(fd).st_dev) != 0 and kind not in _OF_CLUSTERS


def keeps_change_times(fd: int) -> bool:
    """Whether a file's change time is one that nobody can set. A server may tell the write time for it (Samba does)."""
    return fiemap.file_system(fd) not in _ASKING_THE_SERVER


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
