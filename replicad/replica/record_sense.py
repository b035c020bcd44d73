"""Whether what a sealed record says can be true. Pure.

The seal tells that a record is as somebody wrote it, not who that was. Nothing in it may lead out of the replica's
directory, or be taken for a size to make room for, before it was looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from datetime import timedelta

from replicad.model.chunks import is_chunk_size
from replicad.model.errors import InvalidNameError
from replicad.model.names import folded, parent
from replicad.model.points import (
    CycleRecord,
    DiskState,
    ManifestReference,
    PendingDisk,
    RecoveryPoint,
    RemovedDisk,
    ReplicaRecord,
    Trust,
    UndoReference,
)

from .layout import check_disk_path, is_undo_file
from .manifest_file import MAX_DISK_BYTES

_MAX_POINT = 10**18
_MAX_COUNT = (1 << 64) - 1


def nonsense_in(record: ReplicaRecord | RecoveryPoint | CycleRecord) -> str | None:
    """What in the record can't be true, as a clause; None if nothing is."""
    return next(_nonsense_in(record), None)


def _nonsense_in(record: ReplicaRecord | RecoveryPoint | CycleRecord) -> Iterator[str]:
    if not _is_hex(record.replica_id, 16):
        yield "its replica_id is none"
    yield from _in_time(record)
    if isinstance(record, ReplicaRecord):
        if not _is_hex(record.hash_seed, 8):
            yield "its hash_seed is none"
        return
    if not 0 < record.number < _MAX_POINT or (record.previous is not None and not 0 < record.previous < record.number):
        yield f"point {record.number} can't follow point {record.previous}"
    if isinstance(record, CycleRecord):
        yield from _in_disks(record.new_disks)
        yield from _in_places([d.path for d in record.new_disks])
    else:
        yield from _in_disks((*record.disks, *record.removed))
        yield from _in_places([d.path for d in record.disks])
        yield from _in_places([r.path for r in record.removed])
        yield from _in_removed(record)
        yield from _in_statistics(record)


def _in_time(record: ReplicaRecord | RecoveryPoint | CycleRecord) -> Iterator[str]:
    match record:
        case ReplicaRecord(created=time) | RecoveryPoint(time=time) | CycleRecord(started=time):
            if time.utcoffset() != timedelta(0):
                yield f"its time {time.isoformat()} is not in UTC"


def _in_statistics(point: RecoveryPoint) -> Iterator[str]:
    for counted in (point.statistics, *(disk.statistics for disk in point.disks)):
        if not all(0 <= count <= _MAX_COUNT for count in astuple(counted)):
            yield "its statistics"


def _in_disks(disks: Iterable[DiskState | RemovedDisk | PendingDisk]) -> Iterator[str]:
    ids: set[str] = set()
    for disk in disks:
        try:
            check_disk_path(disk.path)
        except InvalidNameError as error:
            yield f"a disk's path: {error.answer}"
        if not disk.path or not _is_hex(disk.id, 16) or disk.id in ids:
            yield f"the id or the path of the disk {disk.path!r}"
        ids.add(disk.id)
        if not isinstance(disk, PendingDisk):
            yield from _in_manifest(disk.path, disk.manifest)
        if not isinstance(disk, RemovedDisk) and not is_chunk_size(disk.chunk_bytes):
            yield f"chunks of {disk.chunk_bytes} bytes in {disk.path!r}"
        if isinstance(disk, DiskState) and not 0 <= disk.size_bytes <= MAX_DISK_BYTES:
            yield f"a size of {disk.size_bytes} bytes of {disk.path!r}"
        if not isinstance(disk, PendingDisk) and disk.undo is not None:
            yield from _in_undo(disk.path, disk.undo)
        if isinstance(disk, DiskState) and disk.trust is not None:
            yield from _in_trust(disk.path, disk.trust)


def _in_places(paths: Sequence[str]) -> Iterator[str]:
    """Files of one point need places of their own on every share: names that differ by case only are one on some."""
    taken: set[str] = set()
    for path in paths:
        if folded(path) in taken:
            yield f"two disks {path!r}"
        taken.add(folded(path))
    directories = {above for path in paths for above in _above(path)}
    yield from (f"the disk {path!r} with others in it" for path in paths if path in directories)


def _above(path: str) -> Iterator[str]:
    while path := parent(path):
        yield path


def _in_manifest(path: str, manifest: ManifestReference) -> Iterator[str]:
    if not _is_hex(manifest.digest, 32) or not 0 < manifest.point < _MAX_POINT:
        yield f"the manifest of {path!r}"


def _in_undo(path: str, undo: UndoReference) -> Iterator[str]:
    if not 0 <= undo.previous_size_bytes <= MAX_DISK_BYTES:
        yield f"a size of {undo.previous_size_bytes} bytes of {path!r}"
    if not _is_hex(undo.digest, 32) or min(undo.length_bytes, undo.batches) < 0 or not is_undo_file(undo.file, path):
        yield f"the undo log of {path!r}"


def _in_trust(path: str, trust: Trust) -> Iterator[str]:
    mistake = trust.mistake
    if not 0 <= trust.checked_chunks <= trust.unchanged_chunks <= _MAX_COUNT:
        yield f"the chunks of {path!r} that were checked"
    if mistake is not None and not (0 <= mistake.chunk <= _MAX_COUNT and 0 < mistake.chunks <= trust.checked_chunks):
        yield f"the mistake about {path!r}"
    if mistake is not None and mistake.found.utcoffset() != timedelta(0):
        yield f"the time {mistake.found.isoformat()} of {path!r} is not in UTC"


def _in_removed(point: RecoveryPoint) -> Iterator[str]:
    previous = point.previous or 0
    for disk in point.removed:
        if not previous < disk.since <= point.number:
            yield f"the disk {disk.path!r}, gone since point {disk.since}"
        if disk.origin is not None and not disk.since <= disk.origin < point.number:
            yield f"the disk {disk.path!r}, kept beside point {disk.origin}"


def _is_hex(text: str, size_bytes: int) -> bool:
    return re.fullmatch(rf"[0-9a-f]{{{2 * size_bytes}}}", text) is not None
