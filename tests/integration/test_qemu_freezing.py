"""A real QEMU stands still for a moment and goes on, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from replicad.hypervisor.qemu.agent import Agent
from replicad.hypervisor.qemu.freezer import UNDO_KIND, QemuFreezer, undo_freeze
from replicad.hypervisor.qemu.monitor import Monitor
from replicad.hypervisor.thawing import KIND
from replicad.model.errors import BusyError, ReplicadError, TimedOutError, UnreachableError, UnsupportedError
from replicad.model.points import Consistency
from replicad.model.progress import ProgressEvent, Warned
from replicad.storage.memory import MemoryShare
from tests.support.qemu import Qemu, connected, journal_in, make_vhdx, running_qemu
from tests.support.qemu_faults import Blow, Commands, struck
from tests.support.world import SteadyClock

VM = "웹 🖥"


@dataclass
class Frozen:
    """A freezer, what it journals, and what it tells."""

    qemu: Qemu
    share: MemoryShare = field(default_factory=MemoryShare)
    events: list[ProgressEvent] = field(default_factory=list)
    timeout_s: float = 20

    def __post_init__(self) -> None:
        self.journal = journal_in(self.share, SteadyClock().clock(), self.events.append)
        self.monitor = Monitor(self.qemu.monitor, self.timeout_s)

    def freezer(self, agent: Path | None = None) -> QemuFreezer:
        asked = Agent(self.monitor.executor, agent, 2) if agent else None
        return QemuFreezer(self.monitor, asked, self.journal, VM, self.events.append)

    async def left(self) -> tuple[str, ...]:
        return await self.journal.left()

    def warnings(self) -> str:
        return "\n".join(event.text for event in self.events if isinstance(event, Warned))


@asynccontextmanager
async def machine(tmp_path: Path, *, paused: bool = False) -> AsyncIterator[Frozen]:
    async with running_qemu([make_vhdx(tmp_path / "디스크 🖥.vhdx")], paused=paused) as qemu:
        yield Frozen(qemu)


async def test_a_running_machine_is_stopped_inside_and_goes_on_after(tmp_path: Path) -> None:
    async with machine(tmp_path) as it:
        async with it.freezer().frozen(application=False) as reached:
            assert reached is Consistency.CRASH
            assert await it.qemu.own.status() == "paused"
            assert await it.left() == (VM,)
        assert await it.qemu.own.status() == "running"
        assert await it.left() == ()
        assert not it.events


async def test_a_machine_that_its_user_has_paused_stays_so(tmp_path: Path) -> None:
    async with machine(tmp_path) as it:
        await it.qemu.own.execute("stop")
        async with it.freezer().frozen(application=False) as reached:
            assert reached is Consistency.CRASH
        assert await it.qemu.own.status() == "paused"
        assert await it.freezer().is_running()


async def test_a_machine_that_is_about_to_arrive_from_elsewhere_is_not_taken_for_a_paused_one(tmp_path: Path) -> None:
    """Whoever it comes from writes its disks until then."""
    async with running_qemu([], more=["-incoming", "defer"]) as qemu:
        it = Frozen(qemu)
        assert await qemu.own.status() == "inmigrate"
        with pytest.raises(BusyError, match="'inmigrate'"):
            await _through(it.freezer())
        assert await it.left() == ()


@pytest.mark.parametrize("how", ["error", "cancelled"])
async def test_it_goes_on_when_what_is_done_inside_fails(tmp_path: Path, how: str) -> None:
    async with machine(tmp_path) as it:
        inside = asyncio.Event()

        async def work() -> None:
            async with it.freezer().frozen(application=False):
                inside.set()
                if how == "error":
                    raise BusyError("clone", "a disk", "no")
                await asyncio.Event().wait()

        task = asyncio.ensure_future(work())
        await inside.wait()
        if how == "cancelled":
            task.cancel()
        with pytest.raises((BusyError, asyncio.CancelledError)):
            await task
        assert await it.qemu.own.status() == "running"
        assert await it.left() == ()


@pytest.mark.parametrize("is_done", [False, True])
async def test_it_goes_on_at_once_when_a_command_is_not_answered_in_time(tmp_path: Path, is_done: bool) -> None:
    """Its socket serves one client at a time, and the one that is given up must not be in the way of the next."""
    async with machine(tmp_path) as it:
        blow = Blow.LATE if is_done else Blow.SILENT
        with struck(Commands(it.qemu, 2, blow)) as commands, pytest.raises(TimedOutError, match="'stop'"):
            await _through(it.freezer())
        assert commands.log == ["query-status", "stop", "cont"]
        assert await it.qemu.own.status() == "running"
        assert await it.left() == ()
        assert not it.events


async def test_cancelled_after_any_number_of_steps_it_never_stays_stopped(tmp_path: Path) -> None:
    async with machine(tmp_path) as it:
        steps, done = 0, False
        while not done:
            task = asyncio.ensure_future(_through(it.freezer()))
            for _ in range(steps):
                await asyncio.sleep(0)
            done = task.done()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert await it.qemu.own.status() == "running"
            assert await it.left() == ()
            steps += 1 + steps // 8
        assert steps > 20
        await _through(it.freezer())


async def _through(freezer: QemuFreezer) -> None:
    async with freezer.frozen(application=False):
        pass


async def test_a_lost_connection_inside_is_made_anew_to_resume(tmp_path: Path) -> None:
    async with machine(tmp_path) as it:
        async with it.freezer().frozen(application=False), it.monitor.session() as qmp:
            await qmp.close()
        assert await it.qemu.own.status() == "running"


async def test_a_process_that_died_is_undone_from_the_journal(tmp_path: Path) -> None:
    async with machine(tmp_path) as it:
        how: dict[str, str] = {}

        async with it.freezer().frozen(application=False), it.monitor.session():
            page = [p async for p in _entries(it.share)]
            how.update(page[0])
        assert how[KIND] == UNDO_KIND
        await it.qemu.own.execute("stop")
        await undo_freeze(how, 5)
        assert await it.qemu.own.status() == "running"
        await it.qemu.own.execute("stop")
        # Another machine listens there now.
        await undo_freeze(how | {"process": "1:1"}, 5)
        assert await it.qemu.own.status() == "paused"
        await it.qemu.kill()
        await undo_freeze(how, 5)


async def _entries(share: MemoryShare) -> AsyncIterator[dict[str, str]]:
    import json

    from replicad.storage.documents import read_whole

    for entry in await share.list("frozen"):
        if entry.name.endswith(".json"):
            page = json.loads(await read_whole(share, f"frozen/{entry.name}", 2**20))
            for one in page["entries"]:
                yield dict(one["how"])


async def test_qemu_killed_inside_raises_or_not_but_leaves_a_journal_that_is_undone(tmp_path: Path) -> None:
    async with machine(tmp_path) as it:
        async with it.freezer().frozen(application=False):
            await it.qemu.kill()
        # There is nothing to resume any more.
        assert await it.left() == ()
        assert not await it.freezer().is_running()


async def test_a_monitor_that_another_client_holds_is_told_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicad.hypervisor.qemu.qmp.GREETING_TIMEOUT_S", 0.3)
    async with machine(tmp_path) as it:
        async with connected(it.qemu.monitor):
            with pytest.raises(BusyError, match=r"one client at a time.*docs/qemu\.md"):
                await _through(it.freezer())
            # Nobody can tell from here, so it may run.
            assert await it.freezer().is_running()
        assert await it.qemu.own.status() == "running"
        await _through(it.freezer())


async def test_what_is_no_monitor_is_told(tmp_path: Path) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0\n")
        await writer.drain()
        writer.close()

    path = tmp_path / ("깊은 " * 30) / "monitor"
    path.parent.mkdir()
    with contextlib.chdir(path.parent):
        server = await asyncio.start_unix_server(babble, "monitor")
    async with server:
        with pytest.raises(UnsupportedError, match="no QMP monitor"):
            async with Monitor(path, 1).session():
                pass


@pytest.mark.parametrize("there", [False, True])
async def test_without_a_listener_the_machine_is_off(tmp_path: Path, there: bool) -> None:
    if there:
        server = await asyncio.start_unix_server(lambda reader, writer: None, tmp_path / "qmp")
        server.close()
        await server.wait_closed()
    journal = journal_in(MemoryShare(), SteadyClock().clock(), lambda event: None)
    freezer = QemuFreezer(Monitor(tmp_path / "qmp", 1), None, journal, VM, lambda event: None)
    assert not await freezer.is_running()
    with pytest.raises(UnreachableError, match="docs/qemu"):
        await _through(freezer)


Answer = Callable[[dict[str, object]], Awaitable[bytes]]


@asynccontextmanager
async def pretended_agent(path: Path, answers: dict[str, list[bytes]]) -> AsyncIterator[list[str]]:
    """Something that answers at an agent's socket; what it was asked. The last answer to a command stays."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                request = json.loads(line.lstrip(b"\xff"))
                command = str(request["execute"])
                if command == "guest-sync-delimited" and command not in answers:
                    writer.write(b'{"return": 7}\n\xff{"return": 1}\n')
                    answer = b"\xff" + json.dumps({"return": request["arguments"]["id"]}).encode() + b"\n"
                else:
                    asked.append(command)
                    of = answers.get(command, [b""])
                    answer = of.pop(0) if len(of) > 1 else of[0]
                writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        yield asked


