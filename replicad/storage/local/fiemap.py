"""Cloning files and asking where their bytes lie: requests to Linux' file systems. Everything raises OSError."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from replicad.model.extent_maps import MapFlag, MappedExtent

from . import syscalls

if sys.platform != "win32":
    import fcntl

_FICLONE = 0x40049409
_FICLONERANGE = 0x4020940D
_FS_IOC_FIEMAP = 0xC020660B
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_IOC_GETVERSION = 0x80087601
_FS_IOC_FSGETXATTR = 0x801C581F
_FS_NOCOW_FL = 0x00800000
_FS_XFLAG_REALTIME = 0x1

_FIEMAP_FLAG_SYNC = 1
_RANGE = struct.Struct("=qQQQ")
_HEADER = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQ16xI12x")
_PAGE_EXTENTS = 4096
_PART_EXTENTS = 512
_TO_THE_END = (1 << 64) - 1

XFS = 0x58465342
BTRFS = 0x9123683E


def clone(source_fd: int, target_fd: int) -> None:
    """Make an empty file share all blocks of another: its content at one instant. EOPNOTSUPP where the file system
    can't, EXDEV where the two are on different ones."""
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.ioctl(target_fd, _FICLONE, source_fd)


def clone_range(source_fd: int, target_fd: int, offset: int, length: int) -> None:
    """The same of some whole blocks of a file, in the place of those of another; a `length` of 0: up to its end."""
    fcntl.ioctl(target_fd, _FICLONERANGE, _RANGE.pack(source_fd, offset, length, offset))


def take_after(source_fd: int, target_fd: int) -> None:
    """Give an empty file the attribute without which it could not become a clone of another: on btrfs, that it is not
    copied on write and has no checksums. (A clone is copied on write all the same.)"""
    flags = _flags(source_fd)
    if flags & _FS_NOCOW_FL != _flags(target_fd) & _FS_NOCOW_FL:
        wanted = _flags(target_fd) & ~_FS_NOCOW_FL | flags & _FS_NOCOW_FL
        fcntl.ioctl(target_fd, _FS_IOC_SETFLAGS, struct.pack("=q", wanted))


def _flags(fd: int) -> int:
    (flags,) = struct.unpack("=q", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8)))
    return int(flags) & 0xFFFFFFFF


def generation(fd: int) -> int:
    """What tells a file from earlier ones of the same number."""
    (found,) = struct.unpack("=q", fcntl.ioctl(fd, _FS_IOC_GETVERSION, bytes(8)))
    return int(found) & 0xFFFFFFFF


def file_system(fd: int) -> int:
    """The number of a file's kind of file system: `XFS`, `BTRFS`, or another."""
    buffer = ctypes.create_string_buffer(512)
    syscalls.file_system_facts(fd, buffer)
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


def is_realtime(fd: int) -> bool:
    """Whether a file of an XFS lies on its realtime device, whose places are numbered like those of the other one."""
    found = fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(28))
    return bool(struct.unpack_from("=I", found)[0] & _FS_XFLAG_REALTIME)


def extent_count(fd: int) -> int:
    """How many extents a file has, after all that was written to it was brought to the disk."""
    header = bytearray(_HEADER.pack(0, _TO_THE_END, _FIEMAP_FLAG_SYNC, 0, 0, 0))
    syscalls.control(fd, _FS_IOC_FIEMAP, header)
    return int(_HEADER.unpack(header)[3])


def extents(fd: int) -> list[MappedExtent]:
    """A file's extents, after all that was written to it was brought to the disk."""
    found: list[MappedExtent] = []
    page = bytearray(_HEADER.size + _PAGE_EXTENTS * _EXTENT.size)
    start = 0
    while True:
        _HEADER.pack_into(page, 0, start, _TO_THE_END - start, _FIEMAP_FLAG_SYNC, 0, _PAGE_EXTENTS, 0)
        syscalls.control(fd, _FS_IOC_FIEMAP, page)
        count = _HEADER.unpack_from(page)[3]
        here = memoryview(page)[_HEADER.size : _HEADER.size + count * _EXTENT.size]
        found += [_from(start, MappedExtent(*fields)) for fields in _EXTENT.iter_unpack(here)]
        if not count or found[-1].flags & MapFlag.LAST:
            return found
        start = found[-1].end_bytes


def places(fd: int, start: int, end: int) -> bytes:
    """Where the bytes from `start` to `end` lie, as the kernel tells it, after all that was written to the file was
    brought to the disk. What reaches beyond the range is not cut."""
    found, page = b"", bytearray(_HEADER.size + _PART_EXTENTS * _EXTENT.size)
    while start < end:
        _HEADER.pack_into(page, 0, start, end - start, _FIEMAP_FLAG_SYNC, 0, _PART_EXTENTS, 0)
        syscalls.control(fd, _FS_IOC_FIEMAP, page)
        count = _HEADER.unpack_from(page)[3]
        found += page[_HEADER.size : _HEADER.size + count * _EXTENT.size]
        if count < _PART_EXTENTS:
            break
        start = extent_of(found[-_EXTENT.size :]).end_bytes
    return found


def records(told: bytes) -> set[bytes]:
    """What `places` told, extent by extent, to be compared."""
    return {told[at : at + _EXTENT.size] for at in range(0, len(told), _EXTENT.size)}


def extent_of(record: bytes) -> MappedExtent:
    """One of `records`."""
    return MappedExtent(*_EXTENT.unpack(record))


def are_plain(told: bytes) -> bool:
    """Whether no extent of what `places` told is doubtful (`MappedExtent.is_doubtful`)."""
    return not any(MappedExtent(*fields).is_doubtful for fields in _EXTENT.iter_unpack(told))


def _from(start: int, extent: MappedExtent) -> MappedExtent:
    """An extent without what lies before the page: it may have become one with the last one of the page before."""
    if not extent.offset_bytes < start < extent.end_bytes:
        return extent
    cut = start - extent.offset_bytes
    return MappedExtent(start, extent.physical_bytes + cut, extent.length_bytes - cut, extent.flags)
