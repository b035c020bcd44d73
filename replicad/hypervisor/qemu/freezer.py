"""Having a QEMU's virtual machine stand still for a moment, and its guest at rest where that is asked for.

What undoes it is written into the freeze journal first. The machine is stopped for every moment, also when the guest's
file systems were frozen: the freeze says nothing of swap, of raw disks, nor of writes that are still in QEMU.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from replicad.hypervisor.thawing import KIND, FreezeJournal, OpenPage
from replicad.model.errors import BusyError, ReplicadError, TransientError
from replicad.model.points import Consistency
from replicad.model.progress import Observer, Warned
from replicad.storage.blocking import run_blocking
from replicad.storage.port import OpenMode, Share, ShareFile

from .agent import Agent, AgentSession
from .monitor import Monitor
from .nodes import inode_of
from .orders import Orders, carry_out, orders_from
from .overlays import refuse_overlaid
from .process import Process, identify, written_files
from .qmp import Qmp
from .sockets import MachineIsOffError

UNDO_KIND = "qemu"
"""Whose entries of the journal `undo_freeze` undoes."""
ORDERS = "orders"
"""In such an entry: what else is to be done, if anything (`orders.Orders`, as JSON)."""
_STOP = "stop"
_FREEZE = "fsfreeze"
_LOOK_UP_TIMEOUT_S = 10.0
_PATIENCE_S = 20.0
_ASK_AGAIN_EVERY_S = 0.5


_MIGRATED = ("inmigrate", "finish-migrate", "postmigrate")
_WRONG_HINT = (
    "Check that 'monitor' is the socket of the machine that uses these disks, that replicad runs as root or as QEMU's "
    "user, and who else writes them."
)


@dataclass(frozen=True, slots=True)
class DisksBelow:
    """Which files are to stand still: the `paths` of a share on this host, which has them below `directory`."""

    share: Share
    directory: str
    paths: Callable[[], Awaitable[Sequence[str]]]


class QemuFreezer:
    """A `Freezer` of the machine at one monitor. `agent`: the one in its guest, if it has one.

    `disks`, if given, are seen to stand still all of them: what this QEMU does not write is held against writing, and
    if somebody writes it that is a BusyError. Without, it is the caller's business which files QEMU uses.
    `journal` is the freeze journal of this host, in which the machine goes by the name `vm`; `observe` hears why a
    guest was not quiesced although that was asked for.
    """

    def __init__(
        self,
        monitor: Monitor,
        agent: Agent | None,
        journal: FreezeJournal,
        vm: str,
        observe: Observer,
        disks: DisksBelow | None = None,
    ) -> None:
        self._monitor = monitor
        self._agent = agent
        self._journal = journal
        self._vm = vm
        self._observe = observe
        self._disks = disks

    @asynccontextmanager
    async def frozen(self, *, application: bool) -> AsyncIterator[Consistency]:
        """As the port says. A machine that its user has paused stays paused."""
        async with self._journal.of(self._vm) as page, self._monitor.session() as qmp, AsyncExitStack() as thaw:
            running = await is_executing(qmp)
            if self._disks is not None:
                await self._hold_others(self._disks, qmp, thaw)
            quiesced = False
            if application and self._agent is not None:
                quiesced = running and await self._quiesce(self._agent, page, thaw)
                if not running:
                    self._warn("the machine is paused")
            if running:
                await thaw.enter_async_context(self._stopped(qmp, page))
            yield Consistency.APPLICATION if quiesced else Consistency.CRASH

    async def _hold_others(self, disks: DisksBelow, qmp: Qmp, stack: AsyncExitStack) -> None:
        """Hold what this QEMU does not write until `stack` is closed, which raises if a hold was lost meanwhile."""
        paths = await disks.paths()

        def look() -> list[str]:
            process = identify(qmp.pid)
            written = None if process is None else written_files(process)
            return [p for p in paths if written is None or inode_of(f"{disks.directory}/{p}") not in written]

        why = "the QEMU at this monitor does not write it, or that can't be seen"
        executor = self._monitor.executor
        await refuse_overlaid(qmp, executor, disks.directory, paths)
        for path in await run_blocking(executor, "look at", "QEMU's files", look, _LOOK_UP_TIMEOUT_S):
            try:
                held = await stack.enter_async_context(await disks.share.open(path, OpenMode.HOLD))
            except BusyError as error:
                raise BusyError(error.op, error.subject, f"{error.answer} ({why})", _WRONG_HINT) from error
            stack.push_async_exit(_see_that_it_was_held(held))

    async def is_running(self) -> bool:
        """As the port says: False if nobody listens at the monitor's socket."""
        try:
            async with self._monitor.session():
                return True
        except MachineIsOffError:
            return False
        except ReplicadError:
            return True

    @asynccontextmanager
    async def _stopped(self, qmp: Qmp, page: OpenPage) -> AsyncIterator[None]:
        process = await identified(self._monitor, qmp)
        how = {KIND: UNDO_KIND, "monitor": str(self._monitor.path), "process": str(process or "")}

        async def resume() -> None:
            await persistently(lambda: _resume(self._monitor, process))

        async with page.undone(_STOP, how, resume):
            # QEMU returns when what was under way is done and all disks are flushed.
            await qmp.execute("stop")
            yield

    async def _quiesce(self, agent: Agent, page: OpenPage, thaw: AsyncExitStack) -> bool:
        """Freeze the guest's file systems until `thaw` is closed; False, with nothing frozen, if that fails."""
        async with AsyncExitStack() as frozen:
            try:
                session = await frozen.enter_async_context(agent.session())
                await frozen.enter_async_context(self._guest_thawed(agent, session, page))
                count = await session.freeze()
            except ReplicadError as error:
                self._warn(str(error))
                return False
            if not count:
                self._warn("the guest agent found no file system to freeze")
                return False
            thaw.push_async_exit(frozen.pop_all())
            thaw.push_async_exit(_see_that_it_stayed_frozen(session))
            return True

    def _guest_thawed(self, agent: Agent, session: AgentSession, page: OpenPage) -> AbstractAsyncContextManager[None]:
        how = {KIND: UNDO_KIND, "agent": str(agent.path)}

        async def thaw() -> None:
            try:
                await session.thaw()
            except ReplicadError:
                await persistently(lambda: _thaw(agent))

        return page.undone(_FREEZE, how, thaw)

    def _warn(self, why: str) -> None:
        self._observe(Warned(f"{self._vm} was not quiesced, and the point is crash-consistent: {why}"))


