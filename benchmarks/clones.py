"""`python -m benchmarks.clones`: what clones cost, and what is saved by them. Needs root, for the file systems.

How long writers wait while two disks of many extents are cloned; and how long a cycle takes in which 64 MiB of a small
disk, and of a large one, have changed, beside one that reads all of the large one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from replicad.model.progress import nobody
from replicad.service.compose import Shares
from replicad.service.machines import open_machine
from replicad.service.surroundings import surroundings
from replicad.settings.load import load
from replicad.storage.local import LocalShare
from replicad.storage.port import CloneForecast
from replicad.tracking.extents import drop_clones
from replicad.workflows.retries import replicate_with_retries

_MIB, _GIB = 1 << 20, 1 << 30
_MAKE = {"xfs": ["mkfs.xfs", "-q"], "btrfs": ["mkfs.btrfs", "-q"]}


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clones", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="35 GiB are needed there")
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="clones of two disks")
    parser.add_argument("--only", choices=["stall", "delta"])
    parser.add_argument("--data-gib", type=int, default=12, metavar="N", help="how full the large disk is")
    parser.add_argument("--sample", default="0.1%", help="as in the configuration; 0%% for none")
    asked = parser.parse_args()
    for kind in _MAKE:
        if asked.only != "delta":
            with _mounted(kind, asked.directory) as where:
                asyncio.run(_stall(kind, where, asked.rounds))
    if asked.only != "stall":
        with _mounted("xfs", asked.directory) as where:
            asyncio.run(_deltas(where, asked.sample, asked.data_gib * _GIB))
    return 0


@contextmanager
def _mounted(kind: str, directory: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="replicad-clones-", dir=directory) as made:
        image, where = Path(made, "image"), Path(made, "mnt")
        where.mkdir()
        with image.open("wb") as file:
            file.truncate(100 * _GIB)
        subprocess.run([*_MAKE[kind], str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(where)], check=True)
        try:
            yield where
        finally:
            subprocess.run(["umount", str(where)], check=True)


async def _stall(kind: str, where: Path, rounds: int) -> None:
    """Two disks of 8 GiB, a piece of 4 KiB written in each 400 KiB: 20,971 pieces each."""
    share = LocalShare(str(where))
    names = ["disk 1.vhdx", "disk 2.vhdx"]
    piece = Random(1).randbytes(4096)
    for name in names:
        with (where / name).open("wb") as file:
            file.truncate(8 * _GIB)
            for at in range(0, 8 * _GIB, 400 << 10):
                os.pwrite(file.fileno(), piece, at)
            os.fsync(file.fileno())
    took_ms: list[float] = []
    forecasts: tuple[CloneForecast, ...] = ()
    for _ in range(rounds):
        for name in names:  # a guest that goes on: each clone unshares some
            with (where / name).open("r+b") as file:
                for at in Random(len(took_ms)).sample(range(0, 8 * _GIB, 400 << 10), 200):
                    os.pwrite(file.fileno(), piece, at)
        async with await share.clones(names) as clones:
            forecasts = await clones.forecast()
            began_s = time.perf_counter()
            await clones.take()
            took_ms.append((time.perf_counter() - began_s) * 1000)
    await share.close()
    extents = sum(forecast.extents for forecast in forecasts)
    cuts = statistics.quantiles(took_ms, n=100)
    predicted_ms = sum(f.stall_s for f in forecasts) * 1000
    print(
        f"{kind}: clones of two disks with {extents} extents together, {rounds} times: p50 {cuts[49]:.0f} ms, p99 "
        f"{cuts[98]:.0f} ms, max {max(took_ms):.0f} ms; {cuts[49] * 1000 / extents:.1f} µs an extent; predicted "
        f"{predicted_ms:.0f} ms"
    )


async def _deltas(where: Path, sample: str, data_bytes: int) -> None:
    small, large = (
        _Machine(where, "small", 8 * _GIB, _GIB, sample),
        _Machine(where, "large", 64 * _GIB, data_bytes, sample),
    )
    for machine in (small, large):
        await machine.sync()
        await machine.delta()  # once, so that no cache is cold
    rounds = [[await machine.delta() for machine in (small, large)] for _ in range(7)]
    whole: list[_Took] = []
    for _ in range(2):
        share = LocalShare(str(large.source))
        await drop_clones(share)
        await share.close()
        whole.append(await large.delta())
    for machine, times in zip((small, large), zip(*rounds, strict=True), strict=True):
        seconds = [took.seconds for took in times]
        print(f"64 MiB changed in {machine.about}: {_middle(times)} ({min(seconds):.2f} to {max(seconds):.2f} s)")
    print(f"the same with all of {large.about} read: {min(whole, key=lambda took: took.seconds)}")
    ratios = [took[1].seconds / took[0].seconds for took in rounds]
    shorter = [min(took.seconds for took in whole) / took[1].seconds for took in rounds]
    print(
        f"the large one took {statistics.median(ratios):.2f} times as long as the small one, and reading all of it "
        f"{statistics.median(shorter):.0f} times as long as that"
    )


@dataclass(frozen=True, slots=True)
class _Took:
    """What a cycle took: time, processor time of all of this process, and what it read of the disk."""

    seconds: float
    processor_s: float
    read_bytes: int

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s, {self.processor_s:.2f} s of processor time, {self.read_bytes // _MIB} MiB read"


def _middle(all_of: Sequence[_Took]) -> _Took:
    return _Took(
        statistics.median(took.seconds for took in all_of), statistics.median(took.processor_s for took in all_of),
        round(statistics.median(took.read_bytes for took in all_of)),
    )  # fmt: skip


class _Machine:
    """A machine whose disk has data in a part of it, spread over all of it."""

    def __init__(self, where: Path, name: str, size_bytes: int, data_bytes: int, sample: str) -> None:
        self._name, self._random = name, Random(name)
        self.about = f"a disk of {size_bytes // _GIB} GiB with {data_bytes // _GIB} GiB of data"
        self.source = where / name
        replica = where / f"{name} replica"
        for directory in (self.source, replica):
            directory.mkdir()
        self._disk = self.source / "disk.vhd"
        block = self._random.randbytes(8 * _MIB)
        self._step = size_bytes // (data_bytes // len(block))
        with self._disk.open("wb") as file:
            file.truncate(size_bytes)
            self._places = list(range(0, size_bytes, self._step))
            for number, at in enumerate(self._places):
                os.pwrite(file.fileno(), number.to_bytes(8, "big") + block[8:], at)
            os.fsync(file.fileno())
        self._config = where / f"{name}.yaml"
        self._config.write_text(
            f"state_dir: '{where}/{name} state'\nvirtual_machines:\n  {name}:\n    source: '{self.source}'\n"
            f"    replica: '{replica}'\n    disks: [disk.vhd]\n    consistency: {{method: reflink, sample: {sample}}}\n"
        )

    def change(self) -> None:
        """64 MiB, in 64 pieces."""
        with self._disk.open("r+b") as file:
            for at in self._random.sample(self._places, 64):
                os.pwrite(file.fileno(), self._random.randbytes(_MIB), at)
            os.fsync(file.fileno())

    async def sync(self) -> _Took:
        """A cycle as the daemon does it, in this process."""
        os.sync()  # what others have to bring to the disk is not a part of it
        settings = load(self._config, {})
        async with surroundings(settings.state_dir, nobody) as ctx:
            began_s, used_s = time.perf_counter(), time.process_time()
            async with Shares(settings) as shares:
                machine = await open_machine(settings.machine(self._name), shares, ctx)
                report = await replicate_with_retries(machine.job, machine.source, machine.replica, ctx)
            read_bytes = report.statistics.scanned_bytes
            return _Took(time.perf_counter() - began_s, time.process_time() - used_s, read_bytes)

    async def delta(self) -> _Took:
        """What a cycle takes after a change."""
        self.change()
        return await self.sync()


if __name__ == "__main__":
    raise SystemExit(main())
