"""A share whose bytes wait their turn: which bytes count, in which direction, and in what pieces they go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from replicad.model.errors import AccessDeniedError
from replicad.settings.timetable import parse_timetable
from replicad.storage.copying import copy_ranges
from replicad.storage.limiter import Limiter, Throttle
from replicad.storage.memory import MemoryShare
from replicad.storage.metered import MeteredShare
from replicad.storage.port import CopyRange, OpenMode, Share
from replicad.storage.throttled import ThrottledShare, Throttles
from tests.support.files import pattern
from tests.support.virtual_time import passed_s, run, wall_clock

K, M = 1 << 10, 1 << 20


def _limited(inner: Share, sending: str = "1M", receiving: str = "1M") -> ThrottledShare:
    rates = (Limiter(parse_timetable(rate), wall_clock) for rate in (sending, receiving))
    return ThrottledShare(inner, Throttles(*(Throttle((limiter,)) for limiter in rates)))


def _in_virtual_time(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def test() -> None:
        run(story())

    test.__name__ = story.__name__
    return test


@_in_virtual_time
async def test_writing_takes_the_time_that_the_limit_gives_it() -> None:
    share = _limited(MemoryShare())
    async with await share.open("웹.vhdx", OpenMode.CREATE) as file:
        await file.write(pattern(10 * M), 0)
    # The last piece, a quarter of a second's, has nobody to wait for it.
    assert passed_s() == pytest.approx(9.75, abs=1e-3)


@_in_virtual_time
async def test_reading_takes_the_time_that_the_limit_gives_it() -> None:
    inner = MemoryShare()
    async with await inner.open("웹.vhdx", OpenMode.CREATE) as file:
        await file.write(pattern(10 * M), 0)
    async with await _limited(inner).open("웹.vhdx", OpenMode.READ) as file:
        buffer = bytearray(10 * M)
        assert await file.read_into(buffer, 0) == 10 * M
    assert buffer == pattern(10 * M)
    assert passed_s() == pytest.approx(9.75, abs=1e-3)


@_in_virtual_time
async def test_the_two_directions_do_not_wait_for_each_other() -> None:
    share = _limited(MemoryShare(), "1M", "2M")
    async with await share.open("a", OpenMode.CREATE) as a, await share.open("b", OpenMode.CREATE) as b:
        await b.set_size(20 * M)
        async with asyncio.TaskGroup() as group:
            group.create_task(a.write(bytes(10 * M), 0))
            group.create_task(b.read_into(bytearray(20 * M), 0))
    assert passed_s() == pytest.approx(9.75, abs=1e-3)


@pytest.mark.parametrize(("rate", "largest"), [("1K", 64 * K), ("1M", 256 * K), ("8M", 2 * M), ("100M", 10 * M)])
def test_pieces_are_a_quarter_of_a_second_at_most_and_64_kib_at_least(rate: str, largest: int) -> None:
    async def story() -> None:
        metered = MeteredShare(MemoryShare())
        async with await _limited(metered, rate, rate).open("a", OpenMode.CREATE) as file:
            await file.write(bytes(10 * M), 0)
            assert metered.meter.calls["write"] == -(-10 * M // largest)
            assert await file.read_into(bytearray(10 * M), 0) == 10 * M
            assert metered.meter.calls["read_into"] == -(-10 * M // largest)
            await file.write(b"small", 0)
            assert metered.meter.calls["write"] == -(-10 * M // largest) + 1

    run(story())


@_in_virtual_time
async def test_without_a_limit_every_call_goes_through_whole() -> None:
    metered = MeteredShare(MemoryShare())
    async with await _limited(metered, "off", "off").open("a", OpenMode.CREATE) as file:
        await file.write(bytes(10 * M), 0)
        assert await file.read_into(bytearray(10 * M), 0) == 10 * M
    assert (metered.meter.calls["write"], metered.meter.calls["read_into"], passed_s()) == (1, 1, 0)


@_in_virtual_time
async def test_what_the_share_does_by_itself_is_free() -> None:
    share = _limited(MemoryShare(), "1K", "1K")
    async with await share.open("a", OpenMode.CREATE) as a, await share.open("b", OpenMode.CREATE) as b:
        await a.set_size(100 * M)
        assert await copy_ranges(a, b, [CopyRange(0, 0, 50 * M)])
        await b.zero(0, 50 * M)
        await b.flush()
        assert len(await b.allocated_extents()) == 0
    assert passed_s() == 0


@_in_virtual_time
async def test_a_copy_that_the_share_cannot_do_is_paid_for_in_both_directions() -> None:
    share = _limited(MemoryShare(server_copy=False), "1M", "2M")
    async with await share.open("a", OpenMode.CREATE) as a, await share.open("b", OpenMode.CREATE) as b:
        await a.set_size(16 * M)
        assert not await copy_ranges(a, b, [CopyRange(0, 0, 16 * M)])
    # Through one buffer of 1 MiB: the writing, which is slower, catches up on what reading took.
    assert 15.75 <= passed_s() <= 16 + 0.5


@_in_virtual_time
async def test_a_copy_between_a_limited_share_and_another_is_paid_for_once() -> None:
    limited, free = _limited(MemoryShare()), MemoryShare()
    async with await free.open("a", OpenMode.CREATE) as a, await limited.open("b", OpenMode.CREATE) as b:
        await a.set_size(4 * M)
        assert not await copy_ranges(a, b, [CopyRange(0, 0, 4 * M)])
        assert passed_s() == pytest.approx(3.75, abs=1e-3)


@_in_virtual_time
async def test_what_lies_beyond_the_end_of_the_file_costs_nothing() -> None:
    share = _limited(MemoryShare(), receiving="1K")
    async with await share.open("a", OpenMode.CREATE) as file:
        await file.write(b"0123456789", 0)
        for _ in range(100):
            assert await file.read_into(bytearray(10 * M), 5) == 5
            assert await file.read_into(bytearray(10 * M), 50) == 0
    assert passed_s() < 1


@_in_virtual_time
async def test_when_the_limit_is_lifted_the_rest_of_a_call_goes_through_whole() -> None:
    limiter = Limiter(parse_timetable("1M"), wall_clock)
    metered = MeteredShare(MemoryShare())
    share = ThrottledShare(metered, Throttles(Throttle((limiter,)), Throttle(())))
    async with await share.open("a", OpenMode.CREATE) as file, asyncio.TaskGroup() as group:
        group.create_task(file.write(bytes(100 * M), 0))
        await asyncio.sleep(1.9)
        limiter.set_timetable(None)
    assert passed_s() == pytest.approx(1.9, abs=1e-3)
    # Eight pieces of a quarter of a second until then, that which was waiting, and the rest.
    assert metered.meter.calls["write"] == 10
    assert metered.meter.written_bytes == 100 * M


@_in_virtual_time
async def test_a_lower_rate_cuts_the_rest_of_a_call_into_smaller_pieces() -> None:
    limiter = Limiter(parse_timetable("8M"), wall_clock)
    metered = MeteredShare(MemoryShare())
    share = ThrottledShare(metered, Throttles(Throttle((limiter,)), Throttle(())))
    async with await share.open("a", OpenMode.CREATE) as file, asyncio.TaskGroup() as group:
        group.create_task(file.write(bytes(20 * M), 0))
        await asyncio.sleep(0.9)
        limiter.set_timetable(parse_timetable("1M"))
    # 5 pieces of 2 MiB, of which the last one was cut and waited already; then 40 of 256 KiB.
    assert metered.meter.calls["write"] == 5 + 40
    assert passed_s() == pytest.approx(1.0 + 2.0 + 39 * 0.25, abs=1e-3)


@_in_virtual_time
async def test_an_error_is_that_of_the_share_and_ends_the_call() -> None:
    metered = MeteredShare(MemoryShare())
    share = _limited(metered)
    await (await share.open("a", OpenMode.CREATE)).close()
    async with await share.open("a", OpenMode.READ) as file:
        with pytest.raises(AccessDeniedError):
            await file.write(bytes(10 * M), 0)
    assert metered.meter.calls["write"] == 1


@_in_virtual_time
async def test_a_call_that_is_cancelled_while_it_waits_leaves_the_file_usable_and_nothing_owed() -> None:
    share = _limited(MemoryShare())
    async with await share.open("a", OpenMode.CREATE) as file:
        await file.write(bytes(M // 4), 0)
        work = asyncio.ensure_future(file.write(b"\xff" * 100 * M, 0))
        await asyncio.sleep(0.1)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        await file.write(b"fine", 0)
        assert passed_s() == pytest.approx(0.25, abs=1e-3)
        buffer = bytearray(10)
        await file.read_into(buffer, 0)
        assert buffer == b"fine" + bytes(6)
