"""Files read as they are at that moment, for copies that count for nothing before the last changes are in them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from replicad.model.points import Consistency
from replicad.storage.port import OpenMode, Share

from .port import Instant, Request, Seen, SelectedFile, SnapshotFile


@dataclass(frozen=True, slots=True)
class PlainView:
    """A `View` of certain files that does not stand still: whatever is written while it is open may be in it or not.

    With a tracker that notes every write since the view before, the changes of a last view of disks that do stand still
    make the copy equal to them.
    """

    share: Share
    files: tuple[SelectedFile, ...]
    now: Callable[[], datetime]

    async def select(self) -> tuple[SelectedFile, ...]:
        return self.files

    @asynccontextmanager
    async def open(self, request: Request, instant: Instant) -> AsyncIterator[Seen]:
        await instant.before(self.files)
        async with AsyncExitStack() as opened:
            shown = [await self._open(opened, selected) for selected in self.files]
            taken = self.now()
            await instant.after()
            yield Seen(tuple(shown), Consistency.FUZZY, taken, (), _nothing_to_confirm)

    async def _open(self, opened: AsyncExitStack, selected: SelectedFile) -> SnapshotFile:
        file = await opened.enter_async_context(await self.share.open(selected.path, OpenMode.READ))
        size_bytes = (await file.identity()).size_bytes
        return SnapshotFile(selected.path, selected.kind, selected.named, file, size_bytes, size_bytes)


async def _nothing_to_confirm() -> None:
    return
