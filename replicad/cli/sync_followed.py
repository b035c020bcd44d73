"""A cycle that the daemon runs, followed to its end: the same progress, report and exit code as of one run here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import click

from replicad.model import errors
from replicad.model.errors import BusyError, ReplicadError, UnreachableError
from replicad.model.names import printable

from .daemon_client import Daemon, ServerEvent, ToldError, path_of
from .followed import Heard
from .interrupts import sigterm_as_ctrl_c
from .progress import showing_progress

Run = Mapping[str, Any]


def ask_for_cycle(daemon: Daemon, vm: str, *, resync: bool) -> Any:
    """Have a cycle begin as soon as there is a place for it; what the daemon says of that."""
    return daemon.post(path_of(vm, "sync"), {"resync": resync})


def follow_cycle(daemon: Daemon, vm: str, *, resync: bool) -> dict[str, Any]:
    """The same, and show its progress until it ends; what `sync --json` prints of it.

    Ctrl-C and SIGTERM end the following, and the cycle goes on. Raises what the cycle ended with, as ToldError, and
    BusyError if it was stopped or will not begin.
    """
    asked = False
    try:
        with sigterm_as_ctrl_c(), showing_progress() as observe:
            heard = Heard(observe)
            with daemon.follow(path_of(vm, "sync"), {"resync": resync}) as events:
                asked = True
                run = _to_the_end(vm, heard, events)
    except KeyboardInterrupt:
        if asked:
            said = f"replicad: the cycle of {vm} goes on in the daemon; 'replicad status {vm}' tells how far it is"
            click.echo(printable(said), err=True)
        raise
    return _facts(run, heard.warnings)


def _to_the_end(vm: str, heard: Heard, events: Iterator[ServerEvent]) -> Run:
    """The cycle that is done. BusyError if none will begin, UnreachableError if the stream ends without an end."""
    for event in events:
        data = event.data
        match event.name:
            case "waiting":
                behind = data["behind"]
                heard.enter("waiting for a place" if behind is None else "waiting for the cycle under way", None)
            case "progress":
                heard.progress(data)
            case "warning":
                heard.warning(data["text"])
            case "cancelled":
                hint = f"'replicad status {vm}' tells how it stands."
                raise BusyError("follow", f"the cycle of {vm}", data["text"], hint)
            case "ended":
                return _done(data)
    answer = "the daemon ended the connection before the cycle had ended"
    hint = f"It goes on with the cycle when it runs again; 'replicad status {vm}' tells."
    raise UnreachableError("follow", f"the cycle of {vm}", answer, hint)


def _done(run: Run) -> Run:
    """The cycle, if it is done; else what it ended with."""
    if run["outcome"] == "done":
        return run
    failure = run["failure"]
    if failure is None:
        answer = "it was stopped before its end"
        raise BusyError("finish", f"the cycle of {run['vm']}", answer, "The next one goes on with it.")
    raise ToldError(failure["error"], failure["text"], _exit_code_of(failure["error"]))


def _exit_code_of(name: str) -> int:
    """What a command ends with that meets the error of this name."""
    kind = getattr(errors, name, None)
    return kind.exit_code if isinstance(kind, type) and issubclass(kind, ReplicadError) else ReplicadError.exit_code


def _facts(run: Run, warnings: list[str]) -> dict[str, Any]:
    """As of a cycle that was run here."""
    took = datetime.fromisoformat(run["ended_at"]) - datetime.fromisoformat(run["started_at"])
    return {
        "vm": run["vm"],
        "point": run["point"],
        "kind": run["kind"],
        "consistency": run["consistency"],
        "time": datetime.fromisoformat(run["point_time"]).isoformat(),
        "scanned_bytes": run["scanned_bytes"],
        "changed_bytes": run["changed_bytes"],
        "sent_bytes": run["sent_bytes"],
        "undo_bytes": run["undo_bytes"],
        "duration_s": max(0.0, took.total_seconds()),
        "provenance": run["provenance"],
        "resumed": run["resumed"],
        "attempts": run["attempts"],
        "warnings": warnings,
    }
