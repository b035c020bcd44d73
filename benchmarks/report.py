"""What is printed and what is written."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from replicad import __version__
from replicad.cli.output import human_bytes, print_line, print_table

from .harness import Contest, Measurement, median_of

_GIB = 1 << 30


def machine() -> dict[str, Any]:
    """What was measured on, as far as figures depend on it."""
    models = [x.partition(":")[2].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    samba = subprocess.run(["smbclient", "--version"], capture_output=True, text=True, timeout=30, check=True)
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load_before": [round(x, 1) for x in os.getloadavg()],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "samba": samba.stdout.strip().removeprefix("Version "),
        "replicad": __version__,
    }


def print_contests(contests: Sequence[Contest], facts: dict[str, Any], rounds: int) -> None:
    """A table of medians, ours beside theirs, and how often ours was as fast as theirs."""
    print_line(f"{facts['processor']}, {facts['cores']} cores, load {facts['load_before'][0]} before")
    print_line(f"Python {facts['python']}, Samba {facts['samba']}; client and server on this machine, files in memory")
    print_line(f"medians of {rounds}, the programs in turns")
    print_line("")
    rows = []
    for contest in contests:
        ours, theirs = median_of(contest.ours), median_of(contest.theirs)
        first = (contest.case, contest.protection, human_bytes(contest.sent_bytes) if contest.sent_bytes else "")
        rows.append([*first, "replicad", *_figures(ours, contest.size_bytes), f"{theirs.seconds / ours.seconds:.2f} ×"])
        rows.append(["", "", "", contest.rival, *_figures(theirs, contest.size_bytes), "1"])
    print_table(
        ["case", "protection", "sent", "program", "seconds", "disk MB/s", "CPU s/GiB", "peak RSS", "speed"],
        rows,
        right=[2, 4, 5, 6, 7, 8],
    )


def as_json(contests: Sequence[Contest], facts: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Every measurement, not the medians alone."""
    return {
        "machine": facts,
        "settings": settings,
        "contests": [
            {
                **asdict(c),
                "median": {"ours": asdict(median_of(c.ours)), "theirs": asdict(median_of(c.theirs))},
            }
            for c in contests
        ],
    }


def _figures(measured: Measurement, size_bytes: int) -> list[str]:
    return [
        f"{measured.seconds:.2f}",
        f"{size_bytes / measured.seconds / 1e6:.0f}",
        f"{measured.cpu_s / size_bytes * _GIB:.2f}",
        human_bytes(measured.peak_rss_bytes),
    ]
