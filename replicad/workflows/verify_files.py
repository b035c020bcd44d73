"""Verifying the small files of a replica's directory, and finding what is none of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replicad.model.errors import IntegrityError, NotFoundError
from replicad.model.names import join, last_part
from replicad.model.points import RecoveryPoint
from replicad.model.progress import Warned
from replicad.replica.directory import point_files, read_cycle, record_files
from replicad.replica.layout import Layout
from replicad.replica.record_files import MISSING, BothFiles, RecordFiles, read_both
from replicad.replica.records import Record
from replicad.replica.recovery_text import recovery_text
from replicad.storage.documents import read_whole
from replicad.storage.port import Share

from .damage import Damage, Part
from .opening import OpenedReplica
from .verify_disks import Looking

_MAX_TEXT_BYTES = 64 * 1024
_NOTHING = "nothing, as long as the other one of the two is sound"


async def check_records(looking: Looking) -> list[RecoveryPoint]:
    """The records of the replica and of all points, each in both its files; returns the points that can be read."""
    replica, numbers = looking.opened.replica, looking.opened.numbers
    files = record_files(replica.share, replica.layout)
    both = await read_both(files)
    # A replica of an earlier version has no copies yet: the next cycle makes them, and that of replica.json last.
    has_copies = both.faults.get(files.copy_path) != MISSING
    if not has_copies:
        looking.ctx.observe(Warned("the replica's records have no copies yet: the next 'replicad sync' makes them"))
    _tell_faults(looking, files, both, has_copies)
    points: list[RecoveryPoint] = []
    # Which number comes next, going back; below a lost record any may be a point.
    wanted = numbers.latest
    while (number := wanted) is not None:
        wanted = max((n for n in numbers.committed if n < number), default=None)
        point_record = point_files(replica, replica.layout.point_dir(number), number)
        record = await read_both(point_record)
        if record.record is not None:
            points.append(record.record)
            wanted = record.record.previous
            _tell_faults(looking, point_record, record, has_copies)
            continue
        lost = tuple(n for n in numbers.committed if n <= number)
        for path, fault in record.faults.items():
            looking.findings.add(Damage(Part.RECORD, path, fault, f"points up to {number}", points=lost))
    points.reverse()
    looking.found.points = [p.number for p in points]
    return points


def _tell_faults(looking: Looking, files: RecordFiles[Record], both: BothFiles[Record], has_copies: bool) -> None:
    for path, fault in both.faults.items():
        if has_copies or path != files.copy_path:
            looking.findings.add(Damage(Part.RECORD, path, fault, _NOTHING))


async def check_texts(looking: Looking) -> None:
    """What is there for people, and the record of a cycle that was interrupted."""
    replica, pending = looking.opened.replica, looking.opened.numbers.pending
    path, costs = replica.layout.recovery_text, "nothing but the instructions"
    try:
        text = await read_whole(replica.share, path, _MAX_TEXT_BYTES)
    except (IntegrityError, NotFoundError) as error:
        looking.findings.add(Damage(Part.TEXT, path, error.answer, costs))
    else:
        if text != recovery_text(replica.record).encode():
            looking.findings.add(Damage(Part.TEXT, path, "its text was changed", costs))
    if pending is not None:
        try:
            await read_cycle(replica, pending)
        except IntegrityError as error:
            path = replica.layout.cycle_record(replica.layout.pending_dir(pending))
            looking.findings.add(Damage(Part.RECORD, path, error.answer, "the interrupted cycle only"))


async def find_leftovers(opened: OpenedReplica, points: Sequence[RecoveryPoint]) -> list[str]:
    """The files in the replica's directory that none of its points needs, ascending.

    Left out is what can't be told: directories of points whose records are lost, and all that a cycle under way has
    made.
    """
    layout, numbers = opened.replica.layout, opened.numbers
    known = {layout.record, layout.record_copy, layout.lock, layout.recovery_text}
    known.update(layout.disk(disk.path) for disk in opened.point.disks)
    known.update(layout.manifest(d.path, d.manifest.point) for d in opened.point.disks)
    for point in points:
        known.update(_files_of_point(layout, point))
    untold = {layout.point_dir(number) for number in numbers.committed} - {layout.point_dir(p.number) for p in points}
    if numbers.pending is not None:
        untold.add(layout.pending_dir(numbers.pending))
    return [
        path
        for path in await _files_below(opened.replica.share, layout.root, untold)
        if path not in known and not (numbers.pending is not None and _is_of_cycle(layout, path, numbers.pending))
    ]


def _files_of_point(layout: Layout, point: RecoveryPoint) -> Iterator[str]:
    directory = layout.point_dir(point.number)
    yield layout.point_record(directory)
    yield layout.point_record_copy(directory)
    yield from (join(directory, undo.file) for undo in point.undo_references())
    for removed in point.removed:
        for holder in (point.number, removed.origin):
            if holder is not None:
                yield layout.removed(holder, removed.path, removed.since)
                yield layout.removed_manifest(holder, removed.path, removed.since)


def _is_of_cycle(layout: Layout, path: str, pending: int) -> bool:
    """Whether a file outside of its directory is one that the cycle under way has made."""
    if path.startswith(layout.disks_dir + "/"):
        return path.endswith((".updating", ".initial"))
    return path.startswith(layout.manifests_dir + "/") and last_part(path).endswith(f".{pending}.xxh3")


async def _files_below(share: Share, top: str, untold: set[str]) -> list[str]:
    found: list[str] = []
    todo = [top]
    while todo:
        here = todo.pop()
        for entry in await share.list(here):
            path = join(here, entry.name)
            if path in untold:
                continue
            if entry.is_dir and not entry.is_link:
                todo.append(path)
            else:
                found.append(path)
    return sorted(found)
