"""`replicad reload`: the daemon reads its configuration again."""

from __future__ import annotations

from pathlib import Path

import click

from .options import config_option, json_option
from .output import print_json, print_line


@click.command("reload")
@config_option
@json_option
def command(config: Path | None, as_json: bool) -> None:
    """Have the daemon take its configuration file as it is now, or, if anything is wrong in it, nothing of it.

    Cycles under way go on, but for those of machines that are no longer in it.
    """
    from .daemon_client import needed_daemon

    taken = needed_daemon(config, "reload", "the configuration").post("/reload")
    if as_json:
        print_json(taken)
    else:
        count = taken["machines"]
        print_line(f"taken: {count} virtual {'machine' if count == 1 else 'machines'}")
