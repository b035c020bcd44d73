"""Saying where the work is done."""

from __future__ import annotations

import click


def say_working_here() -> None:
    """Without `--standalone` a verb says that it found no daemon to ask, and works in this process."""
    click.echo("replicad: no daemon runs for this configuration; working in this process", err=True)
