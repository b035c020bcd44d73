"""What is frozen goes on again, whatever dies or fails at whichever step."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from replicad.hypervisor.thawing import KIND, FreezeJournal
from replicad.model.clock import Clock
from replicad.model.errors import (
    AccessDeniedError,
    BusyError,
    IntegrityError,
    PermanentError,
    ReplicadError,
    UnreachableError,
)
from replicad.model.progress import ProgressEvent, Warned
from replicad.storage.decorated import DecoratedShare
from replicad.storage.local import LocalShare
from replicad.storage.memory import MemoryShare
from replicad.storage.port import LockHolder, OpenMode, Share, ShareFile
from tests.support.faulty import CRASHES, Crash, Fault, FaultyShare, When, crashes
from tests.support.world import SteadyClock

VM = "웹 서버 🖥"
SECRET = "한글 $ecret"


class Guest:
    """Something that can be frozen, and counts how often it is thawed."""

    def __init__(self) -> None:
        self.frozen = False
        self.thaws = 0
        self.events: list[ProgressEvent] = []
        self.failure: ReplicadError | None = None

    def journal(
        self, share: Share | None, kinds: tuple[str, ...] = ("test",), clock: Clock | None = None
    ) -> FreezeJournal:
        """The journal of one process's life."""

        async def undo(vm: str, how: Mapping[str, str]) -> None:
            assert (vm, how["with"]) == (VM, SECRET)
            if isinstance(share, FaultyShare):
                share.alive()
            await self.thaw()

        holder = LockHolder("host", "machine", "boot", 1, "1", "2026-01-01T00:00:00Z")
        return FreezeJournal(
            share, lambda: holder, clock or SteadyClock().clock(), dict.fromkeys(kinds, undo), self.events.append
        )

    async def thaw(self) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.frozen = False
        self.thaws += 1

    async def cycle(self, share: Share) -> None:
        """Frozen once, thawed once."""

        async def thaw() -> None:
            if isinstance(share, FaultyShare):
                share.alive()
            await self.thaw()

        async with self.journal(share).of(VM) as page, page.undone("thaw", {KIND: "test", "with": SECRET}, thaw):
            self.frozen = True
            await asyncio.sleep(0)

    def told(self) -> str:
        return "\n".join(event.text for event in self.events if isinstance(event, Warned))


async def test_what_was_frozen_is_thawed_once_and_nothing_is_left() -> None:
    guest, share = Guest(), MemoryShare()
    await guest.cycle(share)
    assert (guest.frozen, guest.thaws, guest.events) == (False, 1, [])
    assert await guest.journal(share).left() == ()
    assert await share.list("frozen") == []


async def test_without_a_thaw_of_ones_own_the_registered_one_is_run() -> None:
    guest, share = Guest(), MemoryShare()
    async with guest.journal(share).of(VM) as page, page.undone("thaw", {KIND: "test", "with": SECRET}):
        guest.frozen = True
        assert await guest.journal(share).left() == (VM,)
    assert (guest.frozen, guest.thaws) == (False, 1)


@pytest.mark.parametrize("power_fails", [False, True])
async def test_whatever_step_a_process_dies_in_the_next_one_thaws(power_fails: bool) -> None:
    whole = FaultyShare(MemoryShare())
    await Guest().cycle(whole)
    assert len(whole.log) > 8
    left_frozen = 0
    for number in range(1, len(whole.log) + 1):
        for fault in CRASHES:
            guest, below = Guest(), MemoryShare(volatile=power_fails)
            assert await crashes(guest.cycle(FaultyShare(below.view(), {number: fault})))
            left_frozen += guest.frozen
            if power_fails:  # ours: the machine may be on another host
                below.crash(Random(number))
            thaws, was_frozen = guest.thaws, guest.frozen
            await guest.journal(below.view()).undo_all_left()
            assert not guest.frozen, (number, fault)
            assert guest.thaws <= thaws + 1
            assert guest.thaws == thaws + 1 or not was_frozen
            await guest.cycle(below.view())
            assert await guest.journal(below.view()).left() == ()
    assert left_frozen == 0  # no call on the share lies between the freeze and the thaw


@pytest.mark.parametrize("power_fails", [False, True])
async def test_a_process_that_dies_while_all_is_frozen_leaves_what_the_next_one_undoes_once(power_fails: bool) -> None:
    guest, share = Guest(), MemoryShare(volatile=power_fails)
    life = FaultyShare(share.view())

    async def die() -> None:
        async with guest.journal(life).of(VM) as page, page.undone("thaw", {KIND: "test", "with": SECRET}):
            guest.frozen = True
            life.crash()
            raise Crash

    assert await crashes(die())
    assert guest.frozen
    if power_fails:
        share.crash()
    await guest.journal(share.view()).undo_left(VM)
    assert (guest.frozen, guest.thaws) == (False, 1)
    assert "'thaw' that was due after 2026-01-01" in guest.told()
    await guest.journal(share.view()).undo_left(VM)
    assert guest.thaws == 1
    assert SECRET not in guest.told()


