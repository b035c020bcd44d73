"""`python -m benchmarks.freeze`: how long a guest stands still for a cycle, seen from inside it.

Needs root, for the file systems, and what `make test` installs for its guest.

A real guest sends a heartbeat every 2 ms and writes records as fast as it can, each one synced, on disks of 8 GiB in
more than 20,000 pieces each. The longest time without a heartbeat, and without a durable record, is measured in each
cycle, and in as long a time after it in which nothing else runs: the guest's own jitter.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from replicad.storage.local import fiemap
from tests.support.filesystems import mounted
from tests.support.guest import Load, build_guest, make_disk, running_guest
from tests.support.running_machine import RunningMachine, replicated, write_settings

from .stops import Gaps, Stops, spread

_KIB, _GIB = 1 << 10, 1 << 30
_DISK_BYTES = 8 * _GIB
_PIECE_EVERY = 360 * _KIB
_ROOM_BYTES = 60 * _GIB
_LOAD = Load(rate_per_s=0, max_bytes=32 * _KIB, churn_bytes_per_s=1024 * _KIB)


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    disks: int
    consistency: str


_CASES = (
    _Case("qemu", 2, "{{method: qemu, monitor: '{monitor}', max_stall: 5s, sample: 0%}}"),
    _Case("reflink", 1, "{{method: reflink, max_stall: 5s, sample: 0%}}"),
)


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.freeze", description=__doc__)
    parser.add_argument("--cycles", type=int, default=50, metavar="N")
    parser.add_argument("--only", choices=[case.name for case in _CASES])
    parser.add_argument("--file-system", choices=["xfs", "btrfs"], default="xfs")
    asked = parser.parse_args()
    for case in _CASES:
        if asked.only in (None, case.name):
            asyncio.run(_measure(case, asked.file_system, asked.cycles))
    return 0


async def _measure(case: _Case, kind: str, cycles: int) -> None:
    image = await asyncio.to_thread(build_guest)
    with mounted(kind, _ROOM_BYTES) as source, tempfile.TemporaryDirectory(prefix="replicad-") as scratch:
        root = Path(scratch)
        disks = [await asyncio.to_thread(_made, source / f"disk {n}.vhdx") for n in range(case.disks)]
        replica = source.parent / "replica"
        replica.mkdir()
        settings = write_settings(root, source, replica, case.consistency.format(monitor=root / "qmp"))
        async with (
            running_guest(image, disks, directory=root, load=_LOAD) as guest,
            replicated(settings, guest, disks, root) as machine,
        ):
            await _cycles(machine, case, kind, disks, cycles)


async def _cycles(machine: RunningMachine, case: _Case, kind: str, disks: Sequence[Path], cycles: int) -> None:
    guest, during, beside, stops = machine.guest, Gaps(), Gaps(), Stops(machine.guest)
    async with stops:
        await machine.sync()
        await machine.sync()
        stops.took_s.clear()
        took_s: list[float] = []
        for _ in range(cycles):
            await guest.wait_durable(guest.durable().number + 20)
            cycle = await machine.sync()
            took_s.append(cycle.ended_s - cycle.began_s)
            during.add(guest, cycle.began_s, cycle.ended_s)
            began_s = time.monotonic()
            await asyncio.sleep(took_s[-1])
            beside.add(guest, began_s, began_s + took_s[-1])
    extents = [_extents(disk) for disk in disks]
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, load {os.getloadavg()[1]:.1f}")
    labels = {str(cycle.report.point.consistency) for cycle in machine.cycles.values()}
    print(f"{case.name} on {kind}: {len(disks)} disks of 8 GiB with {extents} extents, {cycles} cycles ({labels})")
    print(f"  a cycle took                         {spread(took_s)}")
    if stops.took_s:
        print(f"  stood still, as QEMU tells           {spread(stops.took_s)}")
    print(f"  longest gap between heartbeats       {spread(during.beats_s)}")
    print(f"    with no cycle                      {spread(beside.beats_s)}")
    print(f"  longest gap between durable records  {spread(during.records_s)}")
    print(f"    with no cycle                      {spread(beside.records_s)}")


def _made(path: Path) -> Path:
    """A disk in pieces: zeros, written where there were holes, change nothing that the guest sees."""
    full = make_disk(path.with_name(f"full {path.name}"), _DISK_BYTES, "fixed")
    subprocess.run(["cp", "--sparse=always", "--reflink=never", "--", str(full), str(path)], check=True)
    full.unlink()
    piece = bytes(4096)
    with path.open("r+b") as file:
        for at in range(0, path.stat().st_size - len(piece), _PIECE_EVERY):
            try:
                is_hole = os.lseek(file.fileno(), at, os.SEEK_DATA) >= at + len(piece)
            except OSError:  # no data from here on
                is_hole = True
            if is_hole:
                os.pwrite(file.fileno(), piece, at)
        os.fsync(file.fileno())
    return path


def _extents(path: Path) -> int:
    with path.open("rb") as file:
        return fiemap.extent_count(file.fileno())


if __name__ == "__main__":
    raise SystemExit(main())
