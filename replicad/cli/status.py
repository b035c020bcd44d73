"""`replicad status`: how the replication of each virtual machine stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicad.model.durations import human_duration
from replicad.model.progress import Observer, nobody

from .options import config_option, json_option, load_configuration
from .output import print_json, print_line, print_table

if TYPE_CHECKING:
    from replicad.model.health import Standing
    from replicad.service.compose import Shares
    from replicad.settings import Settings, VirtualMachine
    from replicad.workflows.status import Seen

    Row = tuple[VirtualMachine, Standing, Seen]

_AT_ONCE = 8


@click.command("status")
@click.argument("vm", required=False)
@config_option
@json_option
def command(vm: str | None, config: Path | None, as_json: bool) -> None:
    """Tell the state, health and lag of VM, or of all virtual machines, from what their replicas show."""
    from .run_async import run_async

    settings = load_configuration(config)
    machines = [settings.machine(vm)] if vm else list(settings.virtual_machines.values())
    rows = run_async(_look(settings, machines, nobody))
    if as_json:
        print_json([_facts(*row) for row in rows])
        return
    print_table(
        ["vm", "state", "health", "latest point", "lag", "objective"], [_row(*row) for row in rows], right=[4, 5]
    )
    for machine, standing, _ in rows:
        for reason in standing.reasons:
            print_line(f"{machine.name}: {reason}")


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
    return machine, judge(seen.observation, machine.rpo_s, system_clock().now()), seen


def _facts(machine: VirtualMachine, standing: Standing, seen: Seen) -> dict[str, Any]:
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
    }


def _row(machine: VirtualMachine, standing: Standing, seen: Seen) -> list[str]:
    point = seen.latest
    latest = f"{point.number} ({point.consistency}, {point.time:%Y-%m-%d %H:%M:%S})" if point else "-"
    lag = human_duration(standing.lag_s) if standing.lag_s is not None else "-"
    return [
        machine.name,
        standing.state,
        standing.health,
        latest,
        lag,
        human_duration(machine.rpo_s) if machine.rpo_s else "-",
    ]
