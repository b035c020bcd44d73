"""The consistency method `command` without a snapshot: the machine is frozen for the whole read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from replicad.model.clock import Clock
from replicad.storage.port import Share

from .port import Freezer, Instant, Request, Seen, SelectedFile
from .reading import confirmation, link_warnings, open_file
from .selection import Selection, select, select_files

_HINT = "Have 'freeze' make sure that nothing writes the disks before it ends, and 'thaw' alone let it write again."


@dataclass(frozen=True, slots=True)
class FrozenView:
    """A `View` for any share: the machine stands still while it is open.

    The point is what the freezer reached. Where a disk was written all the same, as far as its size and times tell
    that, there is none.
    """

    share: Share
    selection: Selection
    check_path: Callable[[str], str]
    freezer: Freezer
    clock: Clock

    async def select(self) -> tuple[SelectedFile, ...]:
        return await select_files(self.share, self.selection, self.check_path)

    @asynccontextmanager
    async def open(self, request: Request, instant: Instant) -> AsyncIterator[Seen]:
        await instant.before(await self.select())
        async with AsyncExitStack() as stack:
            reached = await stack.enter_async_context(self.freezer.frozen(application=request.application))
            taken = self.clock.now()
            selected = await select(self.share, self.selection, self.check_path)
            files = tuple([await open_file(stack, self.share, one.path, one) for one in selected.files])
            confirm = await confirmation(files, "while the machine was frozen", _HINT)
            await instant.after()
            yield Seen(files, reached, taken, link_warnings(selected.links), confirm)
