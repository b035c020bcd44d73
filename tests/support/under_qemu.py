"""A virtual machine whose disks a real QEMU has open, replicated as the service does it, by processes that may die."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from replicad.hypervisor.qemu.leftovers import prefix_of
from replicad.model.errors import ReplicadError
from replicad.model.points import Consistency, Provenance
from replicad.replica.directory import open_replica
from replicad.service.freezing import freeze_journal
from replicad.service.qemu_source import qemu_source
from replicad.settings import VirtualMachine
from replicad.storage.local.share import LocalShare
from replicad.storage.memory import MemoryShare
from replicad.storage.port import Share
from replicad.tracking.marks import MarkStore
from replicad.tracking.port import ChangeSource
from replicad.tracking.selection import Selection
from replicad.tracking.tracked import TrackedSource
from replicad.workflows.context import Context
from replicad.workflows.list_points import list_points
from replicad.workflows.replicate import CycleReport, ReplicationJob, replicate
from tests.support.faulty import FaultyShare, crashes
from tests.support.qemu import Qemu, make_vhdx, running_qemu
from tests.support.qemu_faults import Blow, Commands, struck
from tests.support.running_machine import write_settings
from tests.support.world import CHUNK, VM, World, digests

NAMES = ("웹 디스크 🖥.vhdx", "b.vhdx")
_SIZE = "8M"
_SIZE_CHUNKS = 128
_MOST_WRITTEN_CHUNKS = 10


@dataclass
class UnderQemu(World):
    """A world whose source are disks that a QEMU has open. What this host keeps is in `state`."""

    qemu: Qemu | None = None
    settings: VirtualMachine | None = None
    state: Share = field(default_factory=lambda: MemoryShare("state"))
    turn: int = 0
    prefix: str = ""

    def context(self, cache: Share | None = None) -> Context:
        return replace(super().context(cache), state=self.state)

    def change_source(self) -> ChangeSource:
        assert self.settings is not None
        ctx = self.context()
        selection = Selection(("*.vhdx",), (), ())
        view, tracker = qemu_source(self.settings, self.source, selection, freeze_journal(ctx), ctx)
        return TrackedSource(view, tracker, MarkStore(self.state), ctx.clock, self.events.append)

    async def cycle(self) -> CycleReport:
        assert self.settings is not None
        before = self.bytes_now()
        await freeze_journal(self.context()).undo_left(VM)
        job = ReplicationJob(VM, self.source.name, CHUNK, False, None, 0.001)
        report = await replicate(job, self.change_source(), self.replica, self.context())
        self.history[report.point.number] = before
        return report

    async def struck_cycle(self, number: int, blow: Blow) -> list[str]:
        """A cycle with a blow at its nth command, by a process that ends then; all commands that it gave."""
        assert self.qemu is not None
        replica, state, before = self.replica, self.state, self.bytes_now()
        assert isinstance(replica, MemoryShare)
        assert isinstance(state, MemoryShare)
        commands = Commands(self.qemu, number, blow)
        parts = [FaultyShare(replica), FaultyShare(state)]
        commands.ours += parts
        self.replica, self.state = parts
        try:
            with struck(commands):
                await crashes(self._told())
        finally:
            replica.die()
            state.die()
            self.replica, self.state = replica.view(), state.view()
        for number in await self._numbers():
            self.history.setdefault(number, before)
        return commands.log

    async def _told(self) -> None:
        failed: ReplicadError | None = None
        try:
            await self.cycle()
        except ReplicadError as error:
            failed = error
        assert failed is None or (failed.op and failed.answer and "\n" not in str(failed))

    async def _numbers(self) -> list[int]:
        return [point.number for point in (await list_points(self.replica, VM)).points]

    def bytes_now(self) -> dict[str, bytes]:
        return {name: (Path(self.source.name) / name).read_bytes() for name in NAMES}

    async def write(self) -> None:
        """What a guest does between two cycles."""
        assert self.qemu is not None
        if self.is_dead:
            return
        self.turn += 1
        for disk in ("disk0", "disk1"):
            at = self.random.randrange(_SIZE_CHUNKS - _MOST_WRITTEN_CHUNKS) * CHUNK
            await self.qemu.own.io(
                disk,
                f"write -P {1 + self.turn % 254} {at} {self.random.randrange(1, _MOST_WRITTEN_CHUNKS * 16) * 4096}",
            )
            await self.qemu.own.io(disk, "flush")

    async def check_points(self) -> None:
        for point in (await list_points(self.replica, VM)).points:
            assert point.consistency in (Consistency.CRASH, Consistency.COLD)
            wanted = digests(self.history[point.number])
            if point.number < max(self.history) - 3:
                continue  # it was looked at before, and undoing is not what this is about
            assert digests(await self.restored(point.number)) == wanted, f"point {point.number} is not what it was"

    async def check_nothing_is_left(self, *, bitmaps: int) -> None:
        assert self.qemu is not None
        own = self.qemu.own
        assert await own.status() == "running"
        assert not [name for name in await own.names() if name.startswith("replicad-")]
        assert await own.execute("query-block-exports") == []
        assert await own.execute("query-fdsets") == []
        assert len(await own.bitmaps()) == 2 * bitmaps
        assert sorted(path.name for path in Path(self.source.name).iterdir()) == sorted(NAMES)
        self.check_files()

    def check_files(self) -> None:
        """Of sockets and journals."""
        assert not list(Path(tempfile.gettempdir()).glob(f"{self.prefix}nbd-*"))

    @property
    def is_dead(self) -> bool:
        assert self.qemu is not None
        return self.qemu.process.returncode is not None


@asynccontextmanager
async def under_qemu(directory: Path) -> AsyncIterator[UnderQemu]:
    """Two points of two disks, tracked; the machine has written since."""
    seed = secrets.randbits(64)  # of which the replica's name in QEMU comes, and nobody else must have that
    home = directory / secrets.token_hex(4)
    source = home / "source"
    source.mkdir(parents=True)
    disks = [make_vhdx(source / name, _SIZE) for name in NAMES]
    async with running_qemu(disks) as qemu:
        settings = write_settings(
            home, source, home, f"{{method: qemu, monitor: '{qemu.monitor}', wait: 1s, keep_free: 1M}}"
        )
        with ThreadPoolExecutor(2, "hash") as hashing:
            world = UnderQemu(
                LocalShare(str(source)), MemoryShare("replica"), hashing, seed=seed, qemu=qemu,
                settings=settings.machine(VM),
            )  # fmt: skip
            world.time = type(world.time)(tick_s=0.01)
            await world.write()
            first = await world.cycle()
            replica = await open_replica(world.replica, VM)
            assert replica is not None
            world.prefix = prefix_of(replica.record.replica_id[:16])
            await world.write()
            report = await world.cycle()
            assert first.provenance == Provenance.FULL_SCAN.value
            assert report.provenance == Provenance.DIRTY_BITMAP.value, report.tracking
            await world.write()
            yield world
