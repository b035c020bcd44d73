"""What a local file system was seen to do, tried out on a temporary file."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path

from replicad.model.errors import AccessDeniedError, UnsupportedError
from replicad.model.extents import total_bytes
from replicad.storage.port import Capabilities, CopyRange

from . import syscalls, tree
from .errnos import translate
from .file import allocated_extents, copy_range
from .writers import can_be_held

_SIZE_BYTES = 4 * 1024 * 1024
_DATA_BYTES = 1024 * 1024
_NOTES = {
    "server_copy": "can't copy ranges by itself",
    "sparse": "does not keep files sparse",
    "zero": "can't free what is zeroed",
    "allocated_extents": "does not tell which ranges are allocated",
    "hold": "can't keep writers out of a file",
    "flush_directory": "can't bring names to the disk",
}
_numbers = itertools.count(1)


def capabilities(root: str) -> Capabilities:
    """Try each capability on a file in the root that is removed again; guess from the platform if none can be made."""
    name = f".replicad-probe-{os.getpid()}-{next(_numbers)}.tmp"
    try:
        fd = tree.open_file(root, name, write=True, create=True)
    except OSError as error:
        refusal = translate(error, "try out", root)
        if not isinstance(refusal, AccessDeniedError):
            raise
        note = "We may not write here, so nothing was tried out."
        return Capabilities(False, False, False, True, _leases_enabled(), False, (note,))
    try:
        found = _try_out(root, name, fd)
    finally:
        os.close(fd)
        tree.remove(root, name)
    return found


def _leases_enabled() -> bool:
    try:
        return Path("/proc/sys/fs/leases-enable").read_text().strip() == "1"
    except OSError:
        return False


def _try_out(root: str, name: str, fd: int) -> Capabilities:
    os.ftruncate(fd, _SIZE_BYTES)
    for offset in range(0, _DATA_BYTES, 64 * 1024):
        os.pwrite(fd, b"\xa5" * 64 * 1024, offset)
    os.fsync(fd)
    written = os.fstat(fd).st_blocks * 512
    sparse = written < _SIZE_BYTES
    extents = allocated_extents(fd)
    told = total_bytes(extents) < _SIZE_BYTES and bool(extents) and extents[0].offset_bytes == 0
    server_copy = _works(lambda: copy_range(fd, fd, CopyRange(0, 2 * _DATA_BYTES, 64 * 1024)))
    zero = _works(lambda: syscalls.punch_hole(fd, 0, _DATA_BYTES)) and not any(os.pread(fd, _DATA_BYTES, 0))
    found = {
        "server_copy": server_copy,
        "sparse": sparse,
        "zero": zero,
        "allocated_extents": told,
        "hold": _sees_writers(root, name),
        "flush_directory": tree.flush_directory(root, ""),
    }
    notes = tuple(f"The file system {_NOTES[what]}." for what, works in found.items() if not works)
    return Capabilities(**found, notes=notes)


def _works(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError as error:
        if isinstance(translate(error, "try out", ""), UnsupportedError):
            return False
        raise
    return True


def _sees_writers(root: str, name: str) -> bool:
    fd = tree.open_file(root, name, write=False)
    try:
        if not can_be_held(fd):
            return False
        syscalls.take_read_lease(fd)
    except OSError as error:
        # We have the file open for writing ourselves: being refused for that is what is wanted.
        return error.errno == errno.EAGAIN
    finally:
        os.close(fd)
    return False
