"""Tying a machine that a local QEMU runs to what sees its disks: clones where the file system has them, else QEMU's
own snapshots; its bitmaps tell what changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from replicad.hypervisor.qemu.agent import Agent
from replicad.hypervisor.qemu.bitmaps import BitmapTracker
from replicad.hypervisor.qemu.exports import Exports
from replicad.hypervisor.qemu.freezer import DisksBelow, QemuFreezer, undo_freeze
from replicad.hypervisor.qemu.monitor import Monitor
from replicad.hypervisor.qemu.snapshots import QemuSnapshots
from replicad.hypervisor.thawing import FreezeJournal
from replicad.model.address import LocalAddress
from replicad.model.points import FileKind
from replicad.replica.layout import check_disk_path
from replicad.settings import VirtualMachine
from replicad.storage.decorated import cloning
from replicad.storage.port import Share
from replicad.tracking.clones import CloneView
from replicad.tracking.either import EitherView
from replicad.tracking.held import HeldView
from replicad.tracking.live import LiveView
from replicad.tracking.port import Tracker, View
from replicad.tracking.selection import Selection, select_files
from replicad.workflows.context import Context

_COMMAND_TIMEOUT_S = 30.0
"""For one command to QEMU: it may have to write out what its disks have pending."""


def qemu_source(
    settings: VirtualMachine, share: Share, selection: Selection, journal: FreezeJournal, ctx: Context
) -> tuple[View, Tracker]:
    """How a machine's disks are seen, and what tells of their changes. Nobody is connected to yet."""
    consistency = settings.consistency
    if consistency.monitor is None or not isinstance(settings.source, LocalAddress):
        raise ValueError(f"{settings.name} has no monitor, or its source is not on this host")
    monitor = Monitor(consistency.monitor, _COMMAND_TIMEOUT_S)
    socket = consistency.guest_agent
    agent = None if socket is None else Agent(monitor.executor, socket, consistency.timeout_s)
    exports, directory = Exports(monitor), settings.source.path

    async def disks() -> Sequence[str]:
        return [one.path for one in await select_files(share, selection, check_disk_path) if one.kind is FileKind.DISK]

    freezer = QemuFreezer(monitor, agent, journal, settings.name, ctx.observe)
    freezer_of_all = QemuFreezer(
        monitor, agent, journal, settings.name, ctx.observe, DisksBelow(share, directory, disks)
    )  # fmt: skip
    snapshots = QemuSnapshots(monitor, exports, freezer, directory, _room(settings, share), ctx.clock)
    held = HeldView(share, selection, check_disk_path, consistency.wait_s, consistency.allow_fuzzy, ctx.clock)
    clones = CloneView(
        share, selection, check_disk_path, freezer_of_all, consistency.wait_s, consistency.allow_fuzzy,
        consistency.max_stall_ms / 1000, ctx.hashing, ctx.clock, consistency.keep_free.of,
    )  # fmt: skip
    return EitherView(clones, LiveView(snapshots, freezer, held)), BitmapTracker(monitor, exports, directory)


async def undo_qemu(vm: str, how: Mapping[str, str]) -> None:
    """Have a machine go on that a process which died had stopped or frozen."""
    await undo_freeze(how, _COMMAND_TIMEOUT_S)


def _room(settings: VirtualMachine, share: Share) -> Callable[[], Awaitable[str]]:
    async def short() -> str:
        room = await cloning(share).room()
        wanted = settings.consistency.keep_free.of(room.total_bytes)
        if room.free_bytes >= wanted:
            return ""
        return f"{room.free_bytes} bytes are free, and 'keep_free' asks for {wanted}"

    return short
