"""The port of this room: who uses the disks of a machine that is moved, and can be made to use them elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from replicad.model.address import Address
from replicad.model.moves import Side

SeenAt = Callable[[Address], str | None]
"""The name by which this host sees what lies at an address; None if it does not see it."""


class Usage(Enum):
    """Whether anybody can be writing a machine's disks."""

    RUNNING = "running"
    IDLE = "idle"
    """Nobody uses them, so they may stand still for as long as it takes."""


@dataclass(frozen=True, slots=True)
class Relocation:
    """A file of the machine: its path below the source, and where it is at the source and at the destination; there it
    is `target` below the place with the number `place`."""

    path: str
    source: Address
    destination: Address
    place: int
    target: str


class Still(Protocol):
    """A machine whose disks stand still."""

    async def check(self) -> None:
        """BusyError if they did not stand still from the beginning until now."""

    async def switch(self, files: Sequence[Relocation], *, may_go_back: bool = True) -> None:
        """From when it goes on the machine uses these disks at their destinations, where they are complete by now.

        Where it raises all of them are used as before this call: at the source, where nothing of the destinations was
        used before; unless it raises a ConflictError: then `sides` tells which. Without `may_go_back` the machine may
        have gone on at the destination with some of them already: it never comes to use those at the source again.
        """


class DiskUser(Protocol):
    """Whoever uses the disks of one machine. Made for one move."""

    async def usage(self, files: Sequence[Relocation]) -> Usage:
        """Who uses the files at the source now. BusyError if somebody does whom this one does not control, and says who
        where that can be told."""

    def still(self, files: Sequence[Relocation]) -> AbstractAsyncContextManager[Still]:
        """Inside nothing is written to the files at the source, and whatever was written is in them.

        That the machine goes on afterwards is made sure of, also when this process dies inside: at the source, or where
        it was switched to. BusyError if it can't be had now.
        """

    async def has_ended(self) -> bool:
        """Whether the machine is known to be off now. False where nobody can tell, or there is none."""

    async def sides(self, files: Sequence[Relocation]) -> Mapping[str, Side]:
        """Where each of the files, by its path, is in use now. To be asked also after a crash, and when the machine is
        off. TransientError where it can't be told now."""