async def test_the_next_cycle_thaws_before_it_freezes() -> None:
    guest, share = Guest(), MemoryShare()
    async with guest.journal(share).of(VM) as page:
        await page.freezing("thaw", {KIND: "test", "with": SECRET})
    guest.frozen = True
    async with guest.journal(share).of(VM):
        assert (guest.frozen, guest.thaws) == (False, 1)


@pytest.mark.parametrize("error", [AccessDeniedError("write", "x", "no"), UnreachableError("write", "x", "gone")])
async def test_nothing_is_frozen_where_it_can_not_be_written_down(error: ReplicadError) -> None:
    whole = FaultyShare(MemoryShare())
    await Guest().cycle(whole)
    before = next(n for n, what in enumerate(whole.log) if what.startswith("remove"))
    for number in range(1, before + 1):
        guest, below = Guest(), MemoryShare()
        was_frozen = False

        async def freeze(guest: Guest, share: Share) -> None:
            nonlocal was_frozen
            async with guest.journal(share).of(VM) as page, page.undone("thaw", {KIND: "test", "with": SECRET}):
                was_frozen = True

        kind = BusyError if isinstance(error, UnreachableError) and number > 3 else type(error)
        kind = PermanentError if isinstance(error, PermanentError) else kind
        with pytest.raises(kind):
            await freeze(guest, FaultyShare(below.view(), {number: Fault(When.BEFORE, error)}))
        assert not was_frozen
        assert guest.thaws == 0


async def test_without_a_state_directory_nothing_can_be_frozen() -> None:
    journal = Guest().journal(None)
    with pytest.raises(PermanentError, match="no directory to write down how to thaw it"):
        async with journal.of(VM):
            pytest.fail("it was opened")
    assert await journal.left() == ()
    await journal.undo_left(VM)
    await journal.undo_all_left()


async def test_what_could_not_be_thawed_is_tried_again_without_a_cycle_more_and_more_rarely() -> None:
    guest, share, slept = Guest(), MemoryShare(), list[float]()
    guest.failure = BusyError("thaw", VM, "it does not answer")
    with pytest.raises(BusyError):
        await guest.cycle(share)
    thawed = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)
        if len(slept) == 7:
            guest.failure = None
        if len(slept) == 9:
            thawed.set()
            await asyncio.Event().wait()

    journal = guest.journal(share, clock=replace(SteadyClock().clock(), sleep=sleep))
    keeping = asyncio.ensure_future(journal.keep_undoing())
    await thawed.wait()
    keeping.cancel()
    await asyncio.wait([keeping])
    assert (guest.frozen, guest.thaws) == (False, 1)
    assert slept == [20, 40, 80, 160, 300, 300, 300, 20, 20]
    assert await journal.left() == ()


async def test_a_thaw_that_fails_is_loud_and_is_tried_again() -> None:
    guest, share = Guest(), MemoryShare()
    guest.failure = BusyError("thaw", VM, "it does not answer", "Thaw it by hand.")
    with pytest.raises(BusyError, match="does not answer"):
        await guest.cycle(share)
    assert guest.frozen
    assert "does not answer. Thaw it by hand. (it is tried again" in guest.told()
    await guest.journal(share).undo_all_left()
    assert guest.frozen
    with pytest.raises(BusyError, match="does not answer"):  # no cycle before that
        await guest.cycle(share)
    guest.failure = None
    await guest.journal(share).undo_left(VM)
    assert (guest.frozen, guest.thaws) == (False, 1)


async def test_the_newest_is_undone_first_but_for_what_outlasts_it_and_a_failure_keeps_none_from_it() -> None:
    share = MemoryShare()
    undone: list[str] = []
    events: list[ProgressEvent] = []

    async def undo(vm: str, how: Mapping[str, str]) -> None:
        undone.append(how["what"])
        if how["what"] == "thaw":
            raise BusyError("thaw", vm, "no")

    holder = LockHolder("host", "machine", "boot", 1, "1", "2026-01-01T00:00:00Z")
    journal = FreezeJournal(share, lambda: holder, SteadyClock().clock(), {"test": undo}, events.append)
    async with journal.of(VM) as page:
        await page.freezing("agent", {KIND: "test", "what": "agent"})
        await page.freezing("thaw", {KIND: "test", "what": "thaw"})
        await page.freezing("release", {KIND: "test", "what": "release"}, outlasts=True)
    with pytest.raises(BusyError):
        await journal.undo_left(VM)
    assert undone == ["thaw", "agent", "release"]
    with pytest.raises(BusyError):
        await journal.undo_left(VM)
    assert undone == ["thaw", "agent", "release", "thaw"]


