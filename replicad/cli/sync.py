"""`replicad sync`: one cycle of replication now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicad.model.durations import human_duration
from replicad.model.progress import Observer
from replicad.model.sizes import human_bytes

from .options import complete_vm, config_option, json_option, load_configuration, standalone_option
from .output import print_json, print_line, print_table
from .working_here import beside_the_daemon, say_no_daemon, say_working_here

if TYPE_CHECKING:
    from replicad.settings import Settings, VirtualMachine
    from replicad.workflows.dry_run import DryRun
    from replicad.workflows.replicate import CycleReport


@click.command("sync")
@click.argument("vm", shell_complete=complete_vm)
@click.option("--resync", is_flag=True, help="Read both sides and compare them, believing no manifest.")
@click.option("--dry-run", is_flag=True, help="Tell what would be sent and why; write nothing.")
@click.option("--wait/--no-wait", default=True, help="Follow the daemon's cycle to its end, or only ask for it.")
@config_option
@json_option
@standalone_option
def command(
    vm: str, resync: bool, dry_run: bool, wait: bool, config: Path | None, as_json: bool, standalone: bool
) -> None:
    """Bring the replica of VM up to date and commit a recovery point.

    The daemon does it, if one runs, and goes on with it also when this command is interrupted.
    """
    if dry_run or standalone:
        if not wait:
            raise click.UsageError(f"give --no-wait or {'--dry-run' if dry_run else '--standalone'}, not both")
        _sync_here(vm, resync, dry_run, config, as_json, say_working_here if not standalone else None)
        return
    from .daemon_client import needed_daemon, running_daemon
    from .sync_followed import ask_for_cycle, follow_cycle

    if not wait:
        asked = ask_for_cycle(needed_daemon(config, "ask for", f"a cycle of {vm}"), vm, resync=resync)
        if as_json:
            print_json(asked)
        else:
            print_line(f"{vm}: a cycle was asked for; 'replicad status {vm}' tells how it stands")
    elif (daemon := running_daemon(config)) is not None:
        _print_report(follow_cycle(daemon, vm, resync=resync), as_json)
    else:
        _sync_here(vm, resync, dry_run, config, as_json, lambda _: say_no_daemon())


def _sync_here(
    vm: str,
    resync: bool,
    dry_run: bool,
    config: Path | None,
    as_json: bool,
    say: Callable[[Path | None], None] | None,
) -> None:
    from .progress import showing_progress
    from .run_async import run_async

    settings = load_configuration(config)
    machine = settings.machine(vm)
    if say is not None:
        say(config)
    with beside_the_daemon(vm, config), showing_progress() as observe:
        if dry_run:
            plan = run_async(_dry_run(settings, machine, resync, observe))
        else:
            report = run_async(_sync(settings, machine, resync, observe))
    if dry_run:
        _print_plan(plan, as_json)
    else:
        _print_report(_facts(report), as_json)


async def _sync(settings: Settings, machine: VirtualMachine, resync: bool, observe: Observer) -> CycleReport:
    from replicad.service.compose import Shares
    from replicad.service.machines import open_machine
    from replicad.service.surroundings import surroundings
    from replicad.workflows.retries import replicate_with_retries

    async with surroundings(settings.state_dir, observe) as ctx, Shares(settings, observe=observe) as shares:
        opened = await open_machine(machine, shares, ctx, resync=resync)
        return await replicate_with_retries(opened.job, opened.source, opened.replica, ctx)


async def _dry_run(settings: Settings, machine: VirtualMachine, resync: bool, observe: Observer) -> DryRun:
    from replicad.service.compose import Shares
    from replicad.service.machines import open_machine
    from replicad.service.surroundings import surroundings
    from replicad.workflows.retries import dry_run_with_retries

    async with surroundings(settings.state_dir, observe) as ctx, Shares(settings, observe=observe) as shares:
        opened = await open_machine(machine, shares, ctx, resync=resync)
        return await dry_run_with_retries(opened.job, opened.source, opened.replica, ctx)


def _facts(report: CycleReport) -> dict[str, Any]:
    point = report.point
    counted = report.statistics
    return {
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
        "provenance": report.provenance,
        "resumed": report.resumed,
        "attempts": report.attempts,
        "tracking": list(report.tracking),
        "warnings": list(point.warnings),
    }


def _print_report(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    attempts = f" in {facts['attempts']} attempts" if facts["attempts"] > 1 else ""
    print_line(
        f"{facts['vm']}: point {facts['point']} ({facts['kind']}, {facts['consistency']}) committed in "
        f"{human_duration(facts['duration_s'])}: {human_bytes(facts['scanned_bytes'])} read, "
        f"{human_bytes(facts['changed_bytes'])} changed, {human_bytes(facts['sent_bytes'])} sent{attempts}"
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
