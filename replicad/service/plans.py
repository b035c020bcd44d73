"""From a configuration to the schedules that it means."""

from __future__ import annotations

from replicad.model.schedule import Every, OnRequest, Schedule, phase_s
from replicad.settings import Settings, VirtualMachine


def schedule_of(machine: VirtualMachine) -> Schedule:
    """When its cycles are due."""
    if machine.every_s is not None:
        return Every(machine.every_s, phase_s(machine.name, machine.every_s))
    if machine.cron is not None:
        from .cron_schedule import CronSchedule

        return CronSchedule(machine.cron)
    return OnRequest()


def schedules_of(settings: Settings) -> dict[str, Schedule]:
    """Those of all machines, by name."""
    return {name: schedule_of(machine) for name, machine in settings.virtual_machines.items()}


def verification_schedules_of(settings: Settings) -> dict[str, Schedule]:
    """When verifications of all machines' replicas are due, by name; on another grid than cycles."""
    return {name: _verification_schedule(machine) for name, machine in settings.virtual_machines.items()}


def _verification_schedule(machine: VirtualMachine) -> Schedule:
    every_s = machine.verify_every_s
    return OnRequest() if every_s is None else Every(every_s, phase_s(f"{machine.name}/verify", every_s))


def changed_machines(before: Settings, after: Settings) -> frozenset[str]:
    """The machines that are in both and that another cycle would be run differently for: by what is said of
    themselves, or of the servers."""
    both = before.virtual_machines.keys() & after.virtual_machines.keys()
    if before.servers != after.servers:
        return frozenset(both)
    return frozenset(vm for vm in both if before.virtual_machines[vm] != after.virtual_machines[vm])
