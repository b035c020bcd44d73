"""Reading on after a lost connection: what is tried again, for how long, what is said, and what never is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from replicad.model.errors import (
    AccessDeniedError,
    BusyError,
    LockedError,
    ReplicadError,
    SignInError,
    StuckError,
    UnreachableError,
)
from replicad.model.progress import ProgressEvent, Warned
from replicad.settings.timetable import parse_timetable
from replicad.storage.limiter import Limiter, Throttle
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode, Share, ShareFile
from replicad.storage.retrying import RetryingShare
from replicad.storage.throttled import ThrottledShare, Throttles
from tests.support.lossy import LossyShare, Lost
from tests.support.virtual_time import run, wall_clock
from tests.support.world import SteadyClock

DATA = bytes(range(256)) * 64
PATH = "웹 🖥.vhdx"


class Scene:
    """A file on a share whose connection can be lost, and a reader in front of it."""

    def __init__(self, memory: MemoryShare) -> None:
        self.memory = memory
        self.lossy = LossyShare(memory)
        self.time = SteadyClock()
        self.events: list[ProgressEvent] = []
        self.regained = 0
        self.share: Share = RetryingShare(self.lossy, self.time.clock(), self.events.append, self.regain)

    async def regain(self) -> None:
        self.regained += 1

    @property
    def warnings(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Warned)]

    def lose_at(self, what: str, *, times: int = 1, how: Lost = Lost.BEFORE) -> None:
        """Lose the connection at the next calls of this kind."""

        def judge(number: int, seen: str) -> Lost | None:
            nonlocal times
            if not times or not seen.startswith(what):
                return None
            times -= 1
            return how

        self.lossy.judge = judge

    async def change(self) -> None:
        async with await self.memory.open(PATH, OpenMode.WRITE) as file:
            await file.write(b"x", 5)


async def make_scene() -> Scene:
    memory = MemoryShare("nas")
    async with await memory.open(PATH, OpenMode.CREATE) as file:
        await file.write(DATA, 0)
    return Scene(memory)


async def read_all(file: ShareFile) -> bytes:
    """In pieces, eight of them at once."""
    piece = len(DATA) // 8
    buffers = [bytearray(piece) for _ in range(8)]
    async with asyncio.TaskGroup() as tasks:
        for number, buffer in enumerate(buffers):
            tasks.create_task(file.read_into(buffer, number * piece))
    return b"".join(buffers)


@pytest.mark.parametrize("how", Lost)
@pytest.mark.parametrize("what", ["read", "identity", "allocated_extents"])
async def test_a_call_whose_connection_is_lost_is_made_again_and_told_once(what: str, how: Lost) -> None:
    scene = await make_scene()
    async with await scene.share.open(PATH, OpenMode.READ) as file:
        scene.lose_at(what, how=how)
        await file.allocated_extents()
        assert await read_all(file) == DATA
        assert (await file.identity()).size_bytes == len(DATA)
    reason = "no answer for 30 s" if how is Lost.TIMED_OUT else "the server reset the connection"
    assert scene.warnings == [
        f"the connection to nas was lost ({reason}); trying again",
        "nas can be reached again; reading goes on where it was",
    ]
    assert (scene.time.seconds, scene.regained, scene.lossy.files) == (0.5, 1, [])


async def test_many_calls_that_fail_together_open_the_file_once() -> None:
    scene = await make_scene()
    async with await scene.share.open(PATH, OpenMode.READ) as file:
        await file.identity()
        opened = scene.lossy.log.count(f"open {PATH} to read")
        reads = 0

        def judge(number: int, what: str) -> Lost | None:
            nonlocal reads
            reads += what.startswith("read")
            return Lost.BEFORE if what.startswith("read") and reads == 4 else None

        scene.lossy.judge = judge
        assert await read_all(file) == DATA
        assert scene.lossy.log.count(f"open {PATH} to read") == opened + 1
    assert len(scene.warnings) == 2
    assert scene.time.seconds == 0.5


def test_calls_that_wait_for_their_turn_when_the_connection_is_lost_are_gone_on_with() -> None:
    async def story() -> None:
        scene = await make_scene()
        throttle = Throttle((Limiter(parse_timetable("64K"), wall_clock),))
        limited = ThrottledShare(scene.lossy, Throttles(throttle, throttle))
        share = RetryingShare(limited, scene.time.clock(), scene.events.append)
        async with await share.open(PATH, OpenMode.READ) as file:
            await file.identity()
            scene.lose_at("read")
            assert await read_all(file) == DATA
        assert (len(scene.warnings), scene.lossy.files) == (2, [])

    run(story())


async def test_two_files_of_one_connection_are_one_loss() -> None:
    scene = await make_scene()
    async with (
        await scene.share.open(PATH, OpenMode.READ) as first,
        await scene.share.open(PATH, OpenMode.READ) as second,
    ):
        await first.identity()
        await second.identity()
        await scene.lossy.lose()
        assert list(await asyncio.gather(read_all(first), read_all(second))) == [DATA, DATA]
        assert len(scene.warnings) == 2
        # The second one is found lost when all is well again: it is opened at once, and there is nothing to tell.
        await scene.lossy.lose()
        assert await read_all(first) == DATA
        waited_s = scene.time.seconds
        assert await read_all(second) == DATA
        assert (len(scene.warnings), scene.time.seconds) == (4, waited_s)


async def test_a_connection_that_does_not_come_back_is_given_up_after_two_minutes() -> None:
    scene = await make_scene()
    file = await scene.share.open(PATH, OpenMode.READ)
    await file.identity()
    scene.lossy.down = True
    with pytest.raises(UnreachableError):
        await file.read_into(bytearray(1), 0)
    assert scene.time.seconds == 120
    assert len(scene.lossy.log) < 20
    assert len(scene.warnings) == 1
    await file.close()


async def test_a_connection_that_is_lost_at_every_read_is_given_up_though_the_file_can_be_opened() -> None:
    scene = await make_scene()
    async with await scene.share.open(PATH, OpenMode.READ) as file:
        scene.lose_at("read", times=1000)
        with pytest.raises(UnreachableError):
            await file.read_into(bytearray(1), 0)
    assert (scene.time.seconds, len(scene.warnings), scene.lossy.files) == (120, 1, [])


async def test_each_read_that_goes_well_gives_all_patience_back() -> None:
    scene = await make_scene()
    async with await scene.share.open(PATH, OpenMode.READ) as file:
        for round_number in range(1, 11):
            scene.lose_at("read", times=6)
            assert await file.read_into(bytearray(8), 0) == 8
            assert len(scene.warnings) == 2 * round_number
    assert scene.time.seconds == 10 * (0.5 + 1 + 2 + 4 + 8 + 15)


async def test_a_file_that_changed_meanwhile_is_not_gone_on_with() -> None:
    scene = await make_scene()
    async with await scene.share.open(PATH, OpenMode.READ) as file:
        await file.read_into(bytearray(8), 0)
        await scene.lossy.lose()
        await scene.change()
        with pytest.raises(BusyError, match="changed before it came back"):
            await file.read_into(bytearray(8), 8)
    assert scene.lossy.files == []


async def test_a_file_that_was_only_opened_may_have_changed() -> None:
    scene = await make_scene()
    async with await scene.share.open(PATH, OpenMode.READ) as file:
        await scene.lossy.lose()
        await scene.change()
        buffer = bytearray(6)
        await file.read_into(buffer, 0)
        assert buffer[5:] == b"x"


@pytest.mark.parametrize("mode", [OpenMode.HOLD, OpenMode.WRITE])
async def test_files_that_are_held_or_written_are_lost_with_their_connection(mode: OpenMode) -> None:
    scene = await make_scene()
    async with await scene.share.open(PATH, mode) as file:
        await scene.lossy.lose()
        with pytest.raises(UnreachableError):
            await file.read_into(bytearray(1), 0)
        with pytest.raises(UnreachableError):
            await file.identity()
    async with await scene.share.open("new", OpenMode.CREATE) as file:
        await scene.lossy.lose()
        with pytest.raises(UnreachableError):
            await file.flush()
    assert (scene.warnings, scene.time.seconds) == ([], 0)


CHANGES: list[Callable[[Share], Awaitable[object]]] = [
    lambda share: share.make_dir("d"),
    lambda share: share.rename(PATH, "b"),
    lambda share: share.remove(PATH),
    lambda share: share.flush_directory(""),
    lambda share: share.open("new", OpenMode.CREATE),
    lambda share: share.open(PATH, OpenMode.WRITE),
    lambda share: share.open(PATH, OpenMode.HOLD),
    lambda share: share.free_bytes(),
]


@pytest.mark.parametrize("call", CHANGES)
async def test_no_other_call_is_made_twice(call: Callable[[Share], Awaitable[object]]) -> None:
    scene = await make_scene()
    scene.lossy.judge = lambda number, what: Lost.BEFORE
    with pytest.raises(UnreachableError):
        await call(scene.share)
    assert len(scene.lossy.log) == 1


LOOKS: list[Callable[[Share], Awaitable[object]]] = [
    lambda share: share.stat(PATH),
    lambda share: share.list(""),
]


@pytest.mark.parametrize("look", LOOKS)
async def test_a_look_whose_connection_is_lost_is_made_again(look: Callable[[Share], Awaitable[object]]) -> None:
    scene = await make_scene()
    scene.lossy.judge = lambda number, what: Lost.AFTER if number <= 3 else None
    assert await look(scene.share) == await look(scene.memory)
    assert (len(scene.lossy.log), scene.time.seconds, len(scene.warnings), scene.regained) == (4, 3.5, 2, 3)


async def test_opening_to_read_is_made_again() -> None:
    scene = await make_scene()
    scene.lose_at("open", times=2)
    async with await scene.share.open(PATH, OpenMode.READ) as file:
        assert await read_all(file) == DATA
    assert len(scene.warnings) == 2


@pytest.mark.parametrize("kind", [SignInError, AccessDeniedError, LockedError, BusyError, StuckError])
@pytest.mark.parametrize("where", ["at once", "when connecting again", "when regaining"])
async def test_what_waiting_can_not_mend_is_raised_at_once(kind: type[ReplicadError], where: str) -> None:
    scene = await make_scene()
    error = kind("use", "nas", "no")
    asked = 0

    async def refuse(*arguments: object) -> None:
        nonlocal asked
        asked += 1
        raise error

    async with await scene.share.open(PATH, OpenMode.READ) as file:
        await file.identity()
        if where == "at once":
            scene.lossy.files[0].read_into = refuse  # type: ignore[method-assign,assignment]  # this file breaks
        else:
            await scene.lossy.lose()
        if where == "when connecting again":
            scene.lossy.open = refuse  # type: ignore[method-assign,assignment]  # this server refuses us now
        if where == "when regaining":
            scene.share = RetryingShare(scene.lossy, scene.time.clock(), scene.events.append, refuse)
            await file.close()
            file = await scene.share.open(PATH, OpenMode.READ)
            await file.identity()
            await scene.lossy.lose()
        with pytest.raises(kind) as caught:
            await file.read_into(bytearray(1), 0)
        assert caught.value is error
        await file.close()
    assert asked == 1


async def test_cancelling_during_a_pause_ends_at_once_and_the_file_can_still_be_read() -> None:
    scene = await make_scene()
    async with await scene.share.open(PATH, OpenMode.READ) as file:
        await file.identity()
        paused, original = asyncio.Event(), scene.time.sleep

        async def pause(seconds: float) -> None:
            paused.set()
            await asyncio.Event().wait()

        scene.time.sleep = pause  # type: ignore[method-assign]  # a clock that stands still
        share = RetryingShare(scene.lossy, scene.time.clock(), scene.events.append)
        async with await share.open(PATH, OpenMode.READ) as other:
            await other.identity()
            await scene.lossy.lose()
            readers = [asyncio.ensure_future(read_all(other)) for _ in range(3)]
            await paused.wait()
            for reader in readers:
                reader.cancel()
            ended = await asyncio.gather(*readers, return_exceptions=True)
            assert [type(one) for one in ended] == [asyncio.CancelledError] * 3
        scene.time.sleep = original  # type: ignore[method-assign]  # it goes on
        assert await read_all(file) == DATA
    assert scene.lossy.files == []


async def test_cancelling_while_the_file_is_opened_again_leaves_no_file_open() -> None:
    for steps in range(1, 12):
        scene = await make_scene()
        async with await scene.share.open(PATH, OpenMode.READ) as file:
            await file.identity()
            await scene.lossy.lose()
            reader = asyncio.ensure_future(file.read_into(bytearray(8), 0))
            for _ in range(steps):
                await asyncio.sleep(0)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        assert scene.lossy.files == [], f"after {steps} steps"
