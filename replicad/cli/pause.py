"""`replicad pause`: no cycle of a virtual machine until `replicad resume`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import complete_vm, config_option, json_option
from .output import print_json, print_line


@click.command("pause")
@click.argument("vm", shell_complete=complete_vm)
@config_option
@json_option
def command(vm: str, config: Path | None, as_json: bool) -> None:
    """Have the daemon begin no cycle of VM until 'replicad resume'. One that is under way is stopped.

    What it has sent is not lost: the next cycle goes on with it. A pause outlives the daemon.
    """
    from .daemon_client import needed_daemon, path_of

    machine = needed_daemon(config, "pause", vm).post(path_of(vm, "pause"))
    if as_json:
        print_json(machine)
    else:
        print_line(f"{vm}: paused; no cycle begins until 'replicad resume {vm}'")
