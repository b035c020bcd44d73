"""The daemon's moves: whose turn it is, what is tried again and when, and what a restart goes on with."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from replicad.model.clock import Clock
from replicad.model.errors import ConflictError, OutOfSpaceError, PermanentError, ReplicadError, UnreachableError
from replicad.model.known_moves import KnownMove
from replicad.model.moves import MovedFile, MoveOptions, MovePhase, MoveRecord
from replicad.model.points import FileKind
from replicad.model.progress import FreezePredicted
from replicad.service.events import MoveBegan, MoveStopped
from replicad.service.moving.queue import MoveCounts, MoveQueue, MoveWatch
from replicad.service.watch import Watch

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
DISK = MovedFile(0, "디스크.vhdx", FileKind.DISK, 0, "디스크.vhdx", 7)


def a_move(number: int, vm: str = "", *, priority: int = 0, due: datetime | None = None) -> KnownMove:
    began = NOW + timedelta(microseconds=number)
    options = MoveOptions(priority=priority)
    return KnownMove(
        MoveRecord(f"{number:032x}", vm or f"웹 {number}", f"/원본/{number}", ("/새",), began, options), due=due
    )


@dataclass
class World:
    """A queue whose moves end when they are told to: `ends` has the outcome of each attempt, by the move's number."""

    most: int = 2
    now: datetime = NOW + timedelta(seconds=1)
    known: dict[str, KnownMove] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    ends: dict[str, asyncio.Future[KnownMove]] = field(default_factory=dict)
    held: Counter[str] = field(default_factory=Counter)
    watches: dict[str, MoveWatch] = field(default_factory=dict)
    step: asyncio.Event = field(default_factory=asyncio.Event)
    told: list[MoveBegan | MoveStopped] = field(default_factory=list)
    full: ReplicadError | None = None
    """Why nothing can be saved."""

    def queue(self) -> MoveQueue:
        clock = Clock(lambda: self.now, lambda: (self.now - NOW).total_seconds(), asyncio.sleep)
        return MoveQueue(self, self, clock, self.most, self.hold, self.told.append)

    @asynccontextmanager
    async def hold(self, vm: str, watch: Watch) -> AsyncIterator[None]:
        self.held[vm] += 1
        assert self.held[vm] == 1
        try:
            yield
        finally:
            self.held[vm] -= 1

    async def moves(self) -> tuple[KnownMove, ...]:
        return tuple(self.known.values())

    async def save_move(self, move: KnownMove) -> None:
        if self.full is not None:
            raise self.full
        self.known[move.id] = move

    async def carry_out(self, move: KnownMove, watch: MoveWatch) -> KnownMove:
        assert self.held[move.vm] == 1
        self.begun.append(move.vm)
        self.watches[move.vm] = watch
        end: asyncio.Future[KnownMove] = asyncio.get_running_loop().create_future()
        self.ends[move.vm] = end
        self.step.set()
        return await end

    async def cancel(self, move: KnownMove) -> KnownMove:
        if not move.record.can_be_cancelled:
            raise PermanentError("cancel", move.vm, "too late")
        return await self._ended(move, MovePhase.CANCELLED)

    def give_up(self) -> None:
        pass

    async def until_begun(self, count: int) -> None:
        while len(self.begun) < count:
            self.step.clear()
            await self.step.wait()

    async def done(self, vm: str) -> None:
        move = next(one for one in self.known.values() if one.vm == vm)
        self.ends[vm].set_result(await self._ended(move, MovePhase.DONE))

    def fails(self, vm: str, error: ReplicadError) -> None:
        self.ends[vm].set_exception(error)

    async def _ended(self, move: KnownMove, phase: MovePhase) -> KnownMove:
        ended = replace(move, record=replace(move.record, phase=phase), ended=self.now)
        await self.save_move(ended)
        return ended


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def running(world: World, work: Callable[[MoveQueue], Awaitable[None]]) -> None:
    queue = world.queue()
    await queue.keep()
    async with asyncio.timeout(10):
        task = asyncio.create_task(queue.run())
        try:
            await work(queue)
        finally:
            task.cancel()
            await asyncio.wait([task])
    assert task.cancelled()
    assert not +world.held


async def test_so_many_at_once_the_highest_priority_first_then_the_oldest() -> None:
    world = World()

    async def work(queue: MoveQueue) -> None:
        await queue.order([a_move(1), a_move(2), a_move(3, priority=5), a_move(4)])
        await world.until_begun(2)
        await settle()
        assert world.begun == ["웹 3", "웹 1"]
        assert queue.counts() == MoveCounts(running=2, waiting=2)
        await world.done("웹 1")
        await world.until_begun(3)
        assert world.begun[2] == "웹 2"
        queue.apply(3)
        await world.until_begun(4)

    await running(world, work)


