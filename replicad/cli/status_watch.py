"""`replicad status --watch`: a table that goes on showing how things stand; plain lines where there is no terminal."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from replicad.model.errors import TimedOutError, UnreachableError
from replicad.model.names import printable

from .daemon_client import Daemon, ToldError, path_of
from .interrupts import sigterm_as_ctrl_c
from .output import print_line
from .status_table import DAEMON_HEADERS, RIGHT, Machine, daemon_row, news, reasons, worst_first

if TYPE_CHECKING:
    from rich.console import RenderableType

    Show = Callable[[Sequence[Machine] | None, datetime], None]

_EVERY_S = 1.0
_TIMES_AS_LONG = 10
"""A daemon that takes long to answer is asked less often: it has better things to do."""


def watch(daemon: Daemon, vm: str | None) -> None:
    """Show one machine or all of them until Ctrl-C or SIGTERM. While the daemon does not answer this is told, and it is
    waited for. ToldError, AccessDeniedError."""
    if not gc.isenabled():  # as in `run_async`: this may go on for days
        gc.freeze()
        gc.enable()
    on_terminal = sys.stdout.isatty() and os.environ.get("TERM", "") != "dumb"
    try:
        with sigterm_as_ctrl_c(), _live() if on_terminal else _lines() as show:
            _watch(lambda: look(daemon, vm), show)
    except KeyboardInterrupt:
        return


def look(daemon: Daemon, vm: str | None) -> list[Any]:
    """One machine, or all of them, as the API tells of them."""
    found = daemon.get("/vms" if vm is None else path_of(vm))
    return found if isinstance(found, list) else [found]


def _watch(ask: Callable[[], list[Any]], show: Show) -> None:
    while True:
        began_s = time.monotonic()
        machines: list[Any] | None = None
        try:
            machines = ask()
        except (UnreachableError, TimedOutError):
            pass
        except ToldError as error:
            if error.kind in ("NotFoundError", "AccessDeniedError"):
                raise
            # it is stopping, or not ready yet
        show(machines, datetime.now(UTC))
        took_s = time.monotonic() - began_s if machines is not None else 0.0
        time.sleep(max(_EVERY_S, _TIMES_AS_LONG * took_s))


@contextmanager
def _lines() -> Iterator[Show]:
    """A line for each machine at first, then one for each thing that happens."""
    seen: dict[str, Machine] = {}
    answers = True

    def say(now: datetime, text: str) -> None:
        print_line(f"{now:%Y-%m-%d %H:%M:%S} {text}")

    def show(machines: Sequence[Machine] | None, now: datetime) -> None:
        nonlocal answers
        if (machines is not None) != answers:
            answers = machines is not None
            say(now, "the daemon is back" if answers else "the daemon does not answer; waiting for it")
        if machines is None:
            return
        for machine in machines:
            for text in news(seen.get(machine["vm"]), machine):
                say(now, f"{machine['vm']}: {text}")
        for vm in seen.keys() - {machine["vm"] for machine in machines}:
            say(now, f"{vm}: no longer in the configuration")
        seen.clear()
        seen.update((machine["vm"], machine) for machine in machines)

    yield show


@contextmanager
def _live() -> Iterator[Show]:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    gone_since: datetime | None = None
    last: Sequence[Machine] = ()
    with Live(console=console, auto_refresh=False, transient=False) as live:

        def show(machines: Sequence[Machine] | None, now: datetime) -> None:
            nonlocal gone_since, last
            note = ""
            if machines is None:
                gone_since = gone_since or now
                note = f"the daemon has not answered since {gone_since:%Y-%m-%d %H:%M:%S}; waiting for it"
            else:
                gone_since, last = None, machines
            live.update(picture(last, now, note, console.height), refresh=True)

        yield show


def picture(machines: Sequence[Machine], now: datetime, note: str, height: int) -> RenderableType:
    """The table, the reasons below it and a note, in so many lines; what is well is left out first if there is no room
    for all."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    # Three lines of the table are no machines, one tells of the time, and the cursor stands on one.
    room = max(1, height - 5 - bool(note))
    shown = list(machines) if len(machines) <= room else worst_first(machines)[: room - 1]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, header in enumerate(DAEMON_HEADERS):
        table.add_column(header, justify="right" if number in RIGHT else "left", no_wrap=True)
    colours = {"critical": "red", "warning": "yellow", "normal": "green"}
    for machine in shown:
        cells = [Text(printable(cell)) for cell in daemon_row(machine, now)]
        cells[2].stylize(colours.get(machine["health"], ""))
        table.add_row(*cells)
    below = [line for machine in shown for line in reasons(machine)][: max(0, room - len(shown))]
    if len(shown) < len(machines):
        below.append(f"and {len(machines) - len(shown)} more, for which there is no room here")
    lines = [Text(printable(line), no_wrap=True, overflow="ellipsis") for line in below]
    closing = Text(f"{now:%Y-%m-%d %H:%M:%S} UTC; Ctrl-C ends this", style="dim")
    return Group(table, *lines, *([Text(note, style="bold red")] if note else []), closing)
