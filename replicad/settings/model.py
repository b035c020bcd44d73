"""The configuration as the rest of the program sees it: plain frozen values, already checked. Pure.

`load_settings` is the only place that makes these from a file; what it promises is said at each field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from replicad.model.address import Address, LocalAddress
from replicad.model.errors import NotFoundError
from replicad.model.names import folded
from replicad.model.retention import Keep
from replicad.model.timetable import Timetable

from .cron import Cron

DEFAULT_DISKS = ("*.vhdx", "*.avhdx", "*.vhd")
DEFAULT_CONFIG_FILES = ("*.vmcx", "*.vmrs", "*.vmgs", "*.xml")
DEFAULT_PORT = 445
DEFAULT_CONNECTIONS = 2
DEFAULT_CONCURRENT = 4
DEFAULT_MOVES = 2
DEFAULT_HOOK_TIMEOUT_S = 30
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "text", "json")
DEFAULT_SAMPLE = 0.001
DEFAULT_KEEP_FREE = 0.05
DEFAULT_MAX_STALL_MS = 1_000
DEFAULT_COMMAND_TIMEOUT_S = 30
DEFAULT_QUIET_S = 5
DEFAULT_AT_MOST_EVERY_S = 60


@dataclass(frozen=True, slots=True)
class Server:
    r"""An SMB server. `name` is the one in `\\name\share`; `username` is None for Kerberos.

    With a `username` exactly one of `password_file` and `password_command` is given, without one neither. `mounts` are
    the directories of this host at which its shares are mounted, by their names.
    """

    name: str
    host: str
    port: int = DEFAULT_PORT
    username: str | None = None
    password_file: Path | None = None
    password_command: tuple[str, ...] | None = None
    encryption_required: bool = True
    connections: int = DEFAULT_CONNECTIONS
    mounts: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Room:
    """Room on a file system: so many bytes, or such a part of all there are (0 to 1), whichever is given."""

    size_bytes: int | None = None
    part: float | None = None

    def of(self, total_bytes: int) -> int:
        """In bytes, on a file system of this size."""
        return self.size_bytes if self.size_bytes is not None else round(total_bytes * (self.part or 0.0))


@dataclass(frozen=True, slots=True)
class Commands:
    """The user's own programs with their arguments, each to be run without a shell. They may hold a secret."""

    freeze: tuple[str, ...] | None = field(default=None, repr=False)
    thaw: tuple[str, ...] | None = field(default=None, repr=False)
    snapshot: tuple[str, ...] | None = field(default=None, repr=False)
    release: tuple[str, ...] | None = field(default=None, repr=False)
    switch: tuple[str, ...] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Consistency:
    """How a point-in-time view is got, and how changes become known. Only methods that are built get here.

    `freeze` and `thaw` come together. A `switch` comes with both. `command` has both or a `snapshot`; `qemu` has a
    `monitor`, a socket.
    """

    method: str = "none"
    allow_fuzzy: bool = False
    wait_s: int = 30
    application_every_s: int | None = None
    """How often the guest is quiesced, where it can be; None: for every point."""
    sample: float = DEFAULT_SAMPLE
    """Which part of what a tracker called unchanged is looked at all the same, 0 to 1."""
    keep_free: Room = field(default_factory=lambda: Room(part=DEFAULT_KEEP_FREE))
    """With less room than that at the source nothing is kept there for the next cycle."""
    max_stall_ms: int = DEFAULT_MAX_STALL_MS
    """How long the machine's writes may have to wait for the view."""
    monitor: Path | None = None
    guest_agent: Path | None = None
    commands: Commands = field(default_factory=Commands)
    timeout_s: int = DEFAULT_COMMAND_TIMEOUT_S
    """For each of the commands, and for the guest agent."""

    @property
    def leaves_clones(self) -> bool:
        """Whether clones may be kept at the source from one cycle to the next."""
        return self.method in ("reflink", "qemu")


@dataclass(frozen=True, slots=True)
class Watching:
    """A change of a source disk is to begin a cycle: when nothing has changed for `quiet_s`, or has not stopped to for
    `at_most_every_s`, and never more often than that."""

    quiet_s: int = DEFAULT_QUIET_S
    at_most_every_s: int = DEFAULT_AT_MOST_EVERY_S


@dataclass(frozen=True, slots=True)
class HookCommand:
    """A program and its arguments, to be run without a shell. The arguments may hold a secret."""

    arguments: tuple[str, ...] = field(repr=False)

    @property
    def shown(self) -> str:
        """What may be shown of it: the program."""
        return self.arguments[0]


