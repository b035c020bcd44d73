"""Disks that nobody uses: they are held, so that nobody begins to, and there is nothing to be switched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from replicad.model.address import Address, SmbAddress
from replicad.model.clock import Clock
from replicad.model.errors import BusyError, NotFoundError, UnsupportedError
from replicad.model.moves import Side
from replicad.storage.blocking import run_blocking
from replicad.storage.port import OpenMode, Share, ShareFile

from .port import Relocation, SeenAt, Usage
from .qemu.nodes import inode_of
from .qemu.process import writers_of

_ASK_AGAIN_EVERY_S = 1.0
_LOOK_UP_TIMEOUT_S = 30.0
_SERVERS = ("smbd",)
"""They write for others, whom a hold keeps out; and what they have open of ours they may have to find out yet."""
_HINT = (
    "Shut the virtual machine down, or say how it can be moved while it runs: by its QEMU monitor, or by commands of "
    "your own (docs/moving.md)."
)


@dataclass(frozen=True, slots=True)
class HeldUser:
    """A `DiskUser` of disks that are not in use. A hold that is refused is asked for again for `wait_s` seconds.

    `seen_at` tells by which name programs on this host reach what is on a share: past its server, which knows nothing
    of them, if that is here. They are looked for among the processes.
    """

    source: Share
    places: Sequence[Share]
    wait_s: float
    clock: Clock
    seen_at: SeenAt

    async def usage(self, files: Sequence[Relocation]) -> Usage:
        async with AsyncExitStack() as held:
            await self._hold_or_wait(held, files)
        return Usage.IDLE

    @asynccontextmanager
    async def still(self, files: Sequence[Relocation]) -> AsyncIterator[StillHeld]:
        """As the port says. Where the source is on a server nobody can rename or delete its files meanwhile."""
        async with AsyncExitStack() as held:
            yield StillHeld(await self._hold_or_wait(held, files))

    async def has_ended(self) -> bool:
        """False: there is none."""
        return False

    async def sides(self, files: Sequence[Relocation]) -> Mapping[str, Side]:
        writers = await self._writers_past_a_share([at for file in files for at in (file.source, file.destination)])
        return {file.path: await self._side(file, writers) for file in files}

    async def _side(self, file: Relocation, writers: Mapping[Address, str]) -> Side:
        if file.source in writers or await is_written(self.source, file.path):
            return Side.SOURCE
        if file.destination in writers or await is_written(self.places[file.place], file.target):
            return Side.DESTINATION
        return Side.NOBODY

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
                    for address, writer in (await self._writers_past_a_share([f.source for f in files])).items():
                        raise BusyError("move", str(address), f"{writer} on this host has it open for writing", _HINT)
                    held.push_async_exit(opened.pop_all())
                    return hold
            except (BusyError, UnsupportedError) as error:
                if isinstance(error, UnsupportedError) or self.clock.monotonic_s() >= deadline:
                    raise type(error)("move", error.subject, error.answer, _HINT) from None
            await self.clock.sleep(_ASK_AGAIN_EVERY_S)

    async def _writers_past_a_share(self, addresses: Sequence[Address]) -> Mapping[Address, str]:
        """Which of these programs on this host write, without its server, and which programs."""
        names = {at: name for at in addresses if isinstance(at, SmbAddress) and (name := self.seen_at(at)) is not None}

        def look() -> dict[Address, str]:
            inodes = {at: inode for at, name in names.items() if (inode := inode_of(name)) is not None}
            found = writers_of(frozenset(inodes.values()), without=_SERVERS) if inodes else {}
            return {at: found[inode] for at, inode in inodes.items() if inode in found}

        if not names:
            return {}
        executor = ThreadPoolExecutor(1, thread_name_prefix="replicad-writers")
        try:
            return await run_blocking(executor, "look for", "who writes the disks", look, _LOOK_UP_TIMEOUT_S)
        finally:
            executor.shutdown(wait=False)


@dataclass(frozen=True, slots=True)
class StillHeld:
    """`files` are held."""

    files: Sequence[ShareFile]

    async def check(self) -> None:
        for file in self.files:
            await file.read_into(bytearray(1), 0)  # it raises if the hold is lost

    async def switch(self, files: Sequence[Relocation], *, may_go_back: bool = True) -> None:
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
