"""`replicad dashboard`: where the dashboard is, for a browser to sign in."""

from __future__ import annotations

from pathlib import Path

import click

from .options import config_option, json_option
from .output import print_json, print_line


@click.command("dashboard")
@config_option
@json_option
def command(config: Path | None, as_json: bool) -> None:
    """Print an address of the dashboard that signs a browser in, once, within two minutes.

    The daemon must listen on TCP ('api:' in its configuration). To have the page on another machine, forward
    that port: ssh -L 8600:127.0.0.1:8600 HOST.
    """
    from .daemon_client import needed_daemon

    made = needed_daemon(config, "open", "the dashboard").post("/dashboard/code")
    if as_json:
        print_json(made)
        return
    print_line(made["url"])
    click.echo("replicad: open it in a browser; it works once, within two minutes", err=True)
