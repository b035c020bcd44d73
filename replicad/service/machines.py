"""Tying one configured virtual machine to the workflows: its source, its replica's share, its job."""

from __future__ import annotations

from dataclasses import dataclass

from replicad.model.clock import Clock
from replicad.replica.layout import check_disk_path
from replicad.settings import VirtualMachine
from replicad.storage.port import Share
from replicad.tracking.held import HeldSource
from replicad.tracking.port import ChangeSource
from replicad.tracking.selection import Selection
from replicad.workflows.replicate import ReplicationJob

from .compose import Shares


@dataclass(frozen=True, slots=True)
class Machine:
    """One virtual machine, ready for the workflows."""

    job: ReplicationJob
    source: ChangeSource
    replica: Share


async def open_source(settings: VirtualMachine, shares: Shares, clock: Clock) -> ChangeSource:
    """Where the VM's disks come from, by its consistency method."""
    share = await shares.open(settings.source, vm=settings.name)
    selection = Selection(settings.disks, settings.exclude, settings.config_files)
    consistency = settings.consistency
    return HeldSource(share, selection, check_disk_path, consistency.wait_s, consistency.allow_fuzzy, clock)


async def open_machine(settings: VirtualMachine, shares: Shares, clock: Clock, *, resync: bool = False) -> Machine:
    """Open both of the VM's shares. Raises what connecting raises."""
    job = ReplicationJob(settings.name, str(settings.source), settings.chunk_size_bytes, resync, settings.keep)
    source = await open_source(settings, shares, clock)
    return Machine(job, source, await shares.open_replica(settings))
