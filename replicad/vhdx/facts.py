"""What a VHDX file says of itself: the results of reading one. Pure.

GUIDs are lower-case text without braces. Offsets are from the start of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from replicad.model.errors import IntegrityError

PATH_KEYS = ("relative_path", "volume_path", "absolute_win32_path")
"""Where a parent locator says the parent is, in the order in which MS-VHDX §2.6.2.6.3 has it tried."""


class Kind(Enum):
    """How a VHDX keeps its blocks (MS-VHDX §2.6.2.1)."""

    FIXED = "fixed"
    DYNAMIC = "dynamic"
    DIFFERENCING = "differencing"


class LogState(Enum):
    """What the log asks of whoever opens the file for writing (MS-VHDX §2.3)."""

    CLEAN = "clean"
    """The header names no log: there is nothing to replay."""
    REPLAY_NEEDED = "replay needed"
    """The log holds updates that may not be in place yet; whoever opens the file replays them first."""
    INCOMPLETE = "incomplete"
    """The header names a log whose first entry is not wholly there: its writer was stopped while starting it, before
    it changed anything else. Nothing to replay. QEMU opens such a file; by the letter of §2.3.3 it is corrupt."""


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """The current header (MS-VHDX §2.2.2). `log_guid` is None where it is zero."""

    sequence_number: int
    file_write_guid: str
    data_write_guid: str
    log_guid: str | None
    log_version: int
    version: int
    log_offset_bytes: int
    log_length_bytes: int


@dataclass(frozen=True, slots=True)
class RegionFacts:
    """One entry of the region table (MS-VHDX §2.2.3.2). `name` is "BAT", "metadata" or the GUID."""

    name: str
    guid: str
    offset_bytes: int
    length_bytes: int
    required: bool


@dataclass(frozen=True, slots=True)
class LogFacts:
    """The log (MS-VHDX §2.3). Entries and sequence numbers are those to be replayed: 0 and None where there are
    none, or all None where the log was not examined (`check_structure` of a file with a log beyond 1 MiB)."""

    state: LogState
    entries: int | None
    first_sequence_number: int | None = None
    last_sequence_number: int | None = None


@dataclass(frozen=True, slots=True)
class BatFacts:
    """The blocks by state (MS-VHDX §2.5.1), as they will be once the log has been replayed.

    `allocated_bytes` is the room that present payload blocks and sector bitmaps take in the file.
    """

    entries: int
    not_present: int
    undefined: int
    zero: int
    unmapped: int
    fully_present: int
    partially_present: int
    sector_bitmaps_present: int
    allocated_bytes: int


@dataclass(frozen=True, slots=True)
class VhdxFacts:
    """A VHDX file in which everything that was read is as it must be.

    `bat` is None where only the structure was read. `parent_locator` holds the keys and values in the file's order.
    `warnings` are sentences about what is not as it should be, yet does not put any data in doubt.
    """

    creator: str
    file_size_bytes: int
    kind: Kind
    virtual_size_bytes: int
    block_size_bytes: int
    logical_sector_bytes: int
    physical_sector_bytes: int
    disk_id: str
    header: HeaderFacts
    header_copies_valid: tuple[bool, bool]
    region_tables_valid: tuple[bool, bool]
    regions: tuple[RegionFacts, ...]
    log: LogFacts
    parent_locator: tuple[tuple[str, str], ...]
    bat: BatFacts | None
    warnings: tuple[str, ...]

    @property
    def needs_replay(self) -> bool:
        """Whether the log must be replayed before what is in the file can be relied upon."""
        return self.log.state is LogState.REPLAY_NEEDED

    @property
    def parent_paths(self) -> tuple[str, ...]:
        """Where the parent may be, in the order in which MS-VHDX §2.6.2.6.3 has them tried. Empty without a parent."""
        entries = dict(self.parent_locator)
        return tuple(entries[key] for key in PATH_KEYS if key in entries)


@dataclass(frozen=True, slots=True)
class VhdFacts:
    """The footer of a virtual disk in the older VHD format. Nothing else of it is read."""

    kind: Kind
    virtual_size_bytes: int
    checksum_valid: bool


@dataclass(frozen=True, slots=True)
class NotVhdx:
    """The file is not a VHDX at all: it is an older VHD (`vhd` is set), empty, or something else.

    replicad treats such files as plain bytes. `reason` is a clause that says what was found.
    """

    file_size_bytes: int
    reason: str
    vhd: VhdFacts | None = None


class DamagedVhdxError(IntegrityError):
    """The file is a VHDX and is damaged: its `structure` at `offset_bytes` is wrong in the way `reason` says."""

    def __init__(self, structure: str, offset_bytes: int, reason: str) -> None:
        super().__init__("read", f"the VHDX {structure} at byte {offset_bytes}", reason)
        self.structure = structure
        self.offset_bytes = offset_bytes
        self.reason = reason

    def __reduce__(self) -> tuple[type[DamagedVhdxError], tuple[str, int, str]]:
        return DamagedVhdxError, (self.structure, self.offset_bytes, self.reason)
