"""The shape of the configuration file, in pydantic. Nothing outside this room sees these models.

Each leaf has one function of `values` that reads it, so that every complaint is ours, and a JSON Schema that
describes what people type; the texts below keys become its descriptions (see `schema`). What two keys must be to each
other is in `rules`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from replicad.model.address import Address
from replicad.model.timetable import Timetable

from . import values
from .cron import Cron, parse_cron
from .model import (
    DEFAULT_COMMAND_TIMEOUT_S,
    DEFAULT_CONCURRENT,
    DEFAULT_CONFIG_FILES,
    DEFAULT_CONNECTIONS,
    DEFAULT_DISKS,
    DEFAULT_HOOK_TIMEOUT_S,
    DEFAULT_KEEP_FREE,
    DEFAULT_MAX_STALL_MS,
    DEFAULT_MOVES,
    DEFAULT_SAMPLE,
    LOG_FORMATS,
    LOG_LEVELS,
    Hook,
    Room,
    Watching,
)
from .problems import WrongError
from .timetable import TIMETABLE_PATTERN, parse_timetable
from .units import (
    DURATION_PATTERN,
    PERCENT_PATTERN,
    SHORT_PATTERN,
    SIZE_PATTERN,
    parse_duration,
    parse_percent,
    parse_short,
)

_CRON_PATTERN = r"^\s*([0-9*,/-]+\s+){3}[0-9A-Za-z*,/-]+\s+[0-9A-Za-z*,/-]+\s*$"
_CHUNK_SIZE_PATTERN = r"^(auto|(64|128|256|512|1024|2048|4096)K(iB)?|[124]M(iB)?)$"


def _reads(read: Callable[[Any], object], schema: dict[str, Any]) -> tuple[PlainValidator, Any]:
    def validate(value: Any) -> object:
        if value is None:
            raise WrongError("this is empty", "write a value, or leave the key out")
        return read(value)

    return PlainValidator(validate), WithJsonSchema(schema)


def _text(pattern: str = "", *examples: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "minLength": 1}
    if pattern:
        schema["pattern"] = pattern
    return schema | ({"examples": list(examples)} if examples else {})


def _count(low: int, default: int) -> tuple[PlainValidator, Any]:
    return _reads(
        lambda value: values.number(value, low, values.MAX_KEPT),
        {"type": "integer", "minimum": low, "maximum": values.MAX_KEPT, "default": default},
    )


_DURATION = _text(DURATION_PATTERN, "30s", "5m", "1h30m", "7d")
_COMMAND = {
    "anyOf": [
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
        {"type": "string", "minLength": 1},
    ],
    "examples": [["pass", "show", "nas1"]],
}

Flag = Annotated[bool, *_reads(values.true_or_false, {"type": "boolean", "default": False})]
Program = Annotated[tuple[str, ...] | None, *_reads(values.command, _COMMAND)]
Path = Annotated[str | None, *_reads(values.absolute_path, _text(values.ABSOLUTE_PATTERN))]
AbsolutePath = Annotated[str, *_reads(values.absolute_path, _text(values.ABSOLUTE_PATTERN))]
Place = Annotated[
    Address, *_reads(values.address, _text(values.ADDRESS_PATTERN, r"\\nas1\vms\web01", "smb://nas1/vms", "/srv/vms"))
]
Interval = Annotated[
    int | None, *_reads(values.interval, {"anyOf": [{"const": "manual"}, _DURATION], "default": "manual"})
]
Bandwidth = Annotated[
    Timetable | None,
    *_reads(parse_timetable, _text(TIMETABLE_PATTERN, "100M", "08:00,100M 19:00,off", "Mon-08:00,1M Fri-19:00,off")),
]
Told = Annotated[
    Hook | None,
    *_reads(
        values.hook,
        {
            "anyOf": [
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
                {"type": "string", "pattern": values.URL_PATTERN},
            ],
            "examples": [["/usr/local/bin/tell", "admin"], "https://alerts.example.net/replicad"],
        },
    ),
]
Watched = Annotated[
    Watching | None,
    *_reads(
        values.watching,
        {
            "anyOf": [
                {"type": "boolean"},
                {
                    "type": "object",
                    "properties": {"quiet": _DURATION, "at_most_every": _DURATION},
                    "additionalProperties": False,
                },
            ],
            "default": False,
            "examples": [True, {"quiet": "5s", "at_most_every": "1m"}],
        },
    ),
]
Glob = Annotated[str, *_reads(values.glob, _text(values.GLOB_PATTERN, "*.vhdx"))]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class ServerGroup(_Group):
    """An SMB server that addresses name."""

    address: Annotated[
        tuple[str, int | None] | None,
        *_reads(
            values.host_port, _text(values.HOST_PORT_PATTERN, "nas1.example.net", "192.0.2.7:4450", "[2001:db8::7]:445")
        ),
    ] = None
    """Host name or IP address, with a port if it is not 445. Absent: the server's name itself."""
    port: Annotated[
        int | None,
        *_reads(
            lambda value: values.number(value, 1, 65_535),
            {"type": "integer", "minimum": 1, "maximum": 65_535, "default": 445},
        ),
    ] = None
    """TCP port, where `address` gives none."""
    username: Annotated[str | None, *_reads(values.username, _text("", r"REPLICA\svc", "svc", "svc@EXAMPLE.NET"))] = (
        None
    )
    """Who signs in. Absent: Kerberos, from the credential cache or keytab."""
    password_file: Path = None
    """File that holds the password and nothing else; only its owner should be able to read it."""
    password_command: Program = None
    """Program that prints the password, run without a shell and for at most 30 seconds."""
    encryption: Annotated[
        str,
        *_reads(
            lambda value: values.choice(value, ("required", "allowed")),
            {"enum": ["required", "allowed"], "default": "required"},
        ),
    ] = "required"
    """Whether a connection without encryption is refused, or taken if the server does not encrypt."""
    connections: Annotated[
        int,
        *_reads(
            lambda value: values.number(value, 1, 8),
            {"type": "integer", "minimum": 1, "maximum": 8, "default": DEFAULT_CONNECTIONS},
        ),
    ] = DEFAULT_CONNECTIONS
    """How many connections to the server move data at a time, each with a sign-in of its own."""
    mounts: dict[str, AbsolutePath] = {}
    """Where this host has the server's shares mounted, by the share's name: there a QEMU on this host opens disks."""


