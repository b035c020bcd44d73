"""A verification by the daemon, asked for and followed to its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from replicad.model.errors import BusyError, UnreachableError
from replicad.model.names import printable

from .daemon_client import Daemon, ServerEvent, ToldError, path_of
from .followed import Heard
from .interrupts import sigterm_as_ctrl_c
from .progress import showing_progress

_NOT_FACTS = ("at", "outcome", "text", "error")


def ask_for_verification(daemon: Daemon, vm: str, *, repair: bool) -> Any:
    """Have the replica verified as soon as it is its turn; what the daemon says of that."""
    return daemon.post(path_of(vm, "verify"), {"repair": repair})


def follow_verification(daemon: Daemon, vm: str, *, repair: bool) -> dict[str, Any]:
    """The same, and show its progress until it ends; what `verify --json` prints of it.

    Ctrl-C and SIGTERM end the following, and the verification goes on. Raises what it ended with, as ToldError, and
    BusyError if it will not be done.
    """
    asked = False
    try:
        with sigterm_as_ctrl_c(), showing_progress() as observe:
            heard = Heard(observe)
            with daemon.follow(path_of(vm, "verify"), {"repair": repair}) as events:
                asked = True
                end = _to_the_end(vm, heard, events)
    except KeyboardInterrupt:
        if asked:
            said = (
                f"replicad: the verification of {vm} goes on in the daemon; 'replicad status {vm}' tells how it stands"
            )
            click.echo(printable(said), err=True)
        raise
    if (error := end["error"]) is not None:
        raise ToldError(error["kind"], end["text"], error["exit_code"])
    return {key: value for key, value in end.items() if key not in _NOT_FACTS}


def _to_the_end(vm: str, heard: Heard, events: Iterator[ServerEvent]) -> dict[str, Any]:
    for event in events:
        match event.name:
            case "waiting":
                heard.enter("waiting for its turn", None)
            case "progress":
                heard.progress(event.data)
            case "warning":
                heard.warning(event.data["text"])
            case "cancelled":
                hint = f"'replicad status {vm}' tells how it stands."
                raise BusyError("follow", f"the verification of {vm}", event.data["text"], hint)
            case "ended":
                end: dict[str, Any] = event.data
                return end
    answer = "the daemon ended the connection before it had ended"
    hint = f"The daemon does it when it runs again; 'replicad status {vm}' tells what was found."
    raise UnreachableError("follow", f"the verification of {vm}", answer, hint)
