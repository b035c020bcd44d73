"""Names below a root, without ever following a link: each component is opened relative to the one before.

All functions block and raise OSError, but for the root itself, which they name in a ReplicadError.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from replicad.model.errors import AccessDeniedError, NotFoundError
from replicad.model.names import last_part, parent

from . import syscalls
from .errnos import translate

# For this user alone: disks hold what their guests hold, passwords among it.
_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700


@contextmanager
def directory(root: str, path: str, op: str = "open") -> Iterator[int]:
    """A descriptor of the directory `path`, good for looking names up in it."""
    fd = _open_root(root, op)
    try:
        for part in path.split("/") if path else ():
            below = open_directory_at(fd, part)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def _open_root(root: str, op: str) -> int:
    try:
        return os.open(root, _search_flags())
    except FileNotFoundError as error:
        hint = "Create it, or mount the file system that holds it."
        raise NotFoundError(op, root, "there is no such directory", hint) from error
    except NotADirectoryError as error:
        raise NotFoundError(op, root, "it is a file, not a directory", "Give the directory that holds it.") from error
    except PermissionError as error:
        raise AccessDeniedError(op, root, "access was denied", "Check the rights on it and above it.") from error
    except OSError as error:
        raise translate(error, op, root) from error


def _search_flags() -> int:
    # O_PATH needs the right to search only, where there is O_PATH.
    return getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


def open_directory_at(fd: int, name: str, *, readable: bool = False) -> int:
    """Open a directory in another; ELOOP if it is a link, ENOTDIR if it is anything else."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC if readable else _search_flags()
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=fd)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
        raise


@contextmanager
def readable_directory(root: str, path: str, op: str) -> Iterator[int]:
    """A descriptor of the directory `path`, good for listing and flushing it."""
    with directory(root, parent(path), op) as above:
        fd = open_directory_at(above, last_part(path) or ".", readable=True)
        try:
            yield fd
        finally:
            os.close(fd)


def open_file(root: str, path: str, *, write: bool, create: bool = False) -> int:
    """Open a regular file; anything else is refused without waiting for it or touching it.

    EAGAIN, instead of waiting, if somebody holds a lease that goes against it.
    """
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    with directory(root, parent(path)) as above:
        name = last_part(path)
        if create:
            return os.open(name, flags | os.O_CREAT | os.O_EXCL, _FILE_MODE, dir_fd=above)
        # Opening a device can do something to it, so look first; and look again at what was opened.
        _refuse_special(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
        fd = os.open(name, flags, dir_fd=above)
        try:
            _refuse_special(os.fstat(fd).st_mode)
        except OSError:
            os.close(fd)
            raise
        return fd


def open_lock_file(root: str, path: str) -> int:
    """Open a lock file, made if it is not there."""
    for _ in range(100):
        try:
            return open_file(root, path, write=True)
        except FileNotFoundError:
            try:
                return open_file(root, path, write=True, create=True)
            except FileExistsError:
                continue
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _refuse_special(mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    number = errno.ELOOP if stat.S_ISLNK(mode) else errno.EISDIR if stat.S_ISDIR(mode) else errno.ENXIO
    raise OSError(number, os.strerror(number))


def stat_of(root: str, path: str, op: str = "look at") -> os.stat_result:
    """What is at `path`, a link itself included."""
    with directory(root, parent(path), op) as above:
        return os.stat(last_part(path) or ".", dir_fd=above, follow_symlinks=False)


def entries(root: str, path: str) -> list[tuple[str, os.stat_result]]:
    """What is in a directory, in no order; what vanishes meanwhile is left out."""
    found: list[tuple[str, os.stat_result]] = []
    with readable_directory(root, path, "list") as fd, os.scandir(fd) as scan:
        for entry in scan:
            try:
                found.append((entry.name, entry.stat(follow_symlinks=False)))
            except FileNotFoundError:
                continue
    return found


def make_dir(root: str, path: str) -> None:
    """Make a directory and those above it; EEXIST if something else is there."""
    done: list[str] = []
    for part in path.split("/") if path else ():
        with directory(root, "/".join(done), "make directories in") as above:
            try:
                os.mkdir(part, _DIRECTORY_MODE, dir_fd=above)
            except FileExistsError:
                mode = os.stat(part, dir_fd=above, follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                if not stat.S_ISDIR(mode):
                    raise
        done.append(part)
    if not path:
        os.close(_open_root(root, "make directories in"))


def rename(root: str, source: str, target: str, *, replace: bool) -> None:
    """Rename in one step; EEXIST if the target is there and must not be replaced."""
    old, new = last_part(source), last_part(target)
    with directory(root, parent(source), "rename") as source_dir, directory(root, parent(target)) as target_dir:
        moved = os.stat(old, dir_fd=source_dir, follow_symlinks=False)
        if source == target:
            return
        if not replace or stat.S_ISDIR(moved.st_mode):
            _rename_no_replace(source_dir, old, target_dir, new, is_dir=stat.S_ISDIR(moved.st_mode))
            return
        there = _stat_or_none(target_dir, new)
        if there is not None and stat.S_ISDIR(there.st_mode):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(old, new, src_dir_fd=source_dir, dst_dir_fd=target_dir)
        # POSIX: renaming one name of a file over another name of it does nothing at all.
        if there is not None and moved.st_nlink > 1 and os.path.samestat(moved, there):
            os.unlink(old, dir_fd=source_dir)


def _rename_no_replace(source_dir: int, old: str, target_dir: int, new: str, *, is_dir: bool) -> None:
    try:
        syscalls.rename_no_replace(source_dir, old, target_dir, new)
        return
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    if not is_dir:
        try:
            # As atomic as it gets there: the target is never replaced, and the file never without a name.
            os.link(old, new, src_dir_fd=source_dir, dst_dir_fd=target_dir, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
        else:
            os.unlink(old, dir_fd=source_dir)
            return
    if _stat_or_none(target_dir, new) is not None:
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.rename(old, new, src_dir_fd=source_dir, dst_dir_fd=target_dir)


def _stat_or_none(fd: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def remove(root: str, path: str) -> None:
    """Remove a file, a link or an empty directory."""
    with directory(root, parent(path), "remove") as above:
        name = last_part(path)
        if stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            os.rmdir(name, dir_fd=above)
        else:
            os.unlink(name, dir_fd=above)


def flush_directory(root: str, path: str) -> bool:
    """Bring the names of a directory to the disk; whether the file system can."""
    with readable_directory(root, path, "flush") as fd:
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                return False
            raise
    return True


def free_bytes(root: str) -> int:
    """The room left for users without privileges."""
    with directory(root, "", "ask for the free space of") as fd:
        room = os.fstatvfs(fd)
    return room.f_bavail * room.f_frsize
