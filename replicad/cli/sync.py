"""`replicad sync`: one cycle of replication now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicad.model.durations import human_duration
from replicad.model.progress import Observer

from .options import config_option, json_option, load_configuration, standalone_option
from .output import human_bytes, print_json, print_line, print_table
from .working_here import say_working_here

if TYPE_CHECKING:
    from replicad.settings import Settings, VirtualMachine
    from replicad.workflows.dry_run import DryRun
    from replicad.workflows.replicate import CycleReport


@click.command("sync")
@click.argument("vm")
@click.option("--resync", is_flag=True, help="Read both sides and compare them, believing no manifest.")
@click.option("--dry-run", is_flag=True, help="Tell what would be sent and why; write nothing.")
@config_option
@json_option
@standalone_option
def command(vm: str, resync: bool, dry_run: bool, config: Path | None, as_json: bool, standalone: bool) -> None:
    """Bring the replica of VM up to date and commit a recovery point."""
    from .progress import showing_progress
    from .run_async import run_async

    settings = load_configuration(config)
    machine = settings.machine(vm)
    if not standalone:
        say_working_here()
    with showing_progress() as observe:
        if dry_run:
            plan = run_async(_dry_run(settings, machine, resync, observe))
        else:
            report = run_async(_sync(settings, machine, resync, observe))
    if dry_run:
        _print_plan(plan, as_json)
    else:
        _print_report(report, as_json)


async def _sync(settings: Settings, machine: VirtualMachine, resync: bool, observe: Observer) -> CycleReport:
    from replicad.service.compose import Shares
    from replicad.service.machines import open_machine
    from replicad.service.surroundings import surroundings
    from replicad.workflows.retries import replicate_with_retries

    async with surroundings(settings.state_dir, observe) as ctx, Shares(settings, observe=observe) as shares:
        opened = await open_machine(machine, shares, ctx.clock, resync=resync)
        return await replicate_with_retries(opened.job, opened.source, opened.replica, ctx)


async def _dry_run(settings: Settings, machine: VirtualMachine, resync: bool, observe: Observer) -> DryRun:
    from replicad.service.compose import Shares
    from replicad.service.machines import open_machine
    from replicad.service.surroundings import surroundings
    from replicad.workflows.retries import dry_run_with_retries

    async with surroundings(settings.state_dir, observe) as ctx, Shares(settings, observe=observe) as shares:
        opened = await open_machine(machine, shares, ctx.clock, resync=resync)
        return await dry_run_with_retries(opened.job, opened.source, opened.replica, ctx)


def _print_report(report: CycleReport, as_json: bool) -> None:
    point = report.point
    counted = report.statistics
    provenance = "+".join(sorted({d.provenance.value for d in point.disks}))
    if as_json:
        facts: dict[str, Any] = {
            "vm": point.vm,
            "point": point.number,
            "kind": point.kind.value,
            "consistency": point.consistency.value,
            "time": point.time.isoformat(),
            "scanned_bytes": counted.scanned_bytes,
            "changed_bytes": counted.changed_bytes,
            "sent_bytes": counted.sent_bytes,
            "undo_bytes": counted.undo_bytes,
            "duration_s": counted.duration_ms / 1000,
            "provenance": provenance,
            "resumed": report.resumed,
            "attempts": report.attempts,
            "warnings": list(point.warnings),
        }
        print_json(facts)
        return
    attempts = f" in {report.attempts} attempts" if report.attempts > 1 else ""
    print_line(
        f"{point.vm}: point {point.number} ({point.kind.value}, {point.consistency.value}) committed in "
        f"{human_duration(counted.duration_ms / 1000)}: {human_bytes(counted.scanned_bytes)} read, "
        f"{human_bytes(counted.changed_bytes)} changed, {human_bytes(counted.sent_bytes)} sent{attempts}"
    )


def _print_plan(plan: DryRun, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "vm": plan.vm,
                "point": plan.point,
                "kind": plan.kind.value,
                "dry_run": True,
                "resumes": plan.resumes,
                "disks": [
                    {
                        "path": d.path,
                        "action": d.action,
                        "scanned_bytes": d.scanned_bytes,
                        "changed_bytes": d.changed_bytes,
                        "to_send_bytes": d.to_send_bytes,
                        "reason": d.reason,
                    }
                    for d in plan.disks
                ],
            }
        )
        return
    print_line(f"{plan.vm}: this would become point {plan.point} ({plan.kind.value}); nothing was written")
    if plan.resumes:
        print_line("a cycle was interrupted: it would be gone on with, and a part of this may be done already")
    print_table(
        ["disk", "action", "changed", "to send", "why"],
        [[d.path, d.action, human_bytes(d.changed_bytes), human_bytes(d.to_send_bytes), d.reason] for d in plan.disks],
        right=[2, 3],
    )
