"""`replicad resume`: cycles of a virtual machine begin again."""

from __future__ import annotations

from pathlib import Path

import click

from .options import complete_vm, config_option, json_option
from .output import print_json, print_line


@click.command("resume")
@click.argument("vm", shell_complete=complete_vm)
@config_option
@json_option
def command(vm: str, config: Path | None, as_json: bool) -> None:
    """Have the daemon begin cycles of VM again, after a pause or after an error that only a person could mend."""
    from .daemon_client import needed_daemon, path_of

    machine = needed_daemon(config, "resume", vm).post(path_of(vm, "resume"))
    if as_json:
        print_json(machine)
        return
    from datetime import UTC, datetime

    from .status_table import next_text

    print_line(f"{vm}: resumed; next cycle: {next_text(machine, datetime.now(UTC))}")
