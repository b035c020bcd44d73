"""`replicad points`: the recovery points of a virtual machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicad.model.progress import Observer
from replicad.model.sizes import human_bytes

from .options import SignIn, complete_vm, config_option, json_option, replica_option, sign_in_options
from .output import print_json, print_line, print_table
from .replica_target import ReplicaTarget, credentials_for, find_target, open_target
from .working_here import beside_the_daemon

if TYPE_CHECKING:
    from replicad.model.points import RecoveryPoint
    from replicad.service.compose import OneOffCredentials
    from replicad.workflows.list_points import PointList


@click.command("points")
@click.argument("vm", required=False, shell_complete=complete_vm)
@click.option("--pin", "pinned", type=click.IntRange(1), multiple=True, metavar="N", help="Never prune point N.")
@click.option("--unpin", "unpinned", type=click.IntRange(1), multiple=True, metavar="N", help="No longer keep it so.")
@replica_option
@config_option
@json_option
@sign_in_options
def command(
    vm: str | None,
    pinned: tuple[int, ...],
    unpinned: tuple[int, ...],
    replica: str | None,
    config: Path | None,
    as_json: bool,
    sign_in: SignIn,
) -> None:
    """List the recovery points of VM, the oldest first, with what keeps each one. Pins are set before."""
    from .progress import showing_progress
    from .run_async import run_async

    if both := set(pinned) & set(unpinned):
        raise click.UsageError(f"give --pin or --unpin for point {min(both)}, not both")
    target = find_target(vm, replica, config)
    credentials = credentials_for(target, sign_in)
    with beside_the_daemon(target.vm, config), showing_progress() as observe:
        listed = run_async(_list(target, pinned, unpinned, credentials, observe))
    kept = _kept_by(target, listed)
    if as_json:
        print_json([_facts(point, kept[point.number]) for point in listed.points])
        return
    print_table(
        ["point", "time (UTC)", "kind", "consistency", "changed", "sent", "undo", "disks", "kept by"],
        [_row(point, kept[point.number]) for point in listed.points],
        right=[0, 4, 5, 6, 7],
    )
    if listed.pending is not None:
        print_line(f"the cycle of point {listed.pending} is under way or was interrupted")


async def _list(
    target: ReplicaTarget,
    pinned: tuple[int, ...],
    unpinned: tuple[int, ...],
    credentials: OneOffCredentials | None,
    observe: Observer,
) -> PointList:
    from replicad.workflows.list_points import list_points

    async with open_target(target, credentials, observe) as opened:
        if pinned or unpinned:
            from replicad.workflows.pin import pin_points

            await pin_points(opened.share, target.vm_dir, pinned, unpinned, opened.context)
        return await list_points(opened.share, target.vm_dir, observe)


def _kept_by(target: ReplicaTarget, listed: PointList) -> dict[int, tuple[str, ...]]:
    """What keeps each point, in words; nothing where the next prune removes it."""
    from replicad.model.retention import PointFacts, judge

    keep = target.machine.keep if target.machine is not None else None
    verdicts = judge([PointFacts(p.number, p.time, p.pinned) for p in listed.points], keep)
    return {verdict.number: verdict.kept_by for verdict in verdicts}


def _facts(point: RecoveryPoint, kept_by: tuple[str, ...]) -> dict[str, Any]:
    from replicad.model.tracking_words import trust_facts

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
            {
                "path": d.path,
                "kind": d.kind.value,
                "size_bytes": d.size_bytes,
                "change": d.change.value,
                "provenance": d.provenance.value,
                "note": d.note,
                "trust": None if d.trust is None else trust_facts(d.trust),
            }
            for d in point.disks
        ],
        "removed": [r.path for r in point.removed],
        "kept_by": list(kept_by),
        "warnings": list(point.warnings),
    }


def _row(point: RecoveryPoint, kept_by: tuple[str, ...]) -> list[str]:
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
        ", ".join(kept_by) or "nothing",
    ]
