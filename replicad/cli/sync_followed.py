"""A cycle that the daemon runs, followed to its end: the same progress, report and exit code as of one run here."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from replicad.model import errors
from replicad.model.errors import BusyError, ReplicadError, UnreachableError

from .daemon_client import Daemon, ToldError, path_of
from .followed import following, hear_to_the_end

Run = Mapping[str, Any]


def ask_for_cycle(daemon: Daemon, vm: str, *, resync: bool) -> Any:
    """Have a cycle begin as soon as there is a place for it; what the daemon says of that."""
    return daemon.post(path_of(vm, "sync"), {"resync": resync})


def follow_cycle(daemon: Daemon, vm: str, *, resync: bool) -> dict[str, Any]:
    """The same, and show its progress until it ends; what `sync --json` prints of it.

    Ctrl-C and SIGTERM end the following, and the cycle goes on. Raises what the cycle ended with, as ToldError, and
    BusyError if it was stopped or will not begin.
    """
    goes_on = f"the cycle of {vm} goes on in the daemon; 'replicad status {vm}' tells how far it is"
    with following(daemon, path_of(vm, "sync"), {"resync": resync}, goes_on) as (heard, events):
        run = hear_to_the_end(vm, "cycle", _waiting, heard, events)
        if run is None:
            answer = "the daemon ended the connection before the cycle had ended"
            hint = f"It goes on with the cycle when it runs again; 'replicad status {vm}' tells."
            raise UnreachableError("follow", f"the cycle of {vm}", answer, hint)
        done = _done(run)
    return _facts(done, heard.warnings)


def _waiting(data: Mapping[str, Any]) -> str:
    return "waiting for a place" if data["behind"] is None else "waiting for the cycle under way"


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
        "tracking": run["tracking"],
        "warnings": warnings,
    }