async def test_a_move_that_has_ended_since_somebody_looked_does_not_begin_again() -> None:
    world = World()

    async def work(queue: MoveQueue) -> None:
        await queue.order([a_move(1)])
        await world.until_begun(1)
        (seen,) = await world.moves()
        await world.done("웹 1")
        await settle()
        await queue.order([seen])
        await queue.resume(seen)
        await settle()
        assert world.begun == ["웹 1"]
        (known,) = await world.moves()
        assert known.phase is MovePhase.DONE

    await running(world, work)


async def test_of_two_orders_of_one_machine_at_once_one_is_refused() -> None:
    world = World(most=4)

    async def work(queue: MoveQueue) -> None:
        orders = [queue.order([a_move(number, "웹")]) for number in (1, 2)]
        ends = await asyncio.gather(*orders, return_exceptions=True)
        assert [type(end) for end in ends] == [type(None), ConflictError]
        assert len(await world.moves()) == 1

    await running(world, work)


async def test_a_move_that_was_looked_at_before_it_got_further_goes_on_from_where_it_is() -> None:
    world = World()

    async def work(queue: MoveQueue) -> None:
        await queue.order([a_move(1)])
        await world.until_begun(1)
        (seen,) = await world.moves()
        further = replace(seen, record=replace(seen.record, phase=MovePhase.SWITCHING, files=(DISK,)))
        await world.save_move(further)
        world.fails("웹 1", PermanentError("switch", "웹 1", "거부"))
        await settle()
        await queue.order([seen])
        await world.until_begun(2)
        (known,) = await world.moves()
        assert (known.phase, known.error) == (MovePhase.SWITCHING, None)

    await running(world, work)


async def test_a_machine_is_in_one_move_at_a_time() -> None:
    world = World(most=4)
    world.known = {move.id: move for move in (a_move(1, "웹"), a_move(8, "웹"))}

    async def work(queue: MoveQueue) -> None:
        await queue.order([a_move(2, "다른 것")])
        await world.until_begun(2)
        with pytest.raises(ConflictError, match="00000000"):
            queue.refuse_twins([a_move(7, "웹")])
        assert queue.is_moving("웹")
        await settle()
        assert sorted(world.begun) == ["다른 것", "웹"]

    await running(world, work)


async def test_what_is_put_off_waits_for_its_time() -> None:
    world = World()
    late = a_move(1, due=world.now + timedelta(seconds=0.05))

    async def work(queue: MoveQueue) -> None:
        await queue.order([late])
        await settle()
        assert world.begun == []
        world.now += timedelta(seconds=1)
        await world.until_begun(1)

    await running(world, work)


async def test_what_may_go_well_later_is_tried_again_with_growing_pauses_and_a_restart_tries_at_once() -> None:
    world = World()
    pauses = []

    async def work(queue: MoveQueue) -> None:
        await queue.order([a_move(1)])
        for attempt in range(1, 9):
            await world.until_begun(attempt)
            world.fails("웹 1", UnreachableError("read", "디스크", "the connection was lost"))
            await settle()
            view = queue.look(world.known[a_move(1).id])
            assert view.retry_at is not None
            assert view.move.error is not None
            pauses.append((view.retry_at - world.now).total_seconds())
            if attempt < 8:
                world.now = view.retry_at
                queue.apply(2)  # it looks again

    await running(world, work)
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600]

    async def after_a_restart(queue: MoveQueue) -> None:
        await world.until_begun(len(pauses) + 1)

    await running(world, after_a_restart)


async def test_what_a_person_must_mend_stops_until_somebody_says_so_and_has_failed_if_nothing_was_there_yet() -> None:
    world = World()
    planned = replace(a_move(2), record=replace(a_move(2).record, files=(DISK,), phase=MovePhase.BULK))

    async def work(queue: MoveQueue) -> None:
        await queue.order([a_move(1), planned])
        await world.until_begun(2)
        for vm in ("웹 1", "웹 2"):
            world.fails(vm, OutOfSpaceError("write", "디스크", "no room"))
        await settle()
        assert world.known[a_move(1).id].phase is MovePhase.FAILED
        assert world.known[a_move(1).id].ended is not None
        with pytest.raises(ConflictError):
            await queue.resume(world.known[a_move(1).id])
        assert world.known[planned.id].phase is MovePhase.BULK
        assert queue.counts() == MoveCounts(stopped=1)
        assert world.known[planned.id].error is not None
        await queue.resume(world.known[planned.id])
        assert world.known[planned.id].error is None
        await world.until_begun(3)
        assert world.begun[2] == "웹 2"

    await running(world, work)


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_move_that_is_cancelled_is_stopped_first(has_begun: bool) -> None:
    world = World(most=1)

    async def work(queue: MoveQueue) -> None:
        await queue.order([a_move(1), a_move(2)])
        await world.until_begun(1)
        number = 1 if has_begun else 2
        cancelled = await queue.cancel(world.known[a_move(number).id])
        assert cancelled.phase is MovePhase.CANCELLED
        if has_begun:
            assert world.ends["웹 1"].cancelled()
            await world.until_begun(2)
        await settle()
        assert not queue.is_moving(f"웹 {number}")
        assert world.known[a_move(number).id].phase is MovePhase.CANCELLED

    await running(world, work)