class ConsistencyGroup(_Group):
    """How a view of one moment of all disks is got, and how changes become known."""

    method: Annotated[str, *_reads(values.method, {"enum": list(values.METHODS_BUILT), "default": "none"})] = "none"
    """`none`: nobody may write while the disks are read. `reflink`: clones on XFS or btrfs. `qemu`: by QEMU's monitor.
    `command`: programs of yours."""
    allow_fuzzy: Flag = False
    """Take a point even if somebody may write meanwhile. It promises nothing."""
    wait: Annotated[int, *_reads(lambda value: parse_duration(value, min_s=0), _DURATION | {"default": "30s"})] = 30
    """How long to wait for a disk that somebody writes."""
    application_every: Annotated[int | None, *_reads(parse_duration, _DURATION)] = None
    """How often the guest is quiesced, where it can be. Absent: for every point."""
    sample: Annotated[float, *_reads(parse_percent, _text(PERCENT_PATTERN, "0.1%", "100%") | {"default": "0.1%"})] = (
        DEFAULT_SAMPLE
    )
    """Which part of what is known to be unchanged is compared all the same, in each cycle; at least 16 chunks."""
    keep_free: Annotated[
        Room, *_reads(values.room, _text(f"{SIZE_PATTERN}|{PERCENT_PATTERN}", "5%", "20G") | {"default": "5%"})
    ] = Room(part=DEFAULT_KEEP_FREE)
    """With less room than that at the source nothing is kept there for the next cycle."""
    max_stall: Annotated[
        int,
        *_reads(
            lambda value: parse_short(value, max_ms=values.MAX_STALL_MS),
            _text(SHORT_PATTERN, "200ms", "1s") | {"default": "1s"},
        ),
    ] = DEFAULT_MAX_STALL_MS
    """How long the machine's writes may have to wait for the view."""
    monitor: Path = None
    """The machine's QMP socket."""
    guest_agent: Path = None
    """The socket of the QEMU guest agent in the machine."""
    freeze: Program = None
    """Program that has the machine let its disks stand still, run without a shell."""
    thaw: Program = None
    """Program that has it go on."""
    snapshot: Program = None
    """Program that makes a view of one moment, and prints the paths to read."""
    release: Program = None
    """Program that removes the view."""
    switch: Program = None
    """Program that has the machine, which stands still, use its disks where they were moved to."""
    timeout: Annotated[
        int,
        *_reads(
            lambda value: parse_duration(value, max_s=values.MAX_COMMAND_TIMEOUT_S),
            _DURATION | {"default": f"{DEFAULT_COMMAND_TIMEOUT_S}s"},
        ),
    ] = DEFAULT_COMMAND_TIMEOUT_S
    """How long each of the programs may take, and the guest agent."""


