"""A replica's directory: what is in it, and making a new one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from replicad.model.errors import (
    ConflictError,
    DivergedError,
    FormatVersionError,
    IntegrityError,
    NotFoundError,
    OtherMachineError,
    StaleGenerationError,
)
from replicad.model.names import parent, path_on
from replicad.model.points import CycleRecord, RecoveryPoint, ReplicaRecord, Role
from replicad.storage.documents import read_whole, replace_whole
from replicad.storage.port import Share

from .layout import Layout, pending_number, point_number
from .manifest_file import ManifestOwner
from .record_files import MISSING, RecordFiles, Warn, read_own_file, read_record, unsaid, write_instead
from .records import MAX_RECORD_BYTES, damaged_record, decode
from .recovery_text import recovery_text

_STALE = "Nothing was committed. See with 'replicad points' what was done there meanwhile."


@dataclass(frozen=True, slots=True)
class Replica:
    """The replica of one VM on an open share. `warn` is told of records that had to be taken from their copies."""

    share: Share
    layout: Layout
    record: ReplicaRecord
    warn: Warn = field(default=unsaid, repr=False, compare=False)

    @property
    def seed(self) -> int:
        """What the chunks' hashes are seeded with."""
        return int(self.record.hash_seed, 16)

    @property
    def name(self) -> str:
        """How users know it."""
        return path_on(self.share.name, self.layout.root)

    def owner(self, disk_id: str) -> ManifestOwner:
        """What the manifests of one disk are marked with."""
        return ManifestOwner(self.record.replica_id, disk_id)


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers that have a point's directory, ascending, and that of a cycle that did not end.

    The greatest of `committed` is the latest point's; of the others, which are points only its record tells, and those
    that it leads back to (`lineage`).
    """

    committed: tuple[int, ...]
    pending: int | None

    @property
    def latest(self) -> int | None:
        """The newest committed point."""
        return self.committed[-1] if self.committed else None


def record_files(share: Share, layout: Layout) -> RecordFiles[ReplicaRecord]:
    """Where the record of a replica lies."""
    return RecordFiles(share, layout.record, layout.record_copy, ReplicaRecord)


async def open_replica(share: Share, vm_dir: str, warn: Warn = unsaid) -> Replica | None:
    """The replica in the directory `vm_dir`, or None if there is none. IntegrityError if its record is damaged, and the
    copy of it as well."""
    layout = Layout(vm_dir)
    try:
        record = await read_record(record_files(share, layout), warn)
    except NotFoundError:
        return None
    return Replica(share, layout, record, warn)


async def require_replica(share: Share, vm_dir: str, warn: Warn = unsaid) -> Replica:
    """The same; NotFoundError if there is none."""
    replica = await open_replica(share, vm_dir, warn)
    if replica is None:
        raise NotFoundError(
            "find", f"a replica in {path_on(share.name, vm_dir)}", "there is no replica.json",
            "Check the address; a replica is made by the first 'replicad sync'.",
        )  # fmt: skip
    return replica


async def check_is_replica_of(share: Share, vm_dir: str, vm: str) -> None:
    """OtherMachineError if there is a replica in `vm_dir` and it is that of another virtual machine."""
    replica = await open_replica(share, vm_dir)
    if replica is not None and replica.record.vm != vm:
        raise OtherMachineError(
            "use", replica.name, f"it is the replica of the virtual machine '{replica.record.vm}', not of '{vm}'",
            "To use it all the same, name it with --replica.",
        )  # fmt: skip


async def make_durable_dir(share: Share, path: str) -> None:
    """Make a directory and those above it; on return the names of all of them are durable."""
    await share.make_dir(path)
    while path:
        path = parent(path)
        await share.flush_directory(path)


async def create_replica(share: Share, record: ReplicaRecord, warn: Warn = unsaid) -> Replica:
    """Make the directory of a new replica. Call with its lock held.

    ConflictError if the directory holds anything that replicad did not put there. Can be run again after it was
    interrupted: the record is written last.
    """
    layout = Layout(record.vm)
    ours = {"replica.lock", "replica.json.tmp", "replica.copy.json.tmp", "RECOVERY.txt", "RECOVERY.txt.tmp"}
    empty_dirs = {"disks", "manifests", "points"}
    for entry in await share.list(layout.root):
        known = entry.name in ours or (entry.is_dir and entry.name in empty_dirs)
        if known and entry.is_dir:
            known = not await share.list(f"{layout.root}/{entry.name}")
        if not known:
            raise ConflictError(
                "make a replica in", path_on(share.name, layout.root),
                f"the directory holds {entry.name!r}, which no replica.json accounts for",
                "Choose another replica share, or move what is there away.",
            )  # fmt: skip
    for directory in (layout.disks_dir, layout.manifests_dir, layout.points_dir):
        await share.make_dir(directory)
    await replace_whole(share, layout.recovery_text, recovery_text(record).encode())
    await share.flush_directory("")
    # If it ends between the two, the next cycle finds a replica whose records have no copies yet.
    await write_instead(record_files(share, layout), record)
    return Replica(share, layout, record, warn)


def check_belongs(replica: Replica, vm: str, source: str, *, adopt: bool) -> None:
    """Raise unless this replica is that of `vm` and `source` and still takes cycles.

    OtherMachineError for another VM, DivergedError for another source unless `adopt`; StaleGenerationError if its role
    is over.
    """
    record = replica.record
    if record.vm != vm:
        raise OtherMachineError(
            "replicate to", replica.name, f"it is the replica of the virtual machine {record.vm!r}, not of {vm!r}",
            "Choose another replica share for this virtual machine.",
        )  # fmt: skip
    if record.source != source and not adopt:
        raise DivergedError(
            "replicate to", replica.name, f"it was made from {record.source}, and the source is now {source}",
            "If the virtual machine moved there, run 'replicad sync --resync' once; else choose another replica share.",
        )  # fmt: skip
    if record.role is not Role.REPLICA:
        raise StaleGenerationError("replicate to", replica.name, f"its role is {record.role.value!r}")


async def check_unchanged(replica: Replica) -> None:
    """StaleGenerationError unless its record still says what it said when it was read: the same replica, generation
    and role. For a writer that has held the lock since then nothing else is possible, unless the lock was lost."""
    now = await open_replica(replica.share, replica.layout.root)
    if now is None:
        raise StaleGenerationError("commit to", replica.name, "its replica.json is gone", _STALE)
    was, found = replica.record, now.record
    if found.replica_id != was.replica_id:
        raise StaleGenerationError("commit to", replica.name, "another replica has taken its place", _STALE)
    if (found.generation, found.role) != (was.generation, was.role):
        raise StaleGenerationError(
            "commit to", replica.name,
            f"it is in generation {found.generation} as {found.role.value!r} by now, and the cycle began in "
            f"generation {was.generation} as {was.role.value!r}", _STALE,
        )  # fmt: skip


async def adopt_source(replica: Replica, source: str) -> Replica:
    """Write down that the replica is made from `source` from now on. Call with the lock held."""
    if replica.record.source == source:
        return replica
    record = replace(replica.record, source=source)
    # The record comes last: as long as it names the old source, the next resynchronisation does this again.
    await replace_whole(replica.share, replica.layout.recovery_text, recovery_text(record).encode())
    await write_instead(record_files(replica.share, replica.layout), record)
    return replace(replica, record=record)


async def list_numbers(replica: Replica) -> Numbers:
    """Which points there are. Other names in the directory are none of ours and are left alone."""
    committed: list[int] = []
    pending: list[int] = []
    for entry in await replica.share.list(replica.layout.points_dir):
        if not entry.is_dir or entry.is_link:
            continue
        if (number := point_number(entry.name)) is not None:
            committed.append(number)
        elif (number := pending_number(entry.name)) is not None:
            pending.append(number)
    committed.sort()
    following = (committed[-1] if committed else 0) + 1
    if pending not in ([], [following]):
        raise IntegrityError(
            "use", replica.name, f"it holds cycles under way {sorted(pending)}, and only {following} can be",
            "Move the directories that don't belong there away.",
        )  # fmt: skip
    return Numbers(tuple(committed), pending[0] if pending else None)


def point_files(replica: Replica, directory: str, number: int) -> RecordFiles[RecoveryPoint]:
    """Where the record of point `number` lies: in its directory, or in that of the cycle that makes it."""

    def check(point: RecoveryPoint, subject: str) -> None:
        if (point.number, point.replica_id) != (number, replica.record.replica_id):
            raise IntegrityError("use", subject, f"it is the record of point {point.number} of another place")

    layout = replica.layout
    return RecordFiles(
        replica.share, layout.point_record(directory), layout.point_record_copy(directory), RecoveryPoint, check
    )


async def read_point(replica: Replica, number: int) -> RecoveryPoint:
    """The record of a committed point. IntegrityError if it is damaged or missing, and its copy as well."""
    files = point_files(replica, replica.layout.point_dir(number), number)
    try:
        return await read_record(files, replica.warn)
    except NotFoundError:
        raise damaged_record(path_on(replica.share.name, files.path), RecoveryPoint, MISSING) from None


async def read_finished_pending(replica: Replica, number: int) -> RecoveryPoint | None:
    """The record of a cycle that ended in all but its name; None if it did not get so far.

    None as well if the record is damaged: the cycle is then gone on with, and writes it again. The copy says nothing
    here: it is written first.
    """
    files = point_files(replica, replica.layout.pending_dir(number), number)
    try:
        return await read_own_file(files)
    except FormatVersionError:
        raise
    except (NotFoundError, IntegrityError):
        return None


async def replace_point(replica: Replica, point: RecoveryPoint) -> None:
    """Put a committed point's record in place of the one that it has. Call with the lock held; what either of the two
    names must be durable. Durable on return."""
    await write_instead(point_files(replica, replica.layout.point_dir(point.number), point.number), point)


async def read_cycle(replica: Replica, number: int) -> CycleRecord | None:
    """What a cycle under way wrote down when it began; None if it did not get so far."""
    path = replica.layout.cycle_record(replica.layout.pending_dir(number))
    subject = path_on(replica.share.name, path)
    try:
        cycle = decode(await read_whole(replica.share, path, MAX_RECORD_BYTES), CycleRecord, subject)
    except NotFoundError:
        return None
    if (cycle.number, cycle.replica_id) != (number, replica.record.replica_id):
        raise IntegrityError("use", subject, f"it is the record of cycle {cycle.number} of another place")
    return cycle
