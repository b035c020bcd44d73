"""`replicad run`: the daemon, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from .options import config_option


@click.command("run")
@config_option
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option(
    "--log-format", type=click.Choice(["auto", "text", "json"]), default="auto", show_default=True,
    help="JSON for the journal and text elsewhere, if nothing is said.",
)  # fmt: skip
def command(config: Path | None, log_level: str, log_format: str) -> None:
    """Replicate all configured machines on their schedules, until SIGTERM.

    SIGHUP reads the configuration again. A cycle that is stopped is gone on with at the next start; a second SIGTERM
    does not wait for anything.
    """
    import asyncio
    import os
    from contextlib import suppress

    from replicad.service.daemon import run_daemon
    from replicad.service.logs import LogFormat, logging_to
    from replicad.settings import find_config

    from .run_async import run_async

    path = find_config(config, os.environ)
    with (
        logging_to(level=log_level, log_format=LogFormat(log_format)) as log,
        suppress(asyncio.CancelledError, KeyboardInterrupt),
    ):
        run_async(run_daemon(path, os.environ, lambda: log.dropped))