async def test_a_restart_goes_on_with_what_has_not_ended_and_nothing_else() -> None:
    world = World()

    async def work(queue: MoveQueue) -> None:
        await queue.order([a_move(1), a_move(2)])
        await world.until_begun(2)
        await world.done("웹 2")
        await settle()

    await running(world, work)

    async def later(queue: MoveQueue) -> None:
        await world.until_begun(3)
        await settle()
        assert world.begun[2:] == ["웹 1"]

    await running(world, later)


async def test_a_source_that_is_kept_for_a_while_is_deleted_when_its_time_has_come() -> None:
    world = World()
    options = MoveOptions(grace_s=3600)
    record = replace(a_move(1).record, options=options, phase=MovePhase.RETIRED, files=(DISK,), retired=NOW)

    async def work(queue: MoveQueue) -> None:
        await queue.order([replace(a_move(1), record=record)])
        queue.refuse_twins([a_move(9, "웹 1")])
        await settle()
        assert world.begun == []
        world.now = NOW + timedelta(hours=1)
        queue.apply(2)
        await world.until_begun(1)

    await running(world, work)


async def test_a_defect_stops_its_move_and_no_other() -> None:
    world = World(most=1)

    async def work(queue: MoveQueue) -> None:
        await queue.order([a_move(1), a_move(2)])
        await world.until_begun(1)
        world.ends["웹 1"].set_exception(ValueError("a defect"))
        await world.until_begun(2)
        await settle()
        assert world.begun == ["웹 1", "웹 2"]

    await running(world, work)


async def test_what_can_not_be_written_down_of_one_move_ends_no_other() -> None:
    world = World()
    full = OutOfSpaceError("note", "catalog.sqlite", "no room")

    async def work(queue: MoveQueue) -> None:
        await queue.order([a_move(1), a_move(2)])
        await world.until_begun(2)
        world.full = full
        world.fails("웹 1", UnreachableError("reach", "nas1", "끊김"))
        await settle()
        assert queue.look(a_move(1)).retry_at is not None
        world.full = None
        await world.done("웹 2")

    await running(world, work)
    assert world.known[a_move(2).id].phase is MovePhase.DONE


async def test_two_machines_of_one_directory_are_moved_one_after_the_other() -> None:
    world = World()
    first, second = a_move(1), a_move(2)
    second = replace(second, record=replace(second.record, source=first.record.source))

    async def work(queue: MoveQueue) -> None:
        await queue.order([first, second])
        await world.until_begun(1)
        await settle()
        assert world.begun == ["웹 1"]
        await world.done("웹 1")
        await world.until_begun(2)
        await world.done("웹 2")

    await running(world, work)


async def test_progress_and_the_predicted_freeze_are_told_while_it_is_worked_on() -> None:
    world = World()

    async def work(queue: MoveQueue) -> None:
        await queue.order([a_move(1)])
        await world.until_begun(1)
        world.watches["웹 1"].hear(FreezePredicted(2, 0.25))
        view = queue.look(world.known[a_move(1).id])
        assert (view.freeze_s, view.progress is not None) == (0.25, True)

    await running(world, work)


async def test_beginnings_ends_and_errors_of_moves_are_told_once_each() -> None:
    world = World()

    async def work(queue: MoveQueue) -> None:
        await queue.order([a_move(1), a_move(2)])
        await world.until_begun(2)
        await world.done("웹 1")
        world.fails("웹 2", UnreachableError("write", "그", "끊김"))
        await settle()
        await queue.order([a_move(3, due=NOW + timedelta(days=1))])
        await queue.cancel(world.known[a_move(3).id])

    await running(world, work)
    began = [event.move.vm for event in world.told if isinstance(event, MoveBegan)]
    stopped = {
        event.move.vm: (event.move.phase, event.move.error is not None, event.is_tried_again)
        for event in world.told if isinstance(event, MoveStopped)
    }  # fmt: skip
    assert began == ["웹 1", "웹 2"]
    assert stopped == {
        "웹 1": (MovePhase.DONE, False, False), "웹 2": (MovePhase.WAITING, True, True),
        "웹 3": (MovePhase.CANCELLED, False, False),
    }  # fmt: skip
    assert len(world.told) == 5
