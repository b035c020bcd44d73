"""Saying where the work is done, and who is in its way there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from replicad.model.errors import LockedError, ReplicadError


def say_no_daemon() -> None:
    """Without `--standalone` a verb says that it found no daemon to ask, and works in this process."""
    click.echo("replicad: no daemon runs for this configuration; working in this process", err=True)


def say_working_here(config: Path | None) -> None:
    """The same by a verb that works in this process in any case, with the daemon beside it where one runs."""
    from .daemon_client import running_daemon

    try:
        beside = running_daemon(config) is not None
    except ReplicadError:
        beside = True  # somebody is there, although this user may not ask
    if beside:
        click.echo("replicad: working in this process, beside the daemon", err=True)
    else:
        say_no_daemon()


@contextmanager
def beside_the_daemon(vm: str | None, config: Path | None) -> Iterator[None]:
    """LockedError tells if it is the daemon's cycle of a configured virtual machine that holds the replica, and what
    to do then."""
    try:
        yield
    except LockedError as error:
        if vm is None or not _has_cycle_under_way(vm, config):
            raise
        hint = (
            "The daemon has a cycle of it under way: try again when that has ended, or run "
            f"'replicad pause {vm}' before and 'replicad resume {vm}' after."
        )
        raise LockedError(error.op, error.subject, error.answer, hint) from error


def _has_cycle_under_way(vm: str, config: Path | None) -> bool:
    """Whether the daemon says that it has; False if nobody is there to say so."""
    from .daemon_client import daemon_of, path_of

    try:
        return daemon_of(config).get(path_of(vm)).get("run") is not None
    except ReplicadError:
        return False