@dataclass(frozen=True, slots=True)
class HookUrl:
    """An http or https address to post to; a user and password stand in an https one only. It may hold a secret, in the
    path (as many chat services have it), too."""

    url: str = field(repr=False)

    @property
    def shown(self) -> str:
        """What may be shown of it: the scheme, host and port."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" + ("/…" if parts.path.strip("/") else "")


Hook = HookCommand | HookUrl


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom to tell of what happens; None: nobody. `timeout_s` is for one call."""

    on_failure: Hook | None = None
    on_success: Hook | None = None
    on_health_change: Hook | None = None
    on_move: Hook | None = None
    timeout_s: int = DEFAULT_HOOK_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the daemon's log leaves out, and how it is written: one of LOG_LEVELS and one of LOG_FORMATS."""

    level: str = "info"
    format: str = "auto"


@dataclass(frozen=True, slots=True)
class TcpAccess:
    """A loopback address on which the daemon answers beside its Unix socket, to whoever knows the token in a file."""

    host: str
    port: int
    token_file: Path

    @property
    def address(self) -> str:
        """As it stands in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """One virtual machine. At most one of `every_s` and `cron` is given; neither means: only when asked.

    `disks`, `exclude` and `config_files` are patterns for `replicad.model.names.matches`, relative to `source`.
    `replica` is what was typed; the replica's own directory is `replica_dir`.
    """

    name: str
    source: Address
    replica: Address
    disks: tuple[str, ...] = DEFAULT_DISKS
    exclude: tuple[str, ...] = ()
    config_files: tuple[str, ...] = DEFAULT_CONFIG_FILES
    every_s: int | None = None
    cron: Cron | None = None
    objective_s: int | None = None
    """How old the latest point may become, where that was said; see `rpo_s`. Never less than `every_s`."""
    consistency: Consistency = field(default_factory=Consistency)
    keep: Keep = field(default_factory=Keep)
    verify_every_s: int | None = None
    verify_bandwidth: Timetable | None = None
    """For verifications by the daemon, beside the other limits."""
    watch: Watching | None = None
    """None: only the schedule, and whoever asks, begin cycles."""
    chunk_size_bytes: int | None = None
    """A power of two from 64 KiB to 4 MiB; None to choose by the size of each disk."""
    bandwidth: Timetable | None = None
    """For this machine alone, beside that of the whole configuration; None is no limit."""

    moved_from: tuple[str, ...] = ()
    """Sources that it had before it was moved, the oldest first: its replica may have been made from one of them."""
    moved_to: str | None = None
    """`source`, if it is not what the file says, since the machine was moved."""
    source_line: int = field(default=0, compare=False)
    """The line of the file that says where the source is."""

    @property
    def rpo_s(self) -> int | None:
        """The recovery point objective: what was said, else `every_s`; None where there is neither."""
        return self.every_s if self.objective_s is None else self.objective_s

    @property
    def replica_dir(self) -> Address:
        """The directory that holds this machine's replica and nothing else."""
        return self.replica.child(self.name)


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration. The mappings are by name and can't be changed.

    `bandwidth` is for all machines together, None is no limit. `max_concurrent` cycles and
    `max_moves` moves run at a time, at most. Without
    `api` the daemon answers on its Unix socket alone.
    """

    file: Path
    state_dir: Path
    bandwidth: Timetable | None = None
    max_concurrent: int = DEFAULT_CONCURRENT
    max_moves: int = DEFAULT_MOVES
    hooks: Hooks = field(default_factory=Hooks)
    api: TcpAccess | None = None
    log: LogSettings = field(default_factory=LogSettings)
    servers: Mapping[str, Server] = field(default_factory=lambda: MappingProxyType({}))
    virtual_machines: Mapping[str, VirtualMachine] = field(default_factory=lambda: MappingProxyType({}))

    def server(self, name: str) -> Server | None:
        """The server by the name in an address, without regard to case; None if it is not described."""
        return next((s for s in self.servers.values() if folded(s.name) == folded(name)), None)

    def seen_at(self, address: Address) -> str | None:
        """The path by which programs on this host reach what is at `address`; None if they don't."""
        if isinstance(address, LocalAddress):
            return address.path
        server = self.server(address.server)
        mounts = server.mounts if server is not None else {}
        mounted = next((path for share, path in mounts.items() if folded(share) == folded(address.share)), None)
        return None if mounted is None else LocalAddress(str(mounted)).child(*address.path.split("/")).path

    def machine(self, name: str) -> VirtualMachine:
        """The virtual machine of this name; NotFoundError that lists the names there are."""
        machine = self.virtual_machines.get(name)
        if machine is None:
            names = ", ".join(sorted(self.virtual_machines)) or "none"
            raise NotFoundError(
                "find", f"virtual machine {name!r} in {self.file}", f"the configured ones are: {names}",
                "Check the name, or add it under 'virtual_machines:'.",
            )  # fmt: skip
        return machine
