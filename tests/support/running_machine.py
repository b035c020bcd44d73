"""A machine that runs and writes while it is replicated, with all that has to be told of each of its points."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from replicad.model.address import LocalAddress
from replicad.model.progress import PhaseStarted, ProgressEvent, Warned
from replicad.service.compose import Shares
from replicad.service.machines import open_machine
from replicad.service.surroundings import surroundings
from replicad.settings import Settings, VirtualMachine, load_settings
from replicad.workflows.replicate import CycleReport
from replicad.workflows.restore import restore
from replicad.workflows.retries import replicate_with_retries
from tests.support.guest import Checked, Gaps, Guest, check_disk, make_disk

VM = "웹 서버 🖥"
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Cycle:
    """One cycle beside a running guest. `durable` is the last record that was on the guest's disks for good before the
    view was asked for; `gaps` are those between its heartbeats meanwhile, and `longest_gap_s` the longest."""

    report: CycleReport
    durable: int
    began_s: float
    ended_s: float
    gaps: Gaps
    longest_gap_s: float
    warnings: tuple[str, ...]


@dataclass
class RunningMachine:
    """A guest with its disks in `source`, replicated below `root`."""

    settings: Settings
    machine: VirtualMachine
    guest: Guest
    disks: tuple[str, ...]
    """Their names, in the guest's order."""
    root: Path
    cycles: dict[int, Cycle] = field(default_factory=dict)

    async def sync(self) -> Cycle:
        """One cycle, as `replicad sync --standalone` runs it."""
        durable, warnings = self.guest.durable().number, []
        began_s = time.monotonic()

        def hear(event: ProgressEvent) -> None:
            nonlocal durable
            if isinstance(event, PhaseStarted) and event.name == "holding the source":
                durable = self.guest.durable().number
            elif isinstance(event, Warned):
                warnings.append(event.text)

        async with surroundings(self.settings.state_dir, hear) as ctx, Shares(self.settings, observe=hear) as shares:
            opened = await open_machine(self.machine, shares, ctx)
            report = await replicate_with_retries(opened.job, opened.source, opened.replica, ctx)
        ended_s = time.monotonic()
        cycle = Cycle(
            report, durable, began_s, ended_s, self.guest.gaps(began_s, ended_s),
            self.guest.longest_gap(began_s, ended_s), tuple(warnings),
        )  # fmt: skip
        self.cycles[report.point.number] = cycle
        return cycle

    async def restored(self, number: int) -> tuple[Path, ...]:
        """The disks of a point, in the guest's order, in a directory of their own."""
        target = self.root / f"restored {number}"
        target.mkdir()
        async with surroundings(None, lambda event: None) as ctx, Shares(self.settings) as shares:
            replica = await shares.open_replica(self.machine)
            into = await shares.open(LocalAddress(str(target)))
            await restore(replica, VM, number, into, ctx)
        return tuple(target / disk for disk in self.disks)

    async def checked(self, number: int) -> Checked:
        """What the disks of a point hold, once their journals are replayed."""
        return check_disk(await self.restored(number))


def write_settings(root: Path, source: Path, replica: Path, consistency: str, *, disks: str = "*.vhdx") -> Settings:
    """A configuration of one machine that is replicated when asked for."""
    file = root / "replicad.yaml"
    file.write_text(
        f"state_dir: {root}/state\n"
        f"virtual_machines:\n"
        f"  {VM}:\n"
        f"    source: '{source}'\n"
        f"    disks: ['{disks}']\n"
        f"    replica: '{replica}'\n"
        f"    keep: {{latest: 1000}}\n"
        f"    consistency: {consistency}\n",
        encoding="utf-8",
    )
    return load_settings(file)


def make_disks(directory: Path, count: int, size_bytes: int = 256 * _MIB) -> tuple[Path, ...]:
    """New disks for a guest."""
    names = ("웹 시스템.vhdx", "데이터 📦.vhdx", "third.vhdx")[:count]
    return tuple(make_disk(directory / name, size_bytes) for name in names)


@asynccontextmanager
async def replicated(
    settings: Settings, guest: Guest, disks: Sequence[Path], root: Path
) -> AsyncIterator[RunningMachine]:
    """The machine of `settings`, whose guest runs on these disks. In the end the guest must have met no error."""
    yield RunningMachine(settings, settings.machine(VM), guest, tuple(disk.name for disk in disks), root)
    assert guest.io_errors == []
