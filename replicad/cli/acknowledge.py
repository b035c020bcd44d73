"""`replicad acknowledge`: somebody has seen that a tracker of changes was found wrong."""

from __future__ import annotations

from pathlib import Path

import click

from .options import complete_vm, config_option, json_option
from .output import print_json, print_line


@click.command("acknowledge")
@click.argument("vm", shell_complete=complete_vm)
@config_option
@json_option
def command(vm: str, config: Path | None, as_json: bool) -> None:
    """Tell the daemon that you know that a tracker of changes was found wrong about a disk of VM.

    The warning ends with that; the next mistake, if there is one, brings another. Fine if there is no such warning.
    """
    from .daemon_client import needed_daemon, path_of

    machine = needed_daemon(config, "acknowledge", vm).post(path_of(vm, "acknowledge"))
    if as_json:
        print_json(machine)
    else:
        print_line(f"{vm}: acknowledged; health: {machine['health']}")
