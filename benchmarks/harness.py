"""Running a program and measuring all of it: time, processor, memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_SAMPLE_INTERVAL_S = 0.005
_STOP_AFTER_S = 900


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one program, from its start to its end; processor time and memory are the program's own, without the
    server's. `peak_rss_bytes` is the highest resident size that the kernel had noted, looked at every 5 ms."""

    seconds: float
    cpu_s: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Contest:
    """What two programs took for the same thing, round by round, in turns. `size_bytes` is what was to be brought over;
    `sent_bytes` is what replicad says that it sent."""

    case: str
    protection: str
    size_bytes: int
    sent_bytes: int
    rival: str
    ours: tuple[Measurement, ...]
    theirs: tuple[Measurement, ...]


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[Measurement, str]:
    """Run a program; what it took and what it printed. RuntimeError with what it said if it fails."""
    with tempfile.TemporaryFile() as output:
        began_s = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        memory = _PeakMemory(process.pid)
        guard = threading.Timer(_STOP_AFTER_S, process.kill)
        memory.start()
        guard.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            seconds = time.monotonic() - began_s
            guard.cancel()
            memory.end()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {text}")
    return Measurement(seconds, usage.ru_utime + usage.ru_stime, memory.peak_bytes), text


class _PeakMemory(threading.Thread):
    """Looks at a process's high-water mark until it ends. (The rusage of a child counts its parent's memory, too.)"""

    def __init__(self, pid: int) -> None:
        super().__init__(name="peak-memory", daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self.peak_bytes = 0

    def run(self) -> None:
        while not self._ended.wait(_SAMPLE_INTERVAL_S):
            try:
                lines = self._status.read_text().splitlines()
            except OSError:
                return  # it ended
            for line in lines:
                if line.startswith("VmHWM:"):
                    self.peak_bytes = max(self.peak_bytes, int(line.split()[1]) * 1024)

    def end(self) -> None:
        self._ended.set()
        self.join()


def median_of(measurements: Sequence[Measurement]) -> Measurement:
    """The median of each figure by itself."""
    return Measurement(
        median(m.seconds for m in measurements),
        median(m.cpu_s for m in measurements),
        round(median(m.peak_rss_bytes for m in measurements)),
    )
