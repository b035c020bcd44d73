"""Reading a running machine's disks as its hypervisor shows them, and what it does not use under a hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from replicad.model.errors import BusyError
from replicad.model.extents import total_bytes
from replicad.model.points import Consistency
from replicad.storage.port import OpenMode, Share, ShareFile

from .held import HeldView
from .port import Freezer, Instant, Request, Seen, SelectedFile, SnapshotFile
from .selection import select_files


class Standing(Protocol):
    """Files as they were at `taken`, and why others of those asked for are not among them; `confirm` is for after the
    last byte was read."""

    @property
    def files(self) -> Mapping[str, ShareFile]: ...

    @property
    def missing(self) -> Mapping[str, str]: ...

    @property
    def consistency(self) -> Consistency: ...

    @property
    def taken(self) -> datetime: ...

    @property
    def confirm(self) -> Callable[[], Awaitable[None]]: ...


class Snapshots(Protocol):
    """Whoever can show a running machine's disks as they were."""

    def standing(self, name: str, paths: Sequence[str], *, application: bool) -> AbstractAsyncContextManager[Standing]:
        """Those of the files that the machine writes, until the context ends. BusyError if it can't be had now."""


@dataclass(frozen=True, slots=True)
class LiveView:
    """A `View` of what a hypervisor shows of a machine that runs; of one that is off, the `held` view.

    What the machine does not use is held against writing meanwhile: if somebody else writes it there is no view.
    """

    snapshots: Snapshots
    freezer: Freezer
    held: HeldView

    async def select(self) -> tuple[SelectedFile, ...]:
        return await self.held.select()

    @asynccontextmanager
    async def open(self, request: Request, instant: Instant) -> AsyncIterator[Seen]:
        if not await self.freezer.is_running():
            async with self.held.open(request, instant) as seen:
                yield seen
            return
        share = self.held.share
        selected = await select_files(share, self.held.selection, self.held.check_path)
        await instant.before(selected)
        async with AsyncExitStack() as stack:
            paths = [file.path for file in selected]
            standing = await stack.enter_async_context(
                self.snapshots.standing(request.name, paths, application=request.application)
            )
            beside = [file for file in selected if file.path not in standing.files]
            held = {file.path: await self._hold(stack, share, file, standing) for file in beside}
            await instant.after()
            files = [held.get(f.path) or await _shown(f, standing.files[f.path]) for f in selected]

            async def confirm() -> None:
                await standing.confirm()
                for file in held.values():
                    await file.file.read_into(bytearray(1), 0)  # it raises if the hold is lost

            yield Seen(tuple(files), standing.consistency, standing.taken, (), confirm)

    async def _hold(self, stack: AsyncExitStack, share: Share, file: SelectedFile, standing: Standing) -> SnapshotFile:
        try:
            opened = await stack.enter_async_context(await share.open(file.path, OpenMode.HOLD))
        except BusyError as error:
            why = standing.missing.get(file.path, "the machine does not use it")
            raise BusyError(error.op, error.subject, f"{error.answer} ({why})", error.hint) from error
        shown = await _shown(file, opened)
        return replace(shown, allocated_bytes=(await share.stat(file.path)).allocated_bytes)


async def _shown(selected: SelectedFile, file: ShareFile) -> SnapshotFile:
    size_bytes = (await file.identity()).size_bytes
    allocated_bytes = total_bytes(await file.allocated_extents())
    return SnapshotFile(selected.path, selected.kind, selected.named, file, size_bytes, allocated_bytes)
