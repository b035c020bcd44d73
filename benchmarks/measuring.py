"""Running a program and measuring all of it: time, processor, memory, and what a server spent on it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_SAMPLE_INTERVAL_S = 0.01
_STOP_AFTER_S = 900
_SETTLE_S = 0.02
_SETTLE_TRIES = 25
_CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one program, from its start to its end.

    `cpu_s` is that of the program and its children, `server_cpu_s` that of the server it talked to (0 without one).
    `peak_rss_bytes` is the highest resident size that the kernel had noted, looked at every 10 ms, summed over the
    program and its children.
    """

    seconds: float
    cpu_s: float
    server_cpu_s: float
    peak_rss_bytes: int


def no_server() -> float:
    """For programs that talk to none."""
    return 0.0


def measure(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    server_cpu_s: Callable[[], float] = no_server,
) -> tuple[Measurement, str]:
    """Run a program; what it took and what it printed on stdout. RuntimeError with what it said if it fails."""
    server_before_s = server_cpu_s()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaints:
        began_s = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=complaints, env=environment, cwd=_CHECKOUT,
            start_new_session=True,
        )  # fmt: skip
        memory = _PeakMemory(process.pid)
        guard = threading.Timer(_STOP_AFTER_S, _kill_group, [process.pid])
        memory.start()
        guard.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _kill_group(process.pid)
            process.wait()
            raise
        finally:
            seconds = time.monotonic() - began_s
            guard.cancel()
            memory.end()
        process.returncode = os.waitstatus_to_exitcode(status)
        said, complained = _text_of(output), _text_of(complaints)
    if process.returncode:
        shown = " ".join(str(word) for word in command)
        raise RuntimeError(f"{shown} ended with {process.returncode}: {said}{complained}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Measurement(
        round(seconds, 4), round(cpu_s, 3), round(server_cpu_s() - server_before_s, 2), memory.peak_bytes
    ), said


def cpu_of_group(group: int) -> float:
    """The processor time of a process group, with that of the processes its leader has collected, when it stands still.

    A server's child that is just ending is for an instant in neither sum, or in both: so it is looked at until two
    looks agree.
    """
    before = _cpu_of_group_now(group)
    for _ in range(_SETTLE_TRIES):
        time.sleep(_SETTLE_S)
        now = _cpu_of_group_now(group)
        if now == before:
            break
        before = now
    return before


def _cpu_of_group_now(group: int) -> float:
    ticks = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The name in parentheses may hold anything; state, parent and group follow it (proc(5)).
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[2]) == group:
                wanted = fields[11:15] if int(entry.name) == group else fields[11:13]
                ticks += sum(int(field) for field in wanted)
    return ticks / os.sysconf("SC_CLK_TCK")


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _text_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


class _PeakMemory(threading.Thread):
    """Looks at the high-water marks of a program until it ends. (The rusage of a child counts its parent's, too.)"""

    def __init__(self, pid: int) -> None:
        super().__init__(name="peak-memory", daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self.peak_bytes = 0

    def run(self) -> None:
        while not self._ended.wait(_SAMPLE_INTERVAL_S):
            self.peak_bytes = max(self.peak_bytes, sum(_high_water_bytes(pid) for pid in _family(self._pid)))

    def end(self) -> None:
        self._ended.set()
        self.join()


def _family(pid: int) -> Iterator[int]:
    """A process and its descendants, as far as they were started by first threads."""
    yield pid
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from _family(int(child))


def _high_water_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
