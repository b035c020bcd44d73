"""A verification by the daemon, asked for and followed to its end."""

from __future__ import annotations

from typing import Any

from replicad.model.errors import UnreachableError

from .daemon_client import Daemon, ToldError, path_of
from .followed import following, hear_to_the_end

_NOT_FACTS = ("at", "outcome", "text", "error")


def ask_for_verification(daemon: Daemon, vm: str, *, repair: bool) -> Any:
    """Have the replica verified as soon as it is its turn; what the daemon says of that."""
    return daemon.post(path_of(vm, "verify"), {"repair": repair})


def follow_verification(daemon: Daemon, vm: str, *, repair: bool) -> dict[str, Any]:
    """The same, and show its progress until it ends; what `verify --json` prints of it.

    Ctrl-C and SIGTERM end the following, and the verification goes on. Raises what it ended with, as ToldError, and
    BusyError if it will not be done.
    """
    goes_on = f"the verification of {vm} goes on in the daemon; 'replicad status {vm}' tells how it stands"
    with following(daemon, path_of(vm, "verify"), {"repair": repair}, goes_on) as (heard, events):
        end = hear_to_the_end(vm, "verification", lambda _: "waiting for its turn", heard, events)
        if end is None:
            answer = "the daemon ended the connection before it had ended"
            hint = f"The daemon does it when it runs again; 'replicad status {vm}' tells what was found."
            raise UnreachableError("follow", f"the verification of {vm}", answer, hint)
    if (error := end["error"]) is not None:
        raise ToldError(error["kind"], end["text"], error["exit_code"])
    return {key: value for key, value in end.items() if key not in _NOT_FACTS}
