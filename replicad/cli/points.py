"""`replicad points`: the recovery points of a virtual machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicad.model.progress import Observer

from .options import SignIn, config_option, json_option, replica_option, sign_in_options
from .output import human_bytes, print_json, print_line, print_table
from .replica_target import ReplicaTarget, credentials_for, find_target, open_target

if TYPE_CHECKING:
    from replicad.model.points import RecoveryPoint
    from replicad.service.compose import OneOffCredentials
    from replicad.workflows.list_points import PointList

_KEPT_BY = "all"  # every point is kept: what `keep` would remove is not removed yet


@click.command("points")
@click.argument("vm", required=False)
@replica_option
@config_option
@json_option
@sign_in_options
def command(vm: str | None, replica: str | None, config: Path | None, as_json: bool, sign_in: SignIn) -> None:
    """List the recovery points of VM, the oldest first."""
    from .progress import showing_progress
    from .run_async import run_async

    target = find_target(vm, replica, config)
    credentials = credentials_for(target, sign_in)
    with showing_progress() as observe:
        listed = run_async(_list(target, credentials, observe))
    if as_json:
        print_json([_facts(point) for point in listed.points])
        return
    print_table(
        ["point", "time (UTC)", "kind", "consistency", "changed", "sent", "undo", "disks", "kept by"],
        [_row(point) for point in listed.points],
        right=[0, 4, 5, 6, 7],
    )
    if listed.pending is not None:
        print_line(f"the cycle of point {listed.pending} is under way or was interrupted")


async def _list(target: ReplicaTarget, credentials: OneOffCredentials | None, observe: Observer) -> PointList:
    from replicad.workflows.list_points import list_points

    async with open_target(target, credentials, observe) as opened:
        return await list_points(opened.share, target.vm_dir, observe)


def _facts(point: RecoveryPoint) -> dict[str, Any]:
    counted = point.statistics
    return {
        "number": point.number,
        "time": point.time.isoformat(),
        "kind": point.kind.value,
        "consistency": point.consistency.value,
        "changed_bytes": counted.changed_bytes,
        "sent_bytes": counted.sent_bytes,
        "undo_bytes": counted.undo_bytes,
        "disks": [
            {"path": d.path, "kind": d.kind.value, "size_bytes": d.size_bytes, "change": d.change.value}
            for d in point.disks
        ],
        "removed": [r.path for r in point.removed],
        "kept_by": [_KEPT_BY],
        "warnings": list(point.warnings),
    }


def _row(point: RecoveryPoint) -> list[str]:
    counted = point.statistics
    return [
        str(point.number),
        point.time.strftime("%Y-%m-%d %H:%M:%S"),
        point.kind.value,
        point.consistency.value,
        human_bytes(counted.changed_bytes),
        human_bytes(counted.sent_bytes),
        human_bytes(counted.undo_bytes),
        str(len(point.disks)),
        _KEPT_BY,
    ]
