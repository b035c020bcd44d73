"""What has a machine go on that was stopped: commands to QEMU before and after, which whoever is left carries out.

That is the process that stopped it, its watchdog if it dies, or the next process, from the freeze journal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from replicad.model.errors import IntegrityError, PermanentError

from .graph import query_graph
from .qmp import Qmp


@dataclass(frozen=True, slots=True)
class Command:
    """A command to QEMU; only if something uses one node, and another is there, where such are given."""

    execute: str
    arguments: Mapping[str, object]
    if_used: str | None = None
    if_there: str | None = None

    def as_dict(self) -> dict[str, object]:
        """As the watchdog reads it."""
        named: dict[str, object] = {"execute": self.execute, "arguments": dict(self.arguments)}
        conditions = {"if_used": self.if_used, "if_there": self.if_there}
        return named | {name: node for name, node in conditions.items() if node is not None}


@dataclass(frozen=True, slots=True)
class Orders:
    """What to do `before` the machine goes on, whether it is to go on at all, and what to do `after`."""

    before: tuple[Command, ...] = ()
    resume: bool = True
    after: tuple[Command, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """As the watchdog reads it."""
        return {
            "before": [command.as_dict() for command in self.before],
            "resume": self.resume,
            "after": [command.as_dict() for command in self.after],
        }


def orders_from(text: str) -> Orders:
    """Orders that were written down as JSON; IntegrityError if they make no sense."""
    try:
        told = json.loads(text)
        before, after = (tuple(Command(**command) for command in told[part]) for part in ("before", "after"))
        return Orders(before, bool(told["resume"]), after)
    except (ValueError, KeyError, TypeError):
        answer = "what was written down of how to do it makes no sense"
        raise IntegrityError("have go on", "the machine", answer, "Tell QEMU to go on by hand ('cont').") from None


async def carry_out(qmp: Qmp, orders: Orders) -> tuple[str, ...]:
    """Carry them out; what QEMU refused of the commands before and after, as clauses: the machine goes on all the
    same. Raises what `Qmp.execute` does where it can't be told to go on, or the connection is lost."""
    refused = await run_all(qmp, orders.before)
    if orders.resume:
        await qmp.execute("cont")
    if await run_all(qmp, orders.after):
        # What could not be closed stays open for as long as the machine runs, so it is worth another try.
        refused = (*refused, *await run_all(qmp, orders.after))
    return refused


async def run_all(qmp: Qmp, commands: Sequence[Command]) -> tuple[str, ...]:
    """Run those that apply, in their order; what QEMU refused, as clauses."""
    refused: list[str] = []
    for command in commands:
        try:
            if await _applies(qmp, command):
                await qmp.execute(command.execute, command.arguments)
        except PermanentError as error:
            refused.append(error.answer)
    return tuple(refused)


async def _applies(qmp: Qmp, command: Command) -> bool:
    # QEMU 7.2 aborts when a device is given the node that it has already, so this is no mere economy.
    if command.if_used is None and command.if_there is None:
        return True
    graph = await query_graph(qmp)
    is_used = command.if_used is None or graph.is_used(command.if_used)
    return is_used and (command.if_there is None or command.if_there in graph.names)