class KeepGroup(_Group):
    """How many recovery points to keep; a point stays if any of these keeps it.

    Without `keep`: {latest: 12, hourly: 24, daily: 7, weekly: 4}.
    """

    latest: Annotated[int, *_count(1, 1)] = 1
    """The newest ones."""
    hourly: Annotated[int, *_count(0, 0)] = 0
    """The newest of each of the last hours that have one."""
    daily: Annotated[int, *_count(0, 0)] = 0
    """The newest of each of the last days that have one."""
    weekly: Annotated[int, *_count(0, 0)] = 0
    """The newest of each of the last weeks that have one."""
    monthly: Annotated[int, *_count(0, 0)] = 0
    """The newest of each of the last months that have one."""


class VerifyGroup(_Group):
    """Reading the replica back and comparing it with its manifest."""

    every: Interval = None
    """How often the daemon does it, or `manual`."""
    bandwidth: Bandwidth = None
    """How fast it may read then, beside the other limits."""


class VirtualMachineGroup(_Group):
    """A group of disks that is replicated and failed over as one."""

    source: Place
    """The directory where the live disks are."""
    disks: Annotated[
        tuple[Glob, ...],
        AfterValidator(values.some),
        Field(json_schema_extra={"default": list(DEFAULT_DISKS), "minItems": 1}),
    ] = DEFAULT_DISKS
    """Patterns of disk files. Without '/' they are looked for at every depth, and case does not matter."""
    exclude: Annotated[tuple[Glob, ...], Field(json_schema_extra={"default": []})] = ()
    """Patterns of files to leave out, disks and configuration files alike."""
    config_files: Annotated[tuple[Glob, ...], Field(json_schema_extra={"default": list(DEFAULT_CONFIG_FILES)})] = (
        DEFAULT_CONFIG_FILES
    )
    """Patterns of files that travel whole with each point."""
    replica: Place
    """The directory under which a directory of this machine's name holds the replica."""
    every: Interval = None
    """How often to replicate, or `manual`."""
    cron: Annotated[Cron | None, *_reads(parse_cron, _text(_CRON_PATTERN, "0 22 * * mon-fri"))] = None
    """When to replicate, in place of `every`: minute hour day-of-month month day-of-week (names), in UTC."""
    rpo: Annotated[int | None, *_reads(parse_duration, _DURATION)] = None
    """How old the latest point may become before it is a warning. Absent: as long as `every`; no limit without that."""
    consistency: ConsistencyGroup = ConsistencyGroup()
    keep: KeepGroup = KeepGroup(latest=12, hourly=24, daily=7, weekly=4)
    verify: VerifyGroup = VerifyGroup()
    watch: Watched = None
    """Whether a change of a source disk begins a cycle, beside the schedule: once it has been `quiet` for a while, and
    at most every so often."""
    chunk_size: Annotated[
        int | None,
        *_reads(
            values.chunk_size,
            _text(_CHUNK_SIZE_PATTERN, "64KiB", "1MiB") | {"default": "auto"},
        ),
    ] = None
    """Size of the pieces that are compared: a power of two from 64KiB to 4MiB. `auto` chooses by the disk's size."""
    bandwidth: Bandwidth = None
    """The same for this virtual machine alone, beside what holds for all of them together."""


