"""`replicad run`: the daemon, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from .options import config_option


@click.command("run")
@config_option
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="What the log leaves out, whatever the configuration says (else its 'log: {level: …}', else info).",
)
@click.option(
    "--log-format", type=click.Choice(["auto", "text", "json"]),
    help="The same for 'log: {format: …}'; auto is JSON for the journal and text elsewhere.",
)  # fmt: skip
def command(config: Path | None, log_level: str | None, log_format: str | None) -> None:
    """Replicate all configured machines on their schedules, until SIGTERM.

    SIGHUP reads the configuration again. A cycle that is stopped is gone on with at the next start; a second SIGTERM
    does not wait for anything.
    """
    import asyncio
    import os
    from contextlib import suppress

    from replicad.service.daemon import run_daemon
    from replicad.service.logs import LogFormat, logging_to
    from replicad.settings import LogSettings, find_config

    from .run_async import run_async

    path = find_config(config, os.environ)
    with logging_to() as log, suppress(asyncio.CancelledError, KeyboardInterrupt):

        def apply(said: LogSettings) -> None:
            log.apply(log_level or said.level, LogFormat(log_format or said.format))

        apply(LogSettings())
        run_async(run_daemon(path, os.environ, lambda: log.dropped, apply))
