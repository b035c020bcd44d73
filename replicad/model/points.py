"""Recovery points and what a replica says of itself. Pure.

These records are what the sealed JSON files on the replica's share hold (docs/format.md); digests and identifiers are
lower-case hexadecimal text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

FORMAT_VERSION = 1


class CycleKind(StrEnum):
    """What a cycle did."""

    INITIAL = "initial"
    DELTA = "delta"
    RESYNC = "resynchronisation"


class Consistency(StrEnum):
    """What a point promises about the moment it shows, from the weakest to the strongest."""

    FUZZY = "fuzzy"
    CRASH = "crash"
    APPLICATION = "application"
    COLD = "cold"


class Provenance(StrEnum):
    """How we know which chunks changed."""

    FULL_SCAN = "full-scan"
    """All that is allocated was read and compared."""
    UNCHANGED_FILE = "unchanged-file"
    """The file is the one that was read before: nobody can have written it meanwhile."""
    EXTENTS = "extents"
    """The physical extents of two clones were compared."""
    DIRTY_BITMAP = "dirty-bitmap"
    """Whoever writes the disk noted what it wrote."""


class FileKind(StrEnum):
    """Whether a file of the virtual machine is a disk or one of its configuration files."""

    DISK = "disk"
    CONFIG = "config"


class Change(StrEnum):
    """What a cycle did to one disk."""

    INITIAL = "initial"
    DELTA = "delta"
    UNCHANGED = "unchanged"


class Role(StrEnum):
    """What a replica is at the moment."""

    REPLICA = "replica"


@dataclass(frozen=True, slots=True)
class Statistics:
    """Bytes read from the source, found different, sent to the replica, saved in the undo log; and the time it took."""

    scanned_bytes: int = 0
    changed_bytes: int = 0
    sent_bytes: int = 0
    undo_bytes: int = 0
    duration_ms: int = 0

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.scanned_bytes + other.scanned_bytes,
            self.changed_bytes + other.changed_bytes,
            self.sent_bytes + other.sent_bytes,
            self.undo_bytes + other.undo_bytes,
            self.duration_ms + other.duration_ms,
        )


@dataclass(frozen=True, slots=True)
class ManifestReference:
    """The manifest file that goes with a disk's state: the point it was written for, and its digest."""

    point: int
    digest: str


@dataclass(frozen=True, slots=True)
class UndoReference:
    """The undo log that leads from a point to the one before it, and what it must be. `file` is its name beside the
    point's record."""

    previous_size_bytes: int
    length_bytes: int
    batches: int
    digest: str
    file: str


@dataclass(frozen=True, slots=True)
class Mistake:
    """A tracker was wrong: it called chunks unchanged that were not. `chunk` is the first of the `chunks` that were
    found among those looked at, at the time `found` (UTC)."""

    tracker: Provenance
    chunk: int
    chunks: int
    found: datetime


@dataclass(frozen=True, slots=True)
class Trust:
    """What came of looking at some of the chunks that a tracker called unchanged: `checked_chunks` of
    `unchanged_chunks`, chosen at random, before anything of the disk was sent. With a `mistake` all of the disk was
    read after that, in this cycle or in the one that went on with it."""

    checked_chunks: int
    unchanged_chunks: int
    mistake: Mistake | None = None


LEFT_OUT = {"left out": True}
"""Metadata of a field that a record has only if it says something: those of older versions have none."""


@dataclass(frozen=True, slots=True)
class DiskState:
    """One disk (or configuration file) as a point holds it.

    `id` stays the same from the cycle in which the disk appeared until it is gone. `undo` is None if the disk is as it
    was in the point before, or was not there. `trust` is None where no tracker was believed or found wrong. `note` says
    in a clause why no tracker was believed; empty where that needs no word.
    """

    id: str
    path: str
    kind: FileKind
    size_bytes: int
    chunk_bytes: int
    change: Change
    provenance: Provenance
    manifest: ManifestReference
    undo: UndoReference | None
    statistics: Statistics
    trust: Trust | None = field(default=None, metadata=LEFT_OUT)
    note: str = field(default="", metadata=LEFT_OUT)


@dataclass(frozen=True, slots=True)
class RemovedDisk:
    """A disk that the point before had and this one has not; its last content and the manifest of that are kept beside
    this point's record.

    `since` is the point from which on it was gone: this one, or one that was pruned since. `undo` leads from the last
    content back to that of the point before, if there were others between them. `origin` is the pruned point beside
    whose record the content is still kept if it was not moved yet.
    """

    id: str
    path: str
    manifest: ManifestReference
    since: int
    origin: int | None = None
    undo: UndoReference | None = None


@dataclass(frozen=True, slots=True)
class RecoveryPoint:
    """A committed state of all disks of a VM at the moment `time`."""

    format: int
    replica_id: str
    vm: str
    number: int
    previous: int | None
    time: datetime
    kind: CycleKind
    consistency: Consistency
    generation: int
    host: str
    disks: tuple[DiskState, ...]
    removed: tuple[RemovedDisk, ...]
    warnings: tuple[str, ...]
    statistics: Statistics
    pinned: bool = False

    def undo_references(self) -> tuple[UndoReference, ...]:
        """All logs that the record names."""
        named = [*(d.undo for d in self.disks), *(r.undo for r in self.removed)]
        return tuple(undo for undo in named if undo is not None)

    def gone(self, disk_id: str) -> RemovedDisk | None:
        """What is kept of the disk with this id, if the point before had it and this one has not."""
        return next((r for r in self.removed if r.id == disk_id), None)

    def disk(self, disk_id: str) -> DiskState | None:
        """The disk with this id, if the point has it."""
        return next((d for d in self.disks if d.id == disk_id), None)


@dataclass(frozen=True, slots=True)
class PendingDisk:
    """A disk that a cycle under way sends for the first time."""

    id: str
    path: str
    chunk_bytes: int


@dataclass(frozen=True, slots=True)
class CycleRecord:
    """What a cycle under way wrote down before it touched anything."""

    format: int
    replica_id: str
    number: int
    previous: int | None
    started: datetime
    host: str
    new_disks: tuple[PendingDisk, ...]


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """What the replica of one VM says of itself (replica.json)."""

    format: int
    replica_id: str
    vm: str
    source: str
    hash_seed: str
    generation: int
    role: Role
    created: datetime
    created_by: str
