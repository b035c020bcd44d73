"""What is heard of the daemon's work, told on as if it were done here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from replicad.model.errors import BusyError
from replicad.model.names import printable
from replicad.model.progress import Advanced, Observer, PhaseStarted, Warned

from .daemon_client import Daemon, ServerEvent
from .interrupts import sigterm_as_ctrl_c
from .progress import showing_progress


class Heard:
    """Tells `observe`; `warnings` are all that were heard."""

    def __init__(self, observe: Observer) -> None:
        self.warnings: list[str] = []
        self._observe = observe
        self._phase: tuple[str, int | None] | None = None
        self._done_bytes = self._sent_bytes = 0

    def warning(self, text: str) -> None:
        """A sentence."""
        self.warnings.append(text)
        self._observe(Warned(text))

    def progress(self, progress: Mapping[str, Any]) -> None:
        """How far it is, which may be less than before: then it was begun again."""
        done, sent = progress["done_bytes"], progress["sent_bytes"]
        begun_again = done < self._done_bytes or sent < self._sent_bytes
        self.enter(progress["phase"], progress["total_bytes"], again=begun_again)
        if (done, sent) != (self._done_bytes, self._sent_bytes):
            self._observe(Advanced(done - self._done_bytes, sent - self._sent_bytes))
            self._done_bytes, self._sent_bytes = done, sent

    def enter(self, phase: str, total_bytes: int | None, *, again: bool = False) -> None:
        """It is in this phase."""
        if self._phase == (phase, total_bytes) and not again:
            return
        self._phase = phase, total_bytes
        self._done_bytes = self._sent_bytes = 0
        self._observe(PhaseStarted(phase, total_bytes))


@contextmanager
def following(
    daemon: Daemon, path: str, order: dict[str, Any], goes_on: str
) -> Iterator[tuple[Heard, Iterator[ServerEvent]]]:
    """Give the daemon an order: who shows what is heard of it, and what the daemon tells until the stream ends.

    Ctrl-C and SIGTERM end the following alone, and `goes_on` says so if the daemon had taken the order.
    """
    taken = False
    try:
        with sigterm_as_ctrl_c(), showing_progress() as observe, daemon.follow(path, order) as events:
            taken = True
            yield Heard(observe), events
    except KeyboardInterrupt:
        if taken:
            click.echo(printable(f"replicad: {goes_on}"), err=True)
        raise


def hear_to_the_end(
    vm: str, work: str, waiting: Callable[[Any], str], heard: Heard, events: Iterator[ServerEvent]
) -> Any | None:
    """What the `work` for this machine ended with; None if the stream ends without that. BusyError if it is not done.

    `waiting` names the phase before it begins.
    """
    for event in events:
        match event.name:
            case "waiting":
                heard.enter(waiting(event.data), None)
            case "progress":
                heard.progress(event.data)
            case "warning":
                heard.warning(event.data["text"])
            case "cancelled":
                hint = f"'replicad status {vm}' tells how it stands."
                raise BusyError("follow", f"the {work} of {vm}", event.data["text"], hint)
            case "ended":
                return event.data
    return None
