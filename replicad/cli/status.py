"""`replicad status`: how the replication of each virtual machine stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicad.model.progress import Observer, nobody

from .options import complete_vm, config_option, json_option, load_configuration
from .output import print_json, print_line, print_table

if TYPE_CHECKING:
    from replicad.model.health import Standing
    from replicad.service.compose import Shares
    from replicad.service.kept_clones import KeptRoom
    from replicad.settings import Settings, VirtualMachine
    from replicad.workflows.status import Seen

    Row = tuple[VirtualMachine, Standing, Seen, KeptRoom | None]

_AT_ONCE = 8


@click.command("status")
@click.argument("vm", required=False, shell_complete=complete_vm)
@click.option("--watch", "watching", is_flag=True, help="Go on showing it, until Ctrl-C. Needs the daemon.")
@config_option
@json_option
@click.option("--standalone", is_flag=True, help="Look at the replicas from this process, even if a daemon runs.")
def command(vm: str | None, watching: bool, config: Path | None, as_json: bool, standalone: bool) -> None:
    """Tell the state, health and lag of VM, or of all virtual machines.

    The daemon tells what it knows, and which cycles are under way and next. Without it the replicas are looked at.
    """
    from .daemon_client import needed_daemon, running_daemon
    from .status_watch import look, watch

    if watching:
        if as_json or standalone:
            raise click.UsageError(f"give --watch or {'--json' if as_json else '--standalone'}, not both")
        watch(needed_daemon(config, "watch", "the virtual machines"), vm)
        return
    daemon = None if standalone else running_daemon(config)
    if daemon is not None:
        _print(look(daemon, vm), as_json, from_daemon=True, in_detail=vm is not None)
        return
    from .run_async import run_async

    settings = load_configuration(config)
    machines = [settings.machine(vm)] if vm else list(settings.virtual_machines.values())
    rows = run_async(_look(settings, machines, nobody))
    _print([_facts(*row) for row in rows], as_json, from_daemon=False, in_detail=vm is not None)


def _print(machines: list[dict[str, Any]], as_json: bool, *, from_daemon: bool, in_detail: bool) -> None:
    if as_json:
        print_json(machines)
        return
    from datetime import UTC, datetime

    from .status_table import (
        DAEMON_HEADERS,
        HEADERS,
        RIGHT,
        daemon_row,
        kept_clones,
        reasons,
        row,
        tracking,
        verifications,
    )  # fmt: skip

    now = datetime.now(UTC)
    if from_daemon:
        print_table(DAEMON_HEADERS, [daemon_row(machine, now) for machine in machines], right=RIGHT)
    else:
        print_table(HEADERS, [row(machine) for machine in machines], right=RIGHT)
    for machine in machines:
        for reason in reasons(machine):
            print_line(reason)
        for line in (*verifications(machine, now), *((*tracking(machine), *kept_clones(machine)) if in_detail else ())):
            print_line(line)


async def _look(settings: Settings, machines: list[VirtualMachine], observe: Observer) -> list[Row]:
    from replicad.service.compose import Shares
    from replicad.storage.together import together

    async with Shares(settings, observe=observe) as shares:

        async def look(machine: VirtualMachine) -> Row:
            return await _look_at(machine, shares)

        return await together(look, machines, _AT_ONCE)


async def _look_at(machine: VirtualMachine, shares: Shares) -> Row:
    from replicad.model.errors import ReplicadError
    from replicad.model.health import Observation, judge
    from replicad.service.surroundings import system_clock
    from replicad.workflows.status import Seen, look_at_replica

    try:
        seen = await look_at_replica(await shares.open_replica(machine), machine.name)
    except ReplicadError as error:
        seen = Seen(Observation(error=str(error)))
    standing = judge(seen.observation, machine.rpo_s, system_clock().now())
    return machine, standing, seen, await _kept_clones(machine, shares)


async def _kept_clones(machine: VirtualMachine, shares: Shares) -> KeptRoom | None:
    if not machine.consistency.leaves_clones:
        return None  # and nothing is imported for it
    from replicad.model.errors import ReplicadError
    from replicad.service.kept_clones import measured
    from replicad.service.surroundings import system_clock

    try:
        return await measured(machine, shares, system_clock())
    except ReplicadError:
        return None  # it is not known


def _facts(machine: VirtualMachine, standing: Standing, seen: Seen, kept: KeptRoom | None) -> dict[str, Any]:
    from replicad.model.tracking_words import tracking_in_words

    point = seen.latest
    last = {"number": point.number, "time": point.time.isoformat(), "consistency": point.consistency} if point else None
    return {
        "vm": machine.name,
        "state": standing.state,
        "health": standing.health,
        "reasons": list(standing.reasons),
        "last_point": last,
        "lag_s": standing.lag_s,
        "rpo_s": machine.rpo_s,
        "progress": None,
        "next_run": None,
        "tracking": list(tracking_in_words(point.disks)) if point else [],
        "kept_clones": {"bytes": kept.kept_bytes, "at": kept.at.isoformat()} if kept else None,
    }
