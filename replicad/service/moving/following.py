"""A configuration whose machines were moved: it follows them, and the user's file stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from replicad.model.address import Address, LocalAddress, parse_address
from replicad.model.moved_sources import MovedSource
from replicad.settings import Settings, VirtualMachine

_LOCAL_ONLY = ("reflink", "qemu")


def followed(settings: Settings, moved: Mapping[str, MovedSource]) -> Settings:
    """The same with the sources that machines have since they were moved, as long as the file says one of the former
    ones. Their replicas, which were made from those, are gone on with."""
    machines = {name: _followed(one, moved.get(name), settings) for name, one in settings.virtual_machines.items()}
    return replace(settings, virtual_machines=MappingProxyType(machines))


def what_to_change(settings: Settings) -> dict[str, str]:
    """For each machine that is elsewhere than the file says: a sentence on which line to change."""
    return {
        machine.name: f"{machine.name} was moved, and {settings.file}:{machine.source_line} says where it was: write "
        f"'source: {machine.moved_to}' there; until then it is replicated from {machine.source} all the same"
        for machine in settings.virtual_machines.values()
        if machine.moved_to is not None
    }


def _followed(machine: VirtualMachine, moved: MovedSource | None, settings: Settings) -> VirtualMachine:
    if moved is None:
        return machine
    typed, now = machine.source, parse_address(moved.source)
    source = _as_replicated(now, machine, settings)
    if typed in (now, source):
        return replace(machine, moved_from=moved.former)
    if str(typed) not in moved.former:
        return machine  # somebody has said something else since
    return replace(machine, source=source, moved_from=moved.former, moved_to=str(source))


def _as_replicated(address: Address, machine: VirtualMachine, settings: Settings) -> Address:
    """Methods that work with files of this host read a share where it is mounted."""
    if machine.consistency.method not in _LOCAL_ONLY or isinstance(address, LocalAddress):
        return address
    mounted = settings.seen_at(address)
    return address if mounted is None else LocalAddress(mounted)
