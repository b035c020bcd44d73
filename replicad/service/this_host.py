"""Who this process is, as lock files tell it to others."""

from __future__ import annotations

import os
import socket
import uuid
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from replicad.storage.holder import PID_NAMESPACE, WEAK_MACHINE_PREFIX
from replicad.storage.port import LockHolder
from replicad.storage.processes import start_of_process

_MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE_LINK = Path("/proc/self/ns/pid")


def this_process_holder(since: datetime) -> LockHolder:
    """This process, holding something since `since`. Where a platform does not tell, the field is empty."""
    return LockHolder(
        host=socket.gethostname(),
        machine_id=_machine_id(),
        boot_id=_first_line(_BOOT_ID_FILE),
        pid=os.getpid(),
        process_start=start_of_process(os.getpid()) or "",
        since=since.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        extra={PID_NAMESPACE: namespace} if (namespace := _pid_namespace()) else {},
    )


@lru_cache(maxsize=1)
def _machine_id() -> str:
    return next((text for path in _MACHINE_ID_FILES if (text := _first_line(path))), "") or (
        f"{WEAK_MACHINE_PREFIX}{uuid.getnode():012x}"
    )


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip().partition("\n")[0]
    except OSError:
        return ""  # another platform, or a container without it


def _pid_namespace() -> str:
    try:
        return str(_PID_NAMESPACE_LINK.readlink())
    except OSError:
        return ""