FROZEN, THAWED, ONE, NONE = b'{"return": "frozen"}\n', b'{"return": "thawed"}\n', b'{"return": 1}\n', b'{"return": 0}\n'
REFUSED = b'{"error": {"class": "GenericError", "desc": "no VSS today"}}\n'


async def test_a_guest_that_freezes_is_thawed_after_the_machine_goes_on(tmp_path: Path) -> None:
    answers = {"guest-fsfreeze-freeze": [ONE], "guest-fsfreeze-status": [FROZEN], "guest-fsfreeze-thaw": [ONE]}
    async with machine(tmp_path) as it, pretended_agent(tmp_path / "qga", answers) as asked:
        async with it.freezer(tmp_path / "qga").frozen(application=True) as reached:
            assert reached is Consistency.APPLICATION
            assert asked == ["guest-fsfreeze-freeze"]
            assert await it.qemu.own.status() == "paused"
        assert asked == ["guest-fsfreeze-freeze", "guest-fsfreeze-status", "guest-fsfreeze-thaw"]
        assert await it.qemu.own.status() == "running"
        assert await it.left() == ()
        async with it.freezer(tmp_path / "qga").frozen(application=False) as reached:
            assert reached is Consistency.CRASH
        assert len(asked) == 3


@pytest.mark.parametrize(
    ("freeze", "why", "thaws"),
    [
        (REFUSED, "no VSS today", 1),
        (NONE, "no file system", 1),
        (b"nonsense\n", "makes no sense", 1),
        (b"", "within 2 s", 1),
    ],
)
async def test_a_guest_that_does_not_freeze_makes_a_crash_consistent_point_with_a_warning(
    tmp_path: Path, freeze: bytes, why: str, thaws: int
) -> None:
    answers = {"guest-fsfreeze-freeze": [freeze], "guest-fsfreeze-thaw": [NONE]}
    async with machine(tmp_path) as it, pretended_agent(tmp_path / "qga", answers) as asked:
        async with it.freezer(tmp_path / "qga").frozen(application=True) as reached:
            assert reached is Consistency.CRASH
        assert why in it.warnings()
        assert asked.count("guest-fsfreeze-thaw") == thaws
        assert await it.left() == ()


