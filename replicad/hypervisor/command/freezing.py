"""Letting a machine's disks stand still by the user's own commands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from replicad.hypervisor.thawing import FreezeJournal, OpenPage
from replicad.model.points import Consistency
from replicad.model.progress import Observer

from .running import Call, CommandNotStartedError, Phase, consistency_said, run

Disks = Callable[[], Awaitable[Sequence[str]]]
"""Tells the paths of a machine's disks, as its commands are to know them."""


@dataclass(frozen=True, slots=True)
class CommandFreezer:
    """A `Freezer` by a pair of commands. What was reached is what the last line of `freeze` says: `application` or
    `crash`; `crash` if it says nothing.

    `thaw` is run once whenever `freeze` was started, however that ended.
    """

    vm: str
    freeze: tuple[str, ...] = field(repr=False)
    thaw: tuple[str, ...] = field(repr=False)
    timeout_s: float
    journal: FreezeJournal
    disks: Disks
    observe: Observer

    @asynccontextmanager
    async def frozen(self, *, application: bool) -> AsyncIterator[Consistency]:
        disks = await self.disks()
        async with self.journal.of(self.vm) as page, self.frozen_on(page, disks, application=application) as reached:
            yield reached

    @asynccontextmanager
    async def frozen_on(self, page: OpenPage, disks: Sequence[str], *, application: bool) -> AsyncIterator[Consistency]:
        """As `frozen`, for whoever has opened the machine's page already."""
        wanted = Consistency.APPLICATION if application else Consistency.CRASH
        freeze, thaw = (
            Call(self.vm, phase, arguments, tuple(disks), wanted, self.timeout_s)
            for phase, arguments in ((Phase.FREEZE, self.freeze), (Phase.THAW, self.thaw))
        )
        may_be_frozen = False

        async def undo() -> None:
            if may_be_frozen:
                await run(thaw, self.observe)

        async with page.undone(Phase.THAW, thaw.as_how(), undo):
            may_be_frozen = True
            try:
                said = await run(freeze, self.observe)
            except CommandNotStartedError:
                may_be_frozen = False
                raise
            yield consistency_said(said) or Consistency.CRASH

    async def is_running(self) -> bool:
        """True: nobody can tell."""
        return True
