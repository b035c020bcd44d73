"""Who we are: what a lock file says of its holder."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from datetime import UTC, datetime
from pathlib import Path

from replicad.storage.holder import PID_NAMESPACE, WEAK_MACHINE_PREFIX
from replicad.storage.port import LockHolder
from replicad.storage.processes import start_of_process

_MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"


def this_process_holder(since: datetime) -> LockHolder:
    """This process as the holder of a lock, since an aware moment. What this platform does not tell stays empty."""
    extra = {}
    with contextlib.suppress(OSError):  # elsewhere than on Linux a process has one number
        extra[PID_NAMESPACE] = str(Path("/proc/self/ns/pid").readlink())
    return LockHolder(
        host=socket.gethostname(),
        machine_id=machine_id(),
        boot_id=_first_line(_BOOT_ID_FILE),
        pid=os.getpid(),
        process_start=start_of_process(os.getpid()) or "",
        since=since.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        extra=extra,
    )


def machine_id() -> str:
    """What tells this installation from others: systemd's machine id, else a network card's address (marked as such,
    because it proves less)."""
    for path in _MACHINE_ID_FILES:
        if found := _first_line(path):
            return found
    return f"{WEAK_MACHINE_PREFIX}{uuid.getnode():012x}"


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError):
        return ""