async def test_a_cancelled_cycle_thaws_and_ends_cancelled_even_if_it_is_cancelled_again_and_again() -> None:
    guest, share = Guest(), MemoryShare()
    task: asyncio.Task[None] | None = None
    stands = asyncio.Event()

    async def thaw() -> None:
        for _ in range(3):
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        await guest.thaw()

    async def cycle() -> None:
        async with guest.journal(share).of(VM) as page, page.undone("thaw", {KIND: "test", "with": SECRET}, thaw):
            guest.frozen = True
            stands.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(cycle())
    await stands.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (guest.frozen, guest.thaws) == (False, 1)
    assert await guest.journal(share).left() == ()


async def test_cancelled_at_any_step_it_is_never_left_frozen() -> None:
    for steps in range(200):
        guest, share = Guest(), MemoryShare()
        task = asyncio.create_task(guest.cycle(share))
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.done():
            assert steps > 10
            return
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not guest.frozen
        left = await guest.journal(share).left()
        if left:  # written, and cancelled while it was taken back
            await guest.journal(share).undo_all_left()
        assert await guest.journal(share).left() == ()
    pytest.fail("it never ended")


async def test_two_at_a_time_are_not_let_in_and_do_not_thaw_each_other() -> None:
    guest, share = Guest(), MemoryShare()
    async with guest.journal(share).of(VM) as page, page.undone("thaw", {KIND: "test", "with": SECRET}):
        guest.frozen = True
        await guest.journal(share.view()).undo_left(VM)
        await guest.journal(share.view()).undo_all_left()
        assert guest.frozen
        with pytest.raises(BusyError, match="another reader of its disks is at it"):
            async with guest.journal(share.view()).of(VM):
                pytest.fail("it was opened")
        async with guest.journal(share.view()).of("another"):
            assert guest.frozen
    assert guest.thaws == 1


async def test_what_nobody_here_can_undo_is_said_and_stays() -> None:
    guest, share = Guest(), MemoryShare()
    async with guest.journal(share).of(VM) as page:
        await page.freezing("thaw", {KIND: "of tomorrow"})
    with pytest.raises(PermanentError, match="does not know the kind 'of tomorrow'"):
        await guest.journal(share).undo_left(VM)
    assert await guest.journal(share).left() == (VM,)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b'{"vm": "web", "format": 1}', b'{"format": 2}'])
async def test_a_page_that_makes_no_sense_is_said_and_keeps_its_machine_from_being_frozen(content: bytes) -> None:
    guest, share = Guest(), MemoryShare()
    async with guest.journal(share).of(VM) as page:
        await page.freezing("thaw", {KIND: "test", "with": SECRET})
    [name] = [entry.name for entry in await share.list("frozen") if entry.name.endswith(".json")]
    async with await share.open(f"frozen/{name}", OpenMode.WRITE) as file:
        await file.set_size(0)
        await file.write(content, 0)
    with pytest.raises(IntegrityError, match="remove the file"):
        await guest.journal(share).undo_left(VM)
    with pytest.raises(IntegrityError, match="remove the file"):
        await guest.cycle(share)
    await guest.journal(share).undo_all_left()
    assert name in guest.told()


class _Unreadable(DecoratedShare):
    async def open(self, path: str, mode: OpenMode) -> ShareFile:
        raise AccessDeniedError("open", path, "it belongs to another user")


async def test_a_page_that_can_not_be_read_keeps_only_those_from_their_work_who_freeze() -> None:
    guest, share = Guest(), MemoryShare()
    async with guest.journal(share).of(VM) as page:
        await page.freezing("thaw", {KIND: "test", "with": SECRET})
    journal = guest.journal(_Unreadable(share))
    await journal.undo_left(VM)
    assert f"whether {VM} was left frozen can't be told: cannot open" in guest.told()
    with pytest.raises(AccessDeniedError):
        async with journal.of(VM):
            pytest.fail("it was opened")


async def test_on_a_real_file_system_others_can_not_read_it_and_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    guest, share = Guest(), LocalShare(str(tmp_path))
    async with guest.journal(share).of(VM) as page, page.undone("thaw", {KIND: "test", "with": SECRET}):
        guest.frozen = True
        [path] = (tmp_path / "frozen").glob("*.json")
        assert SECRET in path.read_text()
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        other = LocalShare(str(tmp_path))
        await guest.journal(other).undo_all_left()
        assert guest.frozen
        await other.close()
    assert list((tmp_path / "frozen").iterdir()) == []
    await share.close()
