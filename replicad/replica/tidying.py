"""Putting away what pruned points leave behind. Call with the lock held.

Only names of the format are ever deleted, and only where no record names them. All of it can be interrupted and run
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from replicad.model.names import join, path_on
from replicad.model.points import RecoveryPoint
from replicad.storage.documents import exists
from replicad.storage.port import Stat

from .directory import Replica, replace_point
from .fence import Fence
from .layout import is_point_content, is_point_record, merging_number, point_number, pruned_number


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What is to be put away, by the numbers of the points: directories of pruned ones, those whose deletion had begun,
    and points beside whose record something may lie that it does not name."""

    unnamed: tuple[int, ...]
    deleting: tuple[int, ...]
    merging: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.unnamed or self.deleting or self.merging)


@dataclass(frozen=True, slots=True)
class Tidied:
    """`foreign`: paths of what replicad did not put there; it stays."""

    freed_bytes: int = 0
    foreign: tuple[str, ...] = ()

    def __add__(self, other: Tidied) -> Tidied:
        return Tidied(self.freed_bytes + other.freed_bytes, tuple(dict.fromkeys((*self.foreign, *other.foreign))))


async def find_leftovers(replica: Replica, points: Sequence[RecoveryPoint]) -> Leftovers:
    """What pruning left, given all points, ascending. Nothing is said of directories above the latest point."""
    numbers = {p.number for p in points}
    latest = max(numbers, default=0)
    names = [e.name for e in await replica.share.list(replica.layout.points_dir) if e.is_dir and not e.is_link]
    unnamed = [n for n in map(point_number, names) if n is not None and n < latest and n not in numbers]
    deleting = [n for n in map(pruned_number, names) if n is not None and n < latest and n not in numbers]
    merging = [n for n in map(merging_number, names) if n is not None]
    return Leftovers(tuple(unnamed), tuple(deleting), tuple(merging))


async def has_leftovers(replica: Replica) -> bool:
    """Whether pruning was interrupted, as far as names tell."""
    entries = await replica.share.list(replica.layout.points_dir)
    return any(pruned_number(e.name) is not None or merging_number(e.name) is not None for e in entries)


async def tidy(replica: Replica, points: Sequence[RecoveryPoint], fence: Fence, *, records_in_doubt: bool) -> Tidied:
    """Put away all that pruning left, given all points, ascending.

    `records_in_doubt`: another writer may have ended while it replaced one of the records.
    """
    left = await find_leftovers(replica, points)
    if not left:
        return Tidied()
    share, layout = replica.share, replica.layout
    await fence.still_ours()
    if records_in_doubt:
        for point in points:
            if point.number in left.merging:
                await replace_point(replica, point)
    await _fetch_removed_disks(replica, points, left.unnamed)
    for number in left.unnamed:
        await share.rename(layout.point_dir(number), layout.pruned_dir(number))
    if left.unnamed:
        await share.flush_directory(layout.points_dir)
    tidied = Tidied()
    by_number = {p.number: p for p in points}
    for number in left.merging:
        if number in by_number:
            await fence.recently_ours()
            tidied += await _drop_unnamed_content(replica, by_number[number])
    for number in (*left.unnamed, *left.deleting):
        await fence.recently_ours()
        tidied += await _delete(replica, layout.pruned_dir(number))
    for number in left.merging:
        # Last: it is what tells the next writer to look.
        tidied += await _remove_if_empty(replica, layout.merging_dir(number))
    await share.flush_directory(layout.points_dir)
    return tidied


async def _fetch_removed_disks(replica: Replica, points: Sequence[RecoveryPoint], holders: Sequence[int]) -> None:
    """Move the last content of removed disks, which may be large, from the directories that go to that of the point
    whose record names it now."""
    share, layout = replica.share, replica.layout
    directories: set[str] = set()
    for point in points:
        for gone in point.removed:
            if gone.origin not in holders or gone.origin is None:
                continue
            for place in (layout.removed, layout.removed_manifest):
                source = place(gone.origin, gone.path, gone.since)
                if await exists(share, source):
                    await share.rename(source, place(point.number, gone.path, gone.since))
            # Whoever moved it may have ended before that was durable.
            directories |= {layout.point_dir(point.number), layout.point_dir(gone.origin)}
    for directory in sorted(directories):
        await share.flush_directory(directory)


async def _drop_unnamed_content(replica: Replica, point: RecoveryPoint) -> Tidied:
    """Delete logs and contents beside a point's record that it does not name."""
    layout, directory = replica.layout, replica.layout.point_dir(point.number)
    named = {join(directory, undo.file) for undo in point.undo_references()}
    for gone in point.removed:
        named.add(layout.removed(point.number, gone.path, gone.since))
        named.add(layout.removed_manifest(point.number, gone.path, gone.since))
    freed_bytes = 0
    for entry in await replica.share.list(directory):
        path = join(directory, entry.name)
        if path not in named and is_point_content(entry.name) and _is_file(entry):
            await replica.share.remove(path)
            freed_bytes += entry.allocated_bytes
    await replica.share.flush_directory(directory)
    return Tidied(freed_bytes)


async def _delete(replica: Replica, directory: str) -> Tidied:
    """Delete a pruned point's directory, the record last; what is not of the format stays, and so does it then."""
    freed_bytes = 0
    entries = await replica.share.list(directory)
    for is_ours in (is_point_content, is_point_record):
        for entry in entries:
            if is_ours(entry.name) and _is_file(entry):
                await replica.share.remove(join(directory, entry.name))
                freed_bytes += entry.allocated_bytes
    return Tidied(freed_bytes) + await _remove_if_empty(replica, directory)


async def _remove_if_empty(replica: Replica, directory: str) -> Tidied:
    left = await replica.share.list(directory)
    if left:
        return Tidied(0, tuple(path_on(replica.share.name, join(directory, entry.name)) for entry in left))
    await replica.share.remove(directory)
    return Tidied()


def _is_file(entry: Stat) -> bool:
    return not entry.is_dir and not entry.is_link
