"""Keeping both files of every record alike. Call with the lock held, and no cycle's record half-way."""

from __future__ import annotations

from replicad.model.names import path_on
from replicad.storage.together import together

from .directory import Replica, list_numbers, point_files, record_files
from .record_files import MISSING, BothFiles, RecordFiles, mend, read_both
from .records import Record

_MOST_OLDER_POINTS = 8
_AT_ONCE = 8


async def mend_records(replica: Replica) -> None:
    """Have the records of the replica, of its latest point and of some older ones whole and twice on return.

    Each cycle looks at 8 older points more, so that soon it was at all of them, and at all at once if the replica's own
    record has no copy yet: that is written last, and tells that all others have theirs. A record of which neither file
    is sound is warned of, and stays as it is.
    """
    numbers = await list_numbers(replica)
    own_files = record_files(replica.share, replica.layout)
    own = await read_both(own_files)
    has_copies = own.faults.get(own_files.copy_path) != MISSING
    due = points_due(numbers.committed) if has_copies else list(numbers.committed)

    async def mend_point(number: int) -> None:
        files = point_files(replica, replica.layout.point_dir(number), number)
        if not await _mend(replica, files, await read_both(files)):
            path = path_on(replica.share.name, files.path)
            replica.warn(f"{path} and its copy are both damaged: points up to {number} can't be restored")

    await together(mend_point, due, _AT_ONCE)
    await _mend(replica, own_files, own)


def points_due(committed: tuple[int, ...]) -> list[int]:
    """The latest point, and the next 8 of the others in turn, as the latest point's number goes on."""
    if not committed:
        return []
    *older, latest = committed
    start = latest * _MOST_OLDER_POINTS
    count = min(_MOST_OLDER_POINTS, len(older))
    return [latest, *(older[(start + place) % len(older)] for place in range(count))]


async def _mend(replica: Replica, files: RecordFiles[Record], both: BothFiles[Record]) -> bool:
    if both.faults and await mend(files, both):
        for path, fault in both.faults.items():
            if fault != MISSING or path == files.path:
                replica.warn(f"{path_on(replica.share.name, path)}: {fault}; it is written anew from the other one")
    return both.record is not None
