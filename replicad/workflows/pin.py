"""Pinning recovery points: a pinned one is never pruned."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from replicad.model.errors import NotFoundError
from replicad.model.points import RecoveryPoint
from replicad.model.progress import warn_once
from replicad.replica.directory import (
    Replica,
    check_unchanged,
    list_numbers,
    point_files,
    replace_point,
    require_replica,
)
from replicad.replica.fence import Fence
from replicad.replica.layout import Layout
from replicad.replica.lineage import read_lineage
from replicad.replica.record_files import mend, read_both
from replicad.replica.recovery import recover
from replicad.storage.port import Share

from .context import Context


async def pin_points(
    share: Share, vm_dir: str, pinned: Collection[int], unpinned: Collection[int], ctx: Context
) -> tuple[RecoveryPoint, ...]:
    """Write down in the records of these points that they are pinned, or that they are no more; returns all points.

    New pins are durable before an old one goes, and a number in both is unpinned. Whatever is raised later, the next
    call goes on with what is left. NotFoundError, with nothing changed, if one of them is not there; LockedError if
    somebody writes the replica now.
    """
    await require_replica(share, vm_dir)
    async with await share.lock(Layout(vm_dir).lock, ctx.holder()) as lock:
        replica = await require_replica(share, vm_dir, warn_once(ctx.observe))
        await recover(replica)
        points = await read_lineage(replica, await list_numbers(replica))
        _check_are_there(replica, points, {*pinned, *unpinned})
        fence = Fence(lock.check, ctx.clock.monotonic_s)
        by_number = {p.number: p for p in points}
        for wanted, numbers in ((True, set(pinned) - set(unpinned)), (False, set(unpinned))):
            for number in sorted(numbers):
                await check_unchanged(replica)
                await fence.still_ours()
                by_number[number] = await _write_down(replica, by_number[number], pinned=wanted)
    return tuple(by_number.values())


async def _write_down(replica: Replica, point: RecoveryPoint, *, pinned: bool) -> RecoveryPoint:
    if point.pinned != pinned:
        point = replace(point, pinned=pinned)
        await replace_point(replica, point)
        return point
    # Whoever wrote that may have ended before the copy said so, too.
    files = point_files(replica, replica.layout.point_dir(point.number), point.number)
    await mend(files, await read_both(files))
    return point


def _check_are_there(replica: Replica, points: list[RecoveryPoint], wanted: set[int]) -> None:
    missing = sorted(wanted - {p.number for p in points})
    if missing:
        raise NotFoundError(
            "pin", f"recovery point {missing[0]} in {replica.name}", "there is none of that number",
            "See 'replicad points'.",
        )  # fmt: skip
