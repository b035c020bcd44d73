"""What was measured on, as far as figures depend on it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from replicad import __version__

from .lab import file_system_of

_PROGRAMS = {
    "smbclient": ["smbclient", "--version"],
    "rclone": ["rclone", "version"],
    "rsync": ["rsync", "--version"],
    "xxhsum": ["xxhsum", "--version"],
}


def machine(directory: Path) -> dict[str, Any]:
    """Facts for people."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30), 1),
        "file_system": file_system_of(directory),
        "load_before": round(os.getloadavg()[0], 1),
        "system": _system(),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "replicad": __version__,
        "programs": {name: _version(words) for name, words in _PROGRAMS.items() if shutil.which(name)},
    }


def told(facts: dict[str, Any]) -> list[str]:
    """The same in sentences."""
    programs = ", ".join(f"{name} {version}" for name, version in facts["programs"].items())
    return [
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB of memory, "
        f"load {facts['load_before']} before; {facts['system']}, kernel {facts['kernel']}.",
        f"replicad {facts['replicad']} on Python {facts['python']}; {programs}.",
        f"Clients and servers on this one machine, files on {facts['file_system']}; {facts['date']}.",
    ]


def _processor() -> str:
    models = [x.partition(":")[2].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    return models[0] if models else platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def _version(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    lines = (done.stdout or done.stderr).splitlines() or [""]
    return next((word.removeprefix("v") for word in lines[0].split() if word.lstrip("v")[:1].isdigit()), lines[0])
