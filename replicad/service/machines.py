"""Tying one configured virtual machine to the workflows: its source, its replica's share, its job."""

from __future__ import annotations

from dataclasses import dataclass

from replicad.model.address import LocalAddress
from replicad.model.errors import UnsupportedError
from replicad.replica.layout import check_disk_path
from replicad.settings import VirtualMachine
from replicad.storage.port import Share
from replicad.tracking.clones import CloneView
from replicad.tracking.extents import ExtentTracker
from replicad.tracking.held import HeldView
from replicad.tracking.marks import MarkStore
from replicad.tracking.port import ChangeSource, Tracker, View
from replicad.tracking.selection import Selection
from replicad.tracking.tracked import TrackedSource
from replicad.tracking.unchanged import UnchangedFileTracker
from replicad.workflows.context import Context
from replicad.workflows.replicate import ReplicationJob

from .compose import Shares
from .freezing import command_freezer, command_view, freeze_journal
from .qemu_source import qemu_source


@dataclass(frozen=True, slots=True)
class Machine:
    """One virtual machine, ready for the workflows."""

    job: ReplicationJob
    source: ChangeSource
    replica: Share


async def open_source(settings: VirtualMachine, shares: Shares, ctx: Context) -> ChangeSource:
    """Where the VM's disks come from, by its consistency method. What an earlier cycle of it left frozen is thawed
    first; raises what that raises."""
    share = await shares.open(settings.source, vm=settings.name)
    selection = Selection(settings.disks, settings.exclude, settings.config_files)
    consistency = settings.consistency
    journal = freeze_journal(ctx)
    await journal.undo_left(settings.name)
    view: View
    tracker: Tracker | None = None
    match consistency.method:
        case "none":
            view = HeldView(share, selection, check_disk_path, consistency.wait_s, consistency.allow_fuzzy, ctx.clock)
            # Samba shows the write time as the change time, too, and that can be set back: no server is believed here.
            tracker = UnchangedFileTracker(ctx.clock) if isinstance(settings.source, LocalAddress) else None
        case "command":
            view = command_view(settings, share, selection, journal, shares, ctx)
        case "reflink":
            freezer = command_freezer(settings, share, selection, journal, ctx)
            view = CloneView(
                share, selection, check_disk_path, freezer, consistency.wait_s, consistency.allow_fuzzy,
                consistency.max_stall_ms / 1000, ctx.hashing, ctx.clock, consistency.keep_free.of,
            )  # fmt: skip
            tracker = ExtentTracker(share, consistency.keep_free.of, ctx.new_id, ctx.hashing, ctx.observe)
        case "qemu":
            view, tracker = qemu_source(settings, share, selection, journal, ctx)
        case method:
            raise UnsupportedError("replicate", settings.name, f"the method {method} is not built yet")
    marks = None if ctx.cache is None else MarkStore(ctx.cache)
    return TrackedSource(view, tracker, marks, ctx.clock, ctx.observe, consistency.application_every_s)


async def open_machine(settings: VirtualMachine, shares: Shares, ctx: Context, *, resync: bool = False) -> Machine:
    """Open both of the VM's shares. Raises what connecting raises."""
    job = ReplicationJob(
        settings.name, str(settings.source), settings.chunk_size_bytes, resync, settings.keep,
        settings.consistency.sample, settings.moved_from,
    )  # fmt: skip
    source = await open_source(settings, shares, ctx)
    return Machine(job, source, await shares.open_replica(settings))