async def is_executing(qmp: Qmp) -> bool:
    """Whether the machine's processors run. BusyError if it was migrated, or is just being: then who writes its disks
    is not to be told here."""
    status = await qmp.execute("query-status")
    if not isinstance(status, dict):
        return False
    if status.get("status") in _MIGRATED:
        answer = f"the machine is being migrated, or was: it is '{status['status']}' here"
        hint = "Give as 'monitor' the socket of the QEMU where it runs now, or end this one."
        raise BusyError("freeze", f"the machine at {qmp.subject}", answer, hint)
    return status.get("running") is True


async def undo_freeze(how: Mapping[str, str], timeout_s: float) -> None:
    """Undo what a process that died had frozen, as the journal tells it. Fine if it goes on already or is off."""
    if monitor := how.get("monitor"):
        orders = orders_from(how[ORDERS]) if ORDERS in how else Orders()
        await persistently(
            lambda: _resume_if_stopped(Monitor(Path(monitor), timeout_s), how.get("process", ""), orders)
        )
    elif agent := how.get("agent"):
        with ThreadPoolExecutor(1, thread_name_prefix="qemu-thaw") as executor:
            await persistently(lambda: _thaw(Agent(executor, Path(agent), timeout_s)))


async def _resume(monitor: Monitor, process: Process | None) -> None:
    """The machine was running when it was stopped, so it is to run again, whatever became of the stop."""
    try:
        async with monitor.session() as qmp:
            if await identified(monitor, qmp) == process:
                await qmp.execute("cont")
    except MachineIsOffError:
        return


async def _resume_if_stopped(monitor: Monitor, process: str, orders: Orders) -> None:
    """Long after the stop: if it is another machine by now, or goes on, or has come to a stop otherwise, it is not ours
    to resume."""
    try:
        async with monitor.session() as qmp:
            status = await qmp.execute("query-status")
            if str(await identified(monitor, qmp) or "") == process:
                resume = orders.resume and status.get("status") == "paused"
                before = () if status.get("running") else orders.before
                await carry_out(qmp, replace(orders, before=before, resume=resume))
    except MachineIsOffError:
        return


async def _thaw(agent: Agent) -> None:
    try:
        async with agent.session() as session:
            await session.thaw()
    except MachineIsOffError:
        return


def _see_that_it_stayed_frozen(session: AgentSession) -> Callable[..., Awaitable[None]]:
    async def look(kind: object, error: object, trace: object) -> None:
        # Guests thaw by themselves: Windows after ten seconds, others when somebody inside says so.
        if error is None and not await session.is_frozen():
            answer = "its file systems did not stay frozen until all disks were seen"
            raise BusyError("quiesce", "the guest", answer, "Try again; look for what thaws them in the guest.")

    return look


def _see_that_it_was_held(file: ShareFile) -> Callable[..., Awaitable[None]]:
    async def look(kind: object, error: object, trace: object) -> None:
        if error is None:
            await file.read_into(bytearray(1), 0)

    return look


async def identified(monitor: Monitor, qmp: Qmp) -> Process | None:
    """Which process it is; None if that can't be seen."""
    pid = qmp.pid
    return await run_blocking(monitor.executor, "look at", f"process {pid}", lambda: identify(pid), _LOOK_UP_TIMEOUT_S)


async def persistently(undo: Callable[[], Awaitable[None]]) -> None:
    """A machine that stands still is worth some patience."""
    deadline = asyncio.get_running_loop().time() + _PATIENCE_S
    while True:
        try:
            return await undo()
        except TransientError:
            if asyncio.get_running_loop().time() >= deadline:
                raise
        await asyncio.sleep(_ASK_AGAIN_EVERY_S)
