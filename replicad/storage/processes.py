"""Whether a process of this host still runs."""

from __future__ import annotations

from pathlib import Path


def start_of_process(pid: int) -> str | None:
    """When the process with that number began, in the kernel's own count; None if there is none, and empty where this
    platform does not say. The same number with another start is another process."""
    if not Path("/proc/self/stat").exists():
        return ""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError:
        return ""
    # proc(5): the name in parentheses may hold anything; the state is field 3 and the start field 22.
    fields = text.rpartition(")")[2].split()
    if len(fields) < 20:
        return ""
    return None if fields[0] in ("Z", "X") else fields[19]
