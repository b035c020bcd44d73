"""`replicad verify`: the replica read back and compared with what was written down of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicad.model.errors import ConfigError
from replicad.model.progress import Observer
from replicad.model.sizes import human_bytes

from .options import (
    SignIn,
    bandwidth_option,
    complete_vm,
    config_option,
    json_option,
    replica_option,
    sign_in_options,
    standalone_option,
)
from .output import print_json, print_line
from .replica_target import ReplicaTarget, credentials_for, find_target, open_target
from .working_here import beside_the_daemon, say_working_here

if TYPE_CHECKING:
    from replicad.model.timetable import Timetable
    from replicad.service.compose import OneOffCredentials
    from replicad.workflows.damage import Damage, Verification

Facts = dict[str, Any]

_DAMAGE_FOUND = 3


@click.command("verify")
@click.argument("vm", required=False, shell_complete=complete_vm)
@click.option("--point", "number", type=click.IntRange(1), metavar="N", help="Only this point; else everything.")
@click.option("--repair", is_flag=True, help="Mend what the source or the replica itself still has the bytes for.")
@click.option("--wait/--no-wait", default=True, help="Follow the daemon's verification to its end, or only ask for it.")
@bandwidth_option
@replica_option
@config_option
@json_option
@standalone_option
@sign_in_options
def command(
    vm: str | None,
    number: int | None,
    repair: bool,
    wait: bool,
    bandwidth: Timetable | None,
    replica: str | None,
    config: Path | None,
    as_json: bool,
    standalone: bool,
    sign_in: SignIn,
) -> int:
    """Read the replica of VM back and compare it with its manifests. Exit code 3 if damage is found and stays.

    The daemon does it, if one runs, between its cycles, and goes on with it also when this command is interrupted.
    With --point, --bandwidth, --replica, or what a sign-in needs, it is done in this process.
    """
    if repair and number is not None:
        raise click.UsageError("--repair mends the replica as a whole: give it without --point")
    is_for_here = standalone or replica is not None or number is not None or bandwidth is not None
    if vm is None or is_for_here or sign_in != SignIn():
        if not wait:
            raise click.UsageError("--no-wait is for the daemon, which takes VM and --repair only")
        return _verify_here(vm, number, repair, bandwidth, replica, config, as_json, standalone, sign_in)
    from .daemon_client import needed_daemon, running_daemon
    from .verify_followed import ask_for_verification, follow_verification

    if not wait:
        asked = ask_for_verification(needed_daemon(config, "ask for", f"a verification of {vm}"), vm, repair=repair)
        if as_json:
            print_json(asked)
        else:
            print_line(f"{vm}: a verification was asked for; 'replicad status {vm}' tells what it found")
        return 0
    if (daemon := running_daemon(config)) is not None:
        return _print(follow_verification(daemon, vm, repair=repair), as_json)
    return _verify_here(vm, number, repair, bandwidth, replica, config, as_json, standalone, sign_in)


def _verify_here(
    vm: str | None,
    number: int | None,
    repair: bool,
    bandwidth: Timetable | None,
    replica: str | None,
    config: Path | None,
    as_json: bool,
    standalone: bool,
    sign_in: SignIn,
) -> int:
    from .progress import showing_progress
    from .run_async import run_async

    target = find_target(vm, replica, config)
    if repair and target.machine is None:
        raise ConfigError(
            "repair", f"replica {replica}", "its source is not known here",
            "Give the virtual machine's name and a configuration in place of --replica.",
        )  # fmt: skip
    if not standalone and target.machine is not None:
        say_working_here(config)
    credentials = credentials_for(target, sign_in)
    with beside_the_daemon(target.vm, config), showing_progress() as observe:
        found = run_async(_verify(target, number, repair, bandwidth, credentials, observe))
    return _print(_facts(target.vm_dir, found), as_json)


async def _verify(
    target: ReplicaTarget,
    number: int | None,
    repair: bool,
    bandwidth: Timetable | None,
    credentials: OneOffCredentials | None,
    observe: Observer,
) -> Verification:
    async with open_target(target, credentials, observe, bandwidth, reads_source=repair) as opened:
        if repair and target.machine is not None:
            from replicad.service.machines import open_source
            from replicad.workflows.repair import verify_and_repair

            source = await open_source(target.machine, opened.shares, opened.context)
            return await verify_and_repair(opened.share, target.vm_dir, source, opened.context)
        from replicad.workflows.verify import verify

        return await verify(opened.share, target.vm_dir, number, opened.context)


def _facts(vm: str, found: Verification) -> Facts:
    return {
        "vm": vm,
        "points": found.points,
        "damaged_points": found.damaged_points,
        "read_bytes": found.read_bytes,
        "damages": [_facts_of(damage) for damage in found.damages],
        "leftovers": found.leftovers,
    }


def _facts_of(damage: Damage) -> Facts:
    return {
        "part": damage.part.value,
        "file": damage.file,
        "reason": damage.reason,
        "affects": damage.costs,
        "points": list(damage.points),
        "chunks": list(damage.chunks),
        "repaired": damage.repaired,
        "not_repaired": damage.not_repaired or None,
    }


def _print(found: Facts, as_json: bool) -> int:
    """Print what was found; the exit code."""
    left = sum(not damage["repaired"] for damage in found["damages"])
    code = _DAMAGE_FOUND if left else 0
    if as_json:
        print_json(found)
        return code
    for damage in found["damages"]:
        state = "repaired" if damage["repaired"] else "damaged"
        why_not = f"; not repaired: {damage['not_repaired']}" if damage["not_repaired"] else ""
        print_line(f"{state}: {damage['file']}: {damage['reason']}; affects {damage['affects']}{why_not}")
    if found["damaged_points"]:
        numbers = ", ".join(map(str, found["damaged_points"]))
        print_line(f"points that can't be restored as they were: {numbers}")
    points = "point" if len(found["points"]) == 1 else "points"
    repaired = len(found["damages"]) - left
    counts = [f"{left} damaged" if left else "", f"{repaired} repaired" if repaired else ""]
    verdict = ", ".join(count for count in counts if count) or "sound"
    read = human_bytes(found["read_bytes"])
    print_line(f"{found['vm']}: {len(found['points'])} {points}, {read} read back: {verdict}")
    return code
