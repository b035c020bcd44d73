"""Tying the user's own commands of a machine, and the journal of what they freeze, to what works with them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from replicad.hypervisor.command.freezing import CommandFreezer
from replicad.hypervisor.command.running import UNDO_KIND, undo_command
from replicad.hypervisor.command.snapshots import CommandSnapshots
from replicad.hypervisor.command.switching import SWITCH_UNDO_KIND, undo_switch
from replicad.hypervisor.qemu.freezer import UNDO_KIND as QEMU_UNDO_KIND
from replicad.hypervisor.thawing import FreezeJournal
from replicad.model.names import path_on
from replicad.model.points import FileKind
from replicad.replica.layout import check_disk_path
from replicad.settings import VirtualMachine
from replicad.storage.port import Share
from replicad.tracking.frozen import FrozenView
from replicad.tracking.port import View
from replicad.tracking.selection import Selection, select_files
from replicad.tracking.snapshots import SnapshotView
from replicad.workflows.context import Context

from .compose import Shares
from .qemu_source import undo_qemu


def freeze_journal(ctx: Context) -> FreezeJournal:
    """The journal of this host, with all that can be frozen."""
    undo = {
        UNDO_KIND: undo_command(ctx.observe),
        SWITCH_UNDO_KIND: undo_switch(ctx.observe),
        QEMU_UNDO_KIND: undo_qemu,
    }
    return FreezeJournal(ctx.state, ctx.holder, ctx.clock, undo, ctx.observe)


def command_freezer(
    settings: VirtualMachine, share: Share, selection: Selection, journal: FreezeJournal, ctx: Context
) -> CommandFreezer | None:
    """The machine's own `freeze` and `thaw`, if it has them."""
    commands = settings.consistency.commands
    if commands.freeze is None or commands.thaw is None:
        return None

    async def disks() -> Sequence[str]:
        found = await select_files(share, selection, check_disk_path)
        return [path_on(share.name, one.path) for one in found if one.kind is FileKind.DISK]

    return CommandFreezer(
        settings.name, commands.freeze, commands.thaw, settings.consistency.timeout_s, journal, disks, ctx.observe
    )


def command_view(
    settings: VirtualMachine,
    share: Share,
    selection: Selection,
    journal: FreezeJournal,
    shares: Shares,
    ctx: Context,
) -> View:
    """What the machine's own commands show: a snapshot, or its disks while it is frozen."""
    consistency = settings.consistency
    freezer = command_freezer(settings, share, selection, journal, ctx)
    if consistency.commands.snapshot is None:
        if freezer is None:
            raise ValueError(f"{settings.name} has neither a snapshot command nor freeze and thaw")
        return FrozenView(share, selection, check_disk_path, freezer, ctx.clock)
    snapshots = CommandSnapshots(
        settings.name, consistency.commands.snapshot, consistency.commands.release, consistency.timeout_s, freezer,
        journal, ctx.clock, ctx.observe,
    )  # fmt: skip
    open_share = partial(shares.open, vm=settings.name)
    return SnapshotView(share, selection, check_disk_path, snapshots, open_share, consistency.allow_fuzzy)
