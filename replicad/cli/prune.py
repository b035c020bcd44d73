"""`replicad prune`: the recovery points that no rule keeps, removed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicad.model.progress import Observer
from replicad.model.sizes import human_bytes

from .options import complete_vm, config_option, json_option, load_configuration, standalone_option
from .output import print_json, print_line, print_table
from .working_here import beside_the_daemon, say_working_here

if TYPE_CHECKING:
    from replicad.settings import Settings, VirtualMachine
    from replicad.workflows.prune import PruneReport

_PARTLY_DONE = 3


@click.command("prune")
@click.argument("vm", shell_complete=complete_vm)
@click.option("--dry-run", is_flag=True, help="Tell what would be removed and why; change nothing.")
@config_option
@json_option
@standalone_option
def command(vm: str, dry_run: bool, config: Path | None, as_json: bool, standalone: bool) -> int:
    """Remove the recovery points of VM that no rule of 'keep' keeps. Exit code 3 if some of them can't be."""
    from .progress import showing_progress
    from .run_async import run_async

    settings = load_configuration(config)
    machine = settings.machine(vm)
    if not standalone:
        say_working_here(config)
    with beside_the_daemon(vm, config), showing_progress() as observe:
        report = run_async(_prune(settings, machine, dry_run, observe))
    if as_json:
        _print_facts(report, dry_run)
    else:
        _print_table(report, dry_run)
    return _PARTLY_DONE if report.refused else 0


async def _prune(settings: Settings, machine: VirtualMachine, dry_run: bool, observe: Observer) -> PruneReport:
    from replicad.replica.directory import check_is_replica_of
    from replicad.service.compose import Shares
    from replicad.service.surroundings import surroundings
    from replicad.workflows.prune import preview, prune_replica

    async with surroundings(settings.state_dir, observe) as ctx, Shares(settings, observe=observe) as shares:
        share = await shares.open_replica(machine)
        await check_is_replica_of(share, machine.name, machine.name)
        if dry_run:
            return await preview(share, machine.name, machine.keep, observe)
        return await prune_replica(share, machine.name, machine.keep, ctx)


def _print_facts(report: PruneReport, dry_run: bool) -> None:
    print_json(
        {
            "vm": report.vm,
            "dry_run": dry_run,
            "points": [
                {
                    "number": point.number,
                    "time": point.time.isoformat(),
                    "kept_by": list(verdict.kept_by),
                    "why_removed": verdict.why_removed,
                    "removed": point.number in report.removed,
                }
                for point, verdict in zip(report.points, report.verdicts, strict=True)
            ],
            "freed_bytes": None if dry_run else report.freed_bytes,
            "refused": list(report.refused),
            "foreign": list(report.foreign),
        }
    )


def _print_table(report: PruneReport, dry_run: bool) -> None:
    going = "would go" if dry_run else "goes"
    rows = []
    for point, verdict in zip(report.points, report.verdicts, strict=True):
        what = "stays" if verdict.is_kept or (not dry_run and point.number not in report.removed) else going
        why = verdict.why_removed or ", ".join(verdict.kept_by)
        rows.append([str(point.number), point.time.strftime("%Y-%m-%d %H:%M:%S"), what, why])
    print_table(["point", "time (UTC)", "", "why"], rows, right=[0])
    if dry_run:
        count = sum(not verdict.is_kept for verdict in report.verdicts)
        print_line(f"{report.vm}: {count} of {_points(len(report.points))} would go; nothing was changed")
    else:
        print_line(
            f"{report.vm}: {len(report.removed)} of {_points(len(report.points))} removed, "
            f"{human_bytes(report.freed_bytes)} freed"
        )


def _points(count: int) -> str:
    return f"{count} point" if count == 1 else f"{count} points"