@dataclass
class LateAgent:
    """One whose freeze takes longer than anybody waits for it. It serves one client at a time, and what a client that
    went away had asked for meanwhile is lost."""

    is_frozen: bool = False
    freezing: asyncio.Event = field(default_factory=asyncio.Event)
    served: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self.served:
            is_late = False
            with contextlib.suppress(OSError):
                while line := await reader.readline():
                    request = json.loads(line.lstrip(b"\xff"))
                    match str(request["execute"]):
                        case "guest-sync-delimited":
                            writer.write(b"\xff" + json.dumps({"return": request["arguments"]["id"]}).encode() + b"\n")
                        case "guest-fsfreeze-freeze":
                            is_late = self.is_frozen = True
                            self.freezing.set()
                        case _ if is_late:
                            writer.write(ONE)  # which is what the freeze has come to
                        case "guest-fsfreeze-thaw":
                            self.is_frozen = False
                            writer.write(ONE)
            writer.close()


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_freeze_that_is_answered_late_is_not_taken_for_a_thaw(tmp_path: Path, is_cancelled: bool) -> None:
    agent = LateAgent()
    async with machine(tmp_path) as it, await asyncio.start_unix_server(agent.serve, tmp_path / "qga"):

        async def through() -> None:
            asked = Agent(it.monitor.executor, tmp_path / "qga", 60 if is_cancelled else 0.3)
            freezer = QemuFreezer(it.monitor, asked, it.journal, VM, it.events.append)
            async with freezer.frozen(application=True) as reached:
                assert reached is Consistency.CRASH

        task = asyncio.ensure_future(through())
        await agent.freezing.wait()
        if is_cancelled:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.wait([task])
        assert task.cancelled() == is_cancelled
        assert not agent.is_frozen
        assert await it.qemu.own.status() == "running"
        assert await it.left() == ()


