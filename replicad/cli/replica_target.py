"""Which replica a verb is about: that of a configured virtual machine, or the one that `--replica` names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicad.model.address import Address, LocalAddress, SmbAddress, parse_address
from replicad.model.errors import ConfigError
from replicad.model.names import last_part, parent, printable
from replicad.model.progress import Observer, Warned

from .options import SignIn, load_configuration, load_configuration_if_any

if TYPE_CHECKING:
    from replicad.model.timetable import Timetable
    from replicad.service.compose import OneOffCredentials, Shares
    from replicad.settings import Settings, VirtualMachine
    from replicad.storage.port import Share
    from replicad.workflows.context import Context


@dataclass(frozen=True, slots=True)
class ReplicaTarget:
    """`share` is what the replica's directory `vm_dir` lies in; `machine` is None if only the replica is known."""

    settings: Settings | None
    machine: VirtualMachine | None
    share: Address
    vm_dir: str

    @property
    def vm(self) -> str | None:
        """The name of the configured virtual machine, whose bandwidth limit holds."""
        return self.machine.name if self.machine is not None else None


def find_target(vm: str | None, replica: str | None, config: Path | None) -> ReplicaTarget:
    """Exactly one of VM and `--replica` must be given. Raises click.UsageError, ConfigError, NotFoundError."""
    if replica is not None:
        address = locate_replica(replica)
        needs_servers = isinstance(address, SmbAddress) or config is not None
        settings = _configuration_if_of_use(config) if needs_servers else None
        share, vm_dir = _split(address, replica)
        if vm is not None and vm != vm_dir:
            raise click.UsageError(f"give VM or --replica: {replica!r} is the replica of {vm_dir!r}, not of {vm!r}")
        return ReplicaTarget(settings, None, share, vm_dir)
    if vm is None:
        raise click.UsageError("say which virtual machine: its name, or --replica SHARE/VM")
    settings = load_configuration(config)
    machine = settings.machine(vm)
    return ReplicaTarget(settings, machine, machine.replica, machine.name)


def _configuration_if_of_use(config: Path | None) -> Settings | None:
    """A configuration that nobody named must not be in the way of a recovery: that it can't be used is a warning."""
    from .progress import say_warning

    try:
        return load_configuration_if_any(config)
    except ConfigError as error:
        if config is not None or os.environ.get("REPLICAD_CONFIG"):
            raise
        say_warning(Warned(f"going on without the configuration, which can't be used: {error}"))
        return None


def locate_replica(text: str) -> Address:
    """The directory that somebody typed; a local one may be relative. Raises ConfigError."""
    if text.startswith(("\\\\", "//")) or text.lower().startswith("smb://"):
        return parse_address(text)
    if text.startswith("\\"):
        # What a shell leaves of \\nas\share without quotes. Taken for a directory, files would go nobody knows where.
        hint = r"Put it in quotes, so that the shell leaves its backslashes alone: '\\server\share\directory'."
        raise ConfigError("read", f"address {printable(text)}", "it begins with a single backslash", hint)
    return LocalAddress(os.path.realpath(text)) if text else parse_address(text)


def _split(address: Address, text: str) -> tuple[Address, str]:
    path = address.path
    if not path.strip("/"):
        raise ConfigError("use", f"replica {text!r}", "it names no virtual machine's directory", "Write SHARE/VM.")
    if isinstance(address, SmbAddress):
        return SmbAddress(address.server, address.share, parent(path)), last_part(path)
    return LocalAddress(parent(path) or "/"), last_part(path)


@dataclass(frozen=True, slots=True)
class OpenTarget:
    """The target's share, open, and what workflows and other shares need."""

    share: Share
    shares: Shares
    context: Context


@asynccontextmanager
async def open_target(
    target: ReplicaTarget,
    credentials: OneOffCredentials | None,
    observe: Observer,
    bandwidth: Timetable | None = None,
    *,
    reads_source: bool = False,
) -> AsyncIterator[OpenTarget]:
    """Connect to the target's share for as long as the context lasts, with a limit of its own if one was typed.
    To read the source the state directory may be needed: what is frozen for it is written down there.
    OtherMachineError if the replica there is that of another virtual machine than the configured one."""
    from replicad.replica.directory import check_is_replica_of
    from replicad.service.compose import Shares
    from replicad.service.surroundings import surroundings

    # What else is kept on this host only helps to replicate.
    state_dir = target.settings.state_dir if reads_source and target.settings is not None else None
    opened = Shares(target.settings, credentials, observe, bandwidth=bandwidth)
    async with surroundings(state_dir, observe) as ctx, opened as shares:
        share = await shares.open(target.share, vm=target.vm, replica=True)
        if target.machine is not None:
            await check_is_replica_of(share, target.vm_dir, target.machine.name)
        yield OpenTarget(share, shares, ctx)


def credentials_for(target: ReplicaTarget, sign_in: SignIn) -> OneOffCredentials | None:
    """What was typed, or is in the environment, for the target's server; may ask on the terminal, so call it before
    progress is shown: a bar redraws the line on which the question is."""
    from .credentials import one_off_credentials
    from .progress import say_warning

    return one_off_credentials(target.share, target.settings, sign_in, os.environ, say_warning)