class HooksGroup(_Group):
    """Whom to tell of what happens: a command as a list, or a URL that the facts are posted to."""

    on_failure: Told = None
    """When a cycle has failed."""
    on_success: Told = None
    """When a cycle is done."""
    on_health_change: Told = None
    """When a virtual machine's health has become better or worse."""
    on_move: Told = None
    """When a move has come to its end, or was stopped by an error."""
    timeout: Annotated[
        int,
        *_reads(
            lambda value: parse_duration(value, max_s=values.MAX_HOOK_TIMEOUT_S),
            _DURATION | {"default": f"{DEFAULT_HOOK_TIMEOUT_S}s"},
        ),
    ] = DEFAULT_HOOK_TIMEOUT_S
    """How long one of them may take before it is ended."""


class ApiGroup(_Group):
    """Where the daemon answers beside the Unix socket in its state directory."""

    listen: Annotated[
        tuple[str, int] | None,
        *_reads(values.loopback, _text(values.LOOPBACK_PATTERN, "127.0.0.1:8600", "[::1]:8600")),
    ] = None
    """A loopback address with a port. Absent: on the Unix socket alone."""
    token_file: Path = None
    """File that holds the secret by which a client shows that it may; only its owner should be able to read it."""


class LogGroup(_Group):
    """What the daemon writes to its log, on stderr."""

    level: Annotated[
        str,
        *_reads(lambda value: values.choice(value, LOG_LEVELS), {"enum": list(LOG_LEVELS), "default": "info"}),
    ] = "info"
    """What is less important than this is left out. `replicad run --log-level` has precedence."""
    format: Annotated[
        str,
        *_reads(lambda value: values.choice(value, LOG_FORMATS), {"enum": list(LOG_FORMATS), "default": "auto"}),
    ] = "auto"
    """`auto`: JSON for systemd's journal, and text elsewhere. `replicad run --log-format` has precedence."""


class SettingsFile(_Group):
    """The configuration of replicad."""

    state_dir: Path = None
    """Where this host keeps what it remembers. Default: /var/lib/replicad for root, else the user's state directory."""
    bandwidth: Bandwidth = None
    """Bytes per second in each direction: one rate, or a timetable as rclone's in local time. `off` is no limit."""
    max_concurrent: Annotated[
        int,
        *_reads(
            lambda value: values.number(value, 1, 64),
            {"type": "integer", "minimum": 1, "maximum": 64, "default": DEFAULT_CONCURRENT},
        ),
    ] = DEFAULT_CONCURRENT
    """How many virtual machines are replicated at a time, at most."""
    max_moves: Annotated[
        int,
        *_reads(
            lambda value: values.number(value, 1, 32),
            {"type": "integer", "minimum": 1, "maximum": 32, "default": DEFAULT_MOVES},
        ),
    ] = DEFAULT_MOVES
    """How many virtual machines are moved by the daemon at a time, at most."""
    hooks: HooksGroup = HooksGroup()
    api: ApiGroup = ApiGroup()
    log: LogGroup = LogGroup()
    servers: Annotated[
        dict[str, ServerGroup], Field(json_schema_extra={"propertyNames": {"pattern": values.SERVER_NAME_PATTERN}})
    ] = {}
    r"""SMB servers by the name used in \\name\share."""
    virtual_machines: dict[str, VirtualMachineGroup] = {}
    """Virtual machines by name. The name is also that of the directory made for the replica."""