async def test_a_guest_without_an_agent_is_never_sent_a_freeze(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicad.hypervisor.qemu.agent._SYNC_TIMEOUT_S", 0.2)
    async with machine(tmp_path) as it, pretended_agent(tmp_path / "qga", {"guest-sync-delimited": [b""]}) as asked:
        async with it.freezer(tmp_path / "qga").frozen(application=True) as reached:
            assert reached is Consistency.CRASH
        assert "running in the guest" in it.warnings()
        assert asked == ["guest-sync-delimited"]


async def test_a_guest_that_thaws_by_itself_makes_no_point(tmp_path: Path) -> None:
    answers = {"guest-fsfreeze-freeze": [ONE], "guest-fsfreeze-status": [THAWED], "guest-fsfreeze-thaw": [NONE]}
    async with machine(tmp_path) as it, pretended_agent(tmp_path / "qga", answers):
        with pytest.raises(BusyError, match="did not stay frozen"):
            async with it.freezer(tmp_path / "qga").frozen(application=True):
                pass
        assert await it.qemu.own.status() == "running"
        assert await it.left() == ()


async def test_a_thaw_that_fails_is_tried_again_and_else_stays_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicad.hypervisor.qemu.freezer._PATIENCE_S", 0.6)
    monkeypatch.setattr("replicad.hypervisor.qemu.freezer._ASK_AGAIN_EVERY_S", 0.05)
    answers = {
        "guest-fsfreeze-freeze": [ONE],
        "guest-fsfreeze-status": [FROZEN],
        "guest-fsfreeze-thaw": [REFUSED, REFUSED, ONE],
    }
    async with machine(tmp_path) as it, pretended_agent(tmp_path / "qga", answers) as asked:
        async with it.freezer(tmp_path / "qga").frozen(application=True):
            pass
        assert asked.count("guest-fsfreeze-thaw") == 3
        assert await it.left() == ()
        answers["guest-fsfreeze-thaw"] = [REFUSED]
        with pytest.raises(ReplicadError, match="no VSS today"):
            async with it.freezer(tmp_path / "qga").frozen(application=True):
                pass
        assert await it.qemu.own.status() == "running"
        assert await it.left() == (VM,)
        answers["guest-fsfreeze-thaw"] = [ONE]
        [how] = [entry async for entry in _entries(it.share)]
        await undo_freeze(how, 2)
