"""The recovery points that there are: the latest one, and those that it leads back to from record to record.

A directory below `points/` whose number none of them names is no point: its point was pruned, and the next writer that
prunes takes it away.
"""

from __future__ import annotations

from functools import partial

from replicad.model.errors import IntegrityError, NotFoundError
from replicad.model.points import RecoveryPoint
from replicad.storage.together import together

from .directory import Numbers, Replica, list_numbers, read_point

_READS_AT_ONCE = 8


async def read_lineage(replica: Replica, numbers: Numbers) -> list[RecoveryPoint]:
    """All recovery points, ascending. IntegrityError if the record of one is damaged or missing."""
    # Side by side, and those of no point as well: which those are is known only afterwards.
    read = await together(partial(_read_or_error, replica), numbers.committed, _READS_AT_ONCE)
    by_number = dict(zip(numbers.committed, read, strict=True))
    points: list[RecoveryPoint] = []
    wanted = numbers.latest
    while wanted is not None:
        # One that is named and has no directory: asking for it tells how it is missing.
        found = by_number.get(wanted) or await read_point(replica, wanted)
        if isinstance(found, IntegrityError):
            raise found
        points.append(found)
        wanted = found.previous
    points.reverse()
    return points


async def _read_or_error(replica: Replica, number: int) -> RecoveryPoint | IntegrityError:
    try:
        return await read_point(replica, number)
    except IntegrityError as error:
        return error


async def read_settled_lineage(replica: Replica) -> tuple[list[RecoveryPoint], Numbers]:
    """The same for a reader without the lock: begun again if points were pruned meanwhile."""
    while True:
        numbers = await list_numbers(replica)
        try:
            return await read_lineage(replica, numbers), numbers
        except IntegrityError:
            # Each time round a directory has gone, and there are only so many.
            if (await list_numbers(replica)).committed == numbers.committed:
                raise


async def points_from(replica: Replica, number: int, numbers: Numbers | None = None) -> list[RecoveryPoint]:
    """The records of point `number` and all later ones, ascending. NotFoundError if there is no such point."""
    latest = (numbers or await list_numbers(replica)).latest
    if latest is None:
        raise _no_point(replica, number, "there are none yet")
    if number > latest:
        raise _no_point(replica, number, f"the latest is {latest}")
    points = [await read_point(replica, latest)]
    while points[-1].number > number:
        previous = points[-1].previous
        if previous is None:
            raise _no_point(replica, number, f"the oldest is {points[-1].number}")
        if previous < number:
            raise _no_point(replica, number, f"there are {previous} and {points[-1].number}, and none between them")
        points.append(await read_point(replica, previous))
    points.reverse()
    return points


def _no_point(replica: Replica, number: int, answer: str) -> NotFoundError:
    return NotFoundError("find", f"recovery point {number} in {replica.name}", answer, "See 'replicad points'.")
