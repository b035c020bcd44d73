"""The consistency method `none`: nobody writes the disks while they are read, or there is no point.

Every file is held (opened so that nobody can write it, DESIGN §5) before the first byte is read, and all of them until
the last one was. Whatever is read belongs to the moment when the last hold was granted: the point is `cold`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from replicad.model.clock import Clock
from replicad.model.errors import BusyError, UnsupportedError
from replicad.model.names import path_on
from replicad.model.points import Consistency
from replicad.storage.port import OpenMode, Share

from .port import Instant, Request, Seen, SelectedFile, SnapshotFile
from .selection import Selection, select, select_files

_ASK_AGAIN_EVERY_S = 1.0
_HINT = (
    "Shut the virtual machine down for the cycle, or choose a consistency method that can read running disks: reflink, "
    "qemu or command; 'allow_fuzzy: true' accepts a copy that promises nothing."
)


@dataclass(frozen=True, slots=True)
class HeldView:
    """A `View` for any share: nobody can write the files while it is open.

    A hold that is refused is asked for again for `wait_s` seconds. With `allow_fuzzy` the files are then read without
    one, and the point says so.
    """

    share: Share
    selection: Selection
    check_path: Callable[[str], str]
    wait_s: float
    allow_fuzzy: bool
    clock: Clock

    async def select(self) -> tuple[SelectedFile, ...]:
        return await select_files(self.share, self.selection, self.check_path)

    @asynccontextmanager
    async def open(self, request: Request, instant: Instant) -> AsyncIterator[Seen]:
        async with AsyncExitStack() as files:
            await instant.before(await self.select())
            seen = await self._hold_or_wait(files)
            await instant.after()
            held = {path_on(self.share.name, f.path) for f in seen.files} | {f.path for f in seen.files}
            try:
                yield seen
            except BusyError as error:
                if error.subject not in held:
                    raise
                raise BusyError(error.op, error.subject, error.answer, _HINT) from None

    async def _hold_or_wait(self, files: AsyncExitStack) -> Seen:
        deadline = self.clock.monotonic_s() + self.wait_s
        while True:
            try:
                return await self._open_all(files, OpenMode.HOLD, Consistency.COLD, ())
            except (BusyError, UnsupportedError) as error:
                waited = isinstance(error, UnsupportedError) or self.clock.monotonic_s() >= deadline
                if waited and self.allow_fuzzy:
                    why = f"{error.subject}: {error.answer}; it was read without a hold, so the point promises nothing"
                    return await self._open_all(files, OpenMode.READ, Consistency.FUZZY, (why,))
                if waited:
                    raise type(error)(error.op, error.subject, error.answer, _HINT) from None
            await self.clock.sleep(_ASK_AGAIN_EVERY_S)

    async def _open_all(
        self, files: AsyncExitStack, mode: OpenMode, consistency: Consistency, warnings: tuple[str, ...]
    ) -> Seen:
        # All or none: while we wait for one file, nobody is kept from writing the others.
        async with AsyncExitStack() as opened:
            held: list[SnapshotFile] = []
            selected_files = await select(self.share, self.selection, self.check_path)
            for selected in selected_files.files:
                file = await opened.enter_async_context(await self.share.open(selected.path, mode))
                held.append(SnapshotFile(selected.path, selected.kind, selected.named, file, 0, 0))
            # Sizes count from here on: the last hold is granted.
            sized = [await self._sized(file, held=mode is OpenMode.HOLD) for file in held]
            taken = self.clock.now()
            files.push_async_exit(opened.pop_all())
        links = tuple(f"'{link}' is a symbolic link, and links are not followed" for link in selected_files.links)
        return Seen(tuple(sized), consistency, taken, (*warnings, *links), _confirmation(tuple(sized), consistency))

    async def _sized(self, file: SnapshotFile, *, held: bool) -> SnapshotFile:
        size_bytes = (await file.file.identity()).size_bytes
        allocated_bytes = (await self.share.stat(file.path)).allocated_bytes
        return SnapshotFile(file.path, file.kind, file.named, file.file, size_bytes, allocated_bytes, held)


def _confirmation(files: tuple[SnapshotFile, ...], consistency: Consistency) -> Callable[[], Awaitable[None]]:
    async def confirm() -> None:
        """A last read under each hold: it raises if the hold was lost meanwhile."""
        if consistency is Consistency.FUZZY:
            return
        for file in files:
            if file.size_bytes:
                await file.file.read_into(bytearray(1), 0)
            size_bytes = (await file.file.identity()).size_bytes
            if size_bytes != file.size_bytes:
                raise BusyError("read", file.path, f"its size changed to {size_bytes} bytes while it was held", _HINT)

    return confirm
