"""One daemon for one state directory."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replicad.model.errors import AccessDeniedError, LockedError, PermanentError

_FILE = "daemon.lock"
_MOST_BYTES = 64


@contextmanager
def the_only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state directory for this process; it is made if it is missing, for its owner only.

    LockedError if another process holds it, AccessDeniedError or PermanentError if it can't be made or written. The
    lock ends with the process, however that ends.
    """
    path = state_dir / _FILE
    try:
        for directory in (*reversed(state_dir.parents), state_dir):
            directory.mkdir(exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        kind = AccessDeniedError if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else PermanentError
        reason = error.strerror or type(error).__name__
        raise kind("use", f"state_dir {state_dir}", reason, "Make it a directory that this user can write.") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, _MOST_BYTES, 0).decode("ascii", "replace").strip()
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise LockedError(
                "start", f"a daemon on state_dir {state_dir}", f"one is running already ({who})",
                "One daemon keeps all machines of a configuration; reload it with SIGHUP after a change.",
            ) from None  # fmt: skip
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
