"""Removing recovery points that follow each other: the undo logs on the way over them become one. Call with the lock
held.

Everything that the point above them needs to lead directly to the point below them is made beside its record and is
durable before that record is replaced: this is the commit. Until then every point reads as before, and from then on
those between are no points any more; what they leave is put away by `tidy`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from replicad.model.errors import IntegrityError
from replicad.model.manifest import Manifest
from replicad.model.names import join, parent
from replicad.model.points import DiskState, RecoveryPoint, RemovedDisk, UndoReference

from .directory import Replica, check_unchanged, replace_point
from .fence import Fence
from .layout import Layout
from .manifest_file import manifest_digest, read_manifest
from .merged_log import LogPlace, manifest_through, write_merged_log

LoadManifest = Callable[[DiskState], Awaitable[Manifest]]


@dataclass(frozen=True, slots=True)
class Merge:
    """`removed`, ascending, go; `newer` follows them, and `older` is the point before them, None if there is none."""

    older: RecoveryPoint | None
    removed: tuple[RecoveryPoint, ...]
    newer: RecoveryPoint


@dataclass(frozen=True, slots=True)
class Way:
    """How one disk of the older point is reached from the newer one: from its content there or, if it is `gone` since,
    from what is kept beside the record of `holder`, and through `logs`, the newest first."""

    disk: DiskState
    logs: tuple[LogPlace, ...]
    gone: RemovedDisk | None
    holder: int

    def sole_log_in(self, directory: str) -> UndoReference | None:
        """The reference of the only log, if it lies in this directory."""
        if len(self.logs) == 1 and parent(self.logs[0].path) == directory:
            return self.logs[0].reference
        return None


def ways(merge: Merge, layout: Layout) -> list[Way]:
    """One for each disk of the older point. IntegrityError if the records contradict each other."""
    if merge.older is None:
        return []
    return [_way(disk, merge, layout) for disk in merge.older.disks]


def _way(disk: DiskState, merge: Merge, layout: Layout) -> Way:
    logs: list[LogPlace] = []
    gone: RemovedDisk | None = None
    holder = merge.newer.number
    is_there = False
    for point in (merge.newer, *reversed(merge.removed)):
        state, directory = point.disk(disk.id), layout.point_dir(point.number)
        if state is not None:
            is_there = True
            undo = state.undo
        elif (kept := point.gone(disk.id)) is not None:
            is_there, gone, holder, undo = True, kept, point.number, kept.undo
        else:
            undo = None
        if undo is not None:
            logs.append(LogPlace(join(directory, undo.file), undo))
    if not is_there:
        raise IntegrityError(
            "remove the points before", f"point {merge.newer.number}",
            f"no record tells what became of {disk.path!r} since point {merge.older.number if merge.older else 0}",
        )  # fmt: skip
    return Way(disk, tuple(logs), gone, holder)


class Manifests:
    """The manifests of disks at points, found on the way back from the latest one. Ask for newer points first.

    `points` are by number, and are kept up to date by whoever merges.
    """

    def __init__(self, replica: Replica, points: Mapping[int, RecoveryPoint], load: LoadManifest) -> None:
        self._replica = replica
        self._points = points
        self._load = load
        self._reached: dict[str, tuple[int, Manifest]] = {}

    async def of(self, disk_id: str, number: int) -> Manifest:
        """The manifest of a disk at a point that has it. IntegrityError if a log or manifest on the way is damaged."""
        at, manifest = self._reached.get(disk_id, (max(self._points), None))
        while at > number or manifest is None:
            point = self._points[at]
            state, gone = point.disk(disk_id), point.gone(disk_id)
            if manifest is None and state is not None:
                manifest = await self._load(state)
                continue
            undo = state.undo if state is not None else None
            if manifest is None and gone is not None:
                manifest, undo = await read_removed_manifest(self._replica, gone, at), gone.undo
            if manifest is not None and undo is not None:
                path = join(self._replica.layout.point_dir(at), undo.file)
                manifest = await manifest_through(self._replica.share, LogPlace(path, undo), manifest)
            if point.previous is None:
                raise ValueError(f"point {number} has no disk {disk_id}")
            at = point.previous
        self._reached[disk_id] = at, manifest
        return manifest


async def read_removed_manifest(replica: Replica, gone: RemovedDisk, holder: int) -> Manifest:
    """The manifest of the content that is kept of a disk beside the record of point `holder`."""
    path = replica.layout.removed_manifest(holder, gone.path, gone.since)
    return await read_manifest(replica.share, path, replica.owner(gone.id), gone.manifest.digest)


async def prepare_merge(replica: Replica, merge: Merge, manifests: Manifests, fence: Fence) -> RecoveryPoint:
    """Make all that `merge.newer` needs to follow `merge.older` directly; returns the record that it then has.

    Whatever is raised, all points read as before. IntegrityError if the record would not lead to the older point to the
    last hash.
    """
    share, layout, newer = replica.share, replica.layout, merge.newer
    await fence.recently_ours()
    await share.make_dir(layout.merging_dir(newer.number))
    await share.flush_directory(layout.points_dir)
    undo: dict[str, UndoReference | None] = {}
    removed: list[RemovedDisk] = []
    for way in ways(merge, layout):
        reference = await _one_log(replica, merge, way, manifests, fence)
        if way.gone is None:
            undo[way.disk.id] = reference
        else:
            origin = None if way.holder == newer.number else way.holder
            removed.append(replace(way.gone, origin=origin, undo=reference))
    record = replace(
        newer,
        previous=merge.older.number if merge.older else None,
        disks=tuple(replace(disk, undo=undo.get(disk.id)) for disk in newer.disks),
        removed=tuple(removed),
    )
    await share.flush_directory(layout.point_dir(newer.number))
    return record


async def commit_merge(replica: Replica, record: RecoveryPoint, fence: Fence) -> None:
    """Put the prepared record in place of the one that its point has; durable on return.

    When this is raised out of, the share has one of the two, and nothing may be put away before it is known which.
    """
    await check_unchanged(replica)
    await fence.still_ours()
    await replace_point(replica, record)


async def _one_log(
    replica: Replica, merge: Merge, way: Way, manifests: Manifests, fence: Fence
) -> UndoReference | None:
    """The reference of the one log that takes the place of all on the way; None if the disk did not change."""
    newer, layout = merge.newer, replica.layout
    directory = layout.point_dir(newer.number)
    before = merge.removed[-1].disk(way.disk.id)
    if (sole := way.sole_log_in(directory)) is not None and before is not None:
        # It leads to the point before, since when the disk did not change.
        _check(replica, merge, way, before.manifest.digest)
        return sole
    here = newer.disk(way.disk.id)
    if not way.logs:
        kept = way.gone or here
        _check(replica, merge, way, kept.manifest.digest if kept is not None else "")
        return None
    path = layout.merged_undo(directory, way.disk.path, merge.older.number if merge.older else 0)
    reference = await write_merged_log(replica.share, way.logs, path, newer.number, replica.seed, fence.recently_ours)
    if way.gone is not None:
        manifest = await read_removed_manifest(replica, way.gone, way.holder)
    else:
        manifest = await manifests.of(way.disk.id, newer.number)
    found = await manifest_through(replica.share, LogPlace(path, reference), manifest)
    _check(replica, merge, way, manifest_digest(found, replica.owner(way.disk.id)))
    return reference


def _check(replica: Replica, merge: Merge, way: Way, digest: str) -> None:
    if digest != way.disk.manifest.digest:
        older = merge.older.number if merge.older else 0
        raise IntegrityError(
            "remove the points before", f"point {merge.newer.number} in {replica.name}",
            f"what is kept of {way.disk.path!r} does not lead back to point {older} as its record names it",
            "Run 'replicad verify'; until then these points stay.",
        )  # fmt: skip
