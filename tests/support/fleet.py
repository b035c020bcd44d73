"""The daemon with shares in memory, for a fleet of machines that no file server here could hold: a process of its own,
`python -m tests.support.fleet --config FILE --log-format json`, and how to measure it.

All else is what `replicad run` runs: the supervisor, the catalog and the cache of manifests on disk, the API, hooks and
figures. Sources and replicas are local directories in the configuration, and each of them is a tree of that process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

from replicad.cli.run_async import run_async
from replicad.model.address import LocalAddress
from replicad.service.compose import Shares
from replicad.service.daemon import run_daemon
from replicad.service.logs import LogFormat, logging_to
from replicad.settings.load import load
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode, Share

from .vhdx_builder import MIB, PAGE, Spec, build

PROGRAM = ("-m", "tests.support.fleet")
DISK = "디스크 💾.vhdx"

_trees: dict[str, MemoryShare] = {}
"""What lies below each local directory, for as long as the process lives."""


def fleet_of(count: int, every: str) -> dict[str, dict[str, Any]]:
    """So many machines, as they stand in a configuration."""
    return {
        f"기계 {n:04} 🖥": {"source": f"/원본/{n}", "replica": "/사본", "every": every, "keep": {"latest": 2}}
        for n in range(count)
    }


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process had used at a moment."""

    at_s: float
    cpu_s: float
    resident_mib: float


def usage(pid: int) -> Usage:
    """What a process has used until now."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    ticks = int(stat[11]) + int(stat[12])
    return Usage(monotonic(), ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / MIB)


def percentile(values: list[float], percent: int) -> float:
    """What so many percent of the values do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def lateness_s(due_at: datetime, started_at: datetime) -> float:
    """How long after its time a cycle began."""
    return (started_at - due_at).total_seconds()


class _MemoryShares(Shares):
    """Local directories are in memory."""

    async def _open_local(self, address: LocalAddress) -> Share:
        return _trees.setdefault(address.path, MemoryShare(address.path)).view()


async def _put_disks(config: Path) -> None:
    """Give every machine a small disk of its own."""
    image = build(Spec())
    for machine in load(config, os.environ).virtual_machines.values():
        if not isinstance(machine.source, LocalAddress):
            raise TypeError(f"{machine.name} does not come from a local directory")
        share = _trees.setdefault(machine.source.path, MemoryShare(machine.source.path))
        async with await share.open(DISK, OpenMode.CREATE) as file:
            for number, page in image.pages.items():
                await file.write(page, number * PAGE)
            await file.set_size(image.size)


async def _live(config: Path) -> None:
    await _put_disks(config)
    await run_daemon(config, os.environ, shares=_MemoryShares)


def main() -> None:
    """Run it until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--log-format", type=LogFormat, default=LogFormat.AUTO)
    asked = parser.parse_args()
    with logging_to(level="info", log_format=asked.log_format), suppress(asyncio.CancelledError, KeyboardInterrupt):
        run_async(_live(asked.config))


if __name__ == "__main__":
    main()
