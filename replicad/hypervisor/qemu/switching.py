"""Moving the disks of a QEMU's virtual machine while it runs: it is stopped, and goes on with other files.

The new files are opened only when they are complete, since QEMU remembers of a VHDX what it read when it opened it. A
device is given the new disk in place of the old one, which is kept open until all have theirs, so that all or none can
be given.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from replicad.hypervisor.port import DiskUser, Relocation, SeenAt, Still, Usage
from replicad.hypervisor.thawing import KIND, FreezeJournal
from replicad.model.errors import BusyError, IntegrityError, PermanentError, ReplicadError, TransientError
from replicad.model.moves import Side
from replicad.model.progress import Observer, Warned
from replicad.storage.undisturbed import undisturbed

from .freezer import ORDERS, UNDO_KIND, persistently
from .guarding import guarded
from .monitor import Monitor
from .orders import carry_out
from .sockets import MachineIsOffError
from .still import QemuStill, is_to_resume, remove_left_nodes
from .uses import Uses, find_uses, sides_in

_STOP = "stop"
_SIDES = {0: Side.SOURCE, 1: Side.DESTINATION, None: Side.NOBODY}


class QemuUser:
    """The `DiskUser` of the machine at one monitor, for one move.

    `journal` is the freeze journal of this host, in which the machine goes by the name `vm`. `when_off` stands in while
    the machine is off, and keeps those files from being written that QEMU does not use. `longest_s`: after that long a
    stopped machine goes on, whatever is going on inside `still`.
    """

    def __init__(
        self,
        monitor: Monitor,
        journal: FreezeJournal,
        vm: str,
        seen_at: SeenAt,
        when_off: DiskUser,
        observe: Observer,
        longest_s: float | None = None,
    ) -> None:
        self._monitor = monitor
        self._journal = journal
        self._vm = vm
        self._seen_at = seen_at
        self._when_off = when_off
        self._observe = observe
        self._longest_s = longest_s

    async def usage(self, files: Sequence[Relocation]) -> Usage:
        """As the port says. BusyError also where the machine uses a disk in a way in which it can't be switched."""
        uses = await self._find(files)
        if uses is None:
            return await self._when_off.usage(files)
        if not uses.used:
            answer = f"the machine at the monitor {self._monitor.path} runs, and uses none of its disks there"
            raise BusyError("move", self._vm, answer, "Is 'monitor' that of this machine?")
        if unused := _those(files, uses.unused):
            await self._when_off.usage(unused)
        return Usage.RUNNING

    @asynccontextmanager
    async def still(self, files: Sequence[Relocation]) -> AsyncIterator[Still]:
        """As the port says. A machine that its user has paused stays paused; one that uses none of them runs on."""
        async with AsyncExitStack() as stack:
            page = await stack.enter_async_context(self._journal.of(self._vm))
            uses = await self._find(files)
            if uses is None or not uses.used:
                yield await stack.enter_async_context(self._when_off.still(files))
                return
            self._tell_unknown(uses)
            held: Still | None = None
            if unused := _those(files, uses.unused):
                held = await stack.enter_async_context(self._when_off.still(unused))
            qmp = await stack.enter_async_context(self._monitor.session())
            dog = await stack.enter_async_context(guarded(self._monitor.executor, self._monitor.path, uses.process))
            await remove_left_nodes(qmp)
            still = QemuStill(
                self._monitor, self._vm, self._seen_at, uses, await is_to_resume(qmp, self._vm), held, dog
            )
            how = {KIND: UNDO_KIND, "monitor": str(self._monitor.path), "process": str(uses.process)}
            how[ORDERS] = json.dumps(still.if_we_die.as_dict())
            await stack.enter_async_context(page.undone(_STOP, how, lambda: self._go_on(still)))
            await dog.order(still.if_we_die)
            await still.begin(qmp)
            if self._longest_s is not None:
                ending = asyncio.ensure_future(self._ended_after(self._longest_s, still))
                stack.push_async_callback(_ended, ending)
            yield still

    async def has_ended(self) -> bool:
        """Whether nobody answers at its monitor."""
        try:
            async with self._monitor.session():
                return False
        except MachineIsOffError:
            return True

    async def sides(self, files: Sequence[Relocation]) -> Mapping[str, Side]:
        """As the port says. What an earlier process left undone is done first."""
        try:
            await self._journal.undo_left(self._vm)
            async with self._monitor.session() as qmp:
                names = {f.path: (self._seen_at(f.source), self._seen_at(f.destination)) for f in files}
                found = await sides_in(qmp, self._monitor.executor, names)
        except MachineIsOffError:
            return await self._when_off.sides(files)
        except (PermanentError, IntegrityError) as error:
            raise TransientError(
                f"tell which disks {self._vm} uses:", error.subject, error.answer, error.hint
            ) from error
        return {path: _SIDES[number] for path, number in found.items()}

    async def _find(self, files: Sequence[Relocation]) -> Uses | None:
        """How QEMU uses the files; None if it is not there."""
        try:
            async with self._monitor.session() as qmp:
                names = {file.path: self._name_of(file) for file in files}
                return await find_uses(qmp, self._monitor.executor, names)
        except MachineIsOffError:
            return None

    def _name_of(self, file: Relocation) -> str:
        name = self._seen_at(file.source)
        if name is None:
            answer = f"QEMU runs here, and by which name it sees {file.source} is not known"
            hint = "Say under 'mounts' where this host sees that share."
            raise BusyError("move", f"{file.path} while its machine runs", answer, hint)
        return name

    def _tell_unknown(self, uses: Uses) -> None:
        if unknown := [path for path, use in sorted(uses.used.items()) if not use.options.known]:
            self._observe(
                Warned(
                    f"{self._vm}: with which aio, locking and discard QEMU has opened {', '.join(unknown)} is not to "
                    "be seen, since it was not started with it: the new files are opened with QEMU's defaults of these"
                )
            )

    async def _go_on(self, still: QemuStill) -> None:
        refused: tuple[str, ...] = ()

        async def once() -> None:
            nonlocal refused
            try:
                async with self._monitor.session() as qmp:
                    if await still.is_same(qmp):
                        refused = await carry_out(qmp, still.orders)
            except MachineIsOffError:
                return

        if not still.is_over:
            await persistently(once)
            still.is_over = True
            still.dog.is_needed = False
            if refused:
                self._observe(Warned(f"{self._vm}: QEMU keeps what is not needed any more: {'; '.join(refused)}"))

    async def _ended_after(self, longest_s: float, still: QemuStill) -> None:
        await asyncio.sleep(longest_s)
        async with still.lock:
            await undisturbed(self._go_on(still))


def _those(files: Sequence[Relocation], paths: Sequence[str]) -> list[Relocation]:
    return [file for file in files if file.path in paths]


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    # What it could not do is tried again, and told of, in the end.
    with suppress(asyncio.CancelledError, ReplicadError):
        await task
