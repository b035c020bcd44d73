"""Disks that nobody uses: they are held, so that nobody begins to, and there is nothing to be switched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from replicad.model.clock import Clock
from replicad.model.errors import BusyError, NotFoundError, UnsupportedError
from replicad.model.moves import Side
from replicad.storage.port import OpenMode, Share, ShareFile

from .port import Relocation, Usage

_ASK_AGAIN_EVERY_S = 1.0
_HINT = (
    "Shut the virtual machine down, or say how it can be moved while it runs: by its QEMU monitor, or by commands of "
    "your own (docs/moving.md)."
)


@dataclass(frozen=True, slots=True)
class HeldUser:
    """A `DiskUser` of disks that are not in use. A hold that is refused is asked for again for `wait_s` seconds."""

    source: Share
    places: Sequence[Share]
    wait_s: float
    clock: Clock

    async def usage(self, files: Sequence[Relocation]) -> Usage:
        async with AsyncExitStack() as held:
            await self._hold_or_wait(held, files)
        return Usage.IDLE

    @asynccontextmanager
    async def still(self, files: Sequence[Relocation]) -> AsyncIterator[StillHeld]:
        """As the port says. Where the source is on a server nobody can rename or delete its files meanwhile."""
        async with AsyncExitStack() as held:
            yield StillHeld(await self._hold_or_wait(held, files))

    async def sides(self, files: Sequence[Relocation]) -> Mapping[str, Side]:
        return {file.path: await self._side(file) for file in files}

    async def _side(self, file: Relocation) -> Side:
        if await is_written(self.source, file.path):
            return Side.SOURCE
        return Side.DESTINATION if await is_written(self.places[file.place], file.target) else Side.NOBODY

    async def _hold_or_wait(self, held: AsyncExitStack, files: Sequence[Relocation]) -> list[ShareFile]:
        deadline = self.clock.monotonic_s() + self.wait_s
        while True:
            try:
                # All or none: while we wait for one file, nobody is kept from writing the others.
                async with AsyncExitStack() as opened:
                    hold = [
                        await opened.enter_async_context(await self.source.open(file.path, OpenMode.HOLD))
                        for file in files
                    ]
                    held.push_async_exit(opened.pop_all())
                    return hold
            except (BusyError, UnsupportedError) as error:
                if isinstance(error, UnsupportedError) or self.clock.monotonic_s() >= deadline:
                    raise type(error)("move", error.subject, error.answer, _HINT) from None
            await self.clock.sleep(_ASK_AGAIN_EVERY_S)


@dataclass(frozen=True, slots=True)
class StillHeld:
    """`files` are held."""

    files: Sequence[ShareFile]

    async def check(self) -> None:
        for file in self.files:
            await file.read_into(bytearray(1), 0)  # it raises if the hold is lost

    async def switch(self, files: Sequence[Relocation]) -> None:
        """Nobody has to be told."""


async def is_written(share: Share, path: str) -> bool:
    """Whether somebody has the file open for writing now. UnsupportedError where that can't be told."""
    try:
        async with await share.open(path, OpenMode.HOLD):
            return False
    except NotFoundError:
        return False
    except BusyError:
        return True
