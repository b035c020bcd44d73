"""Buffers that are lent and given back."""

from __future__ import annotations

import asyncio

import pytest

from replicad.storage.buffers import Borrowed, Buffers


async def test_no_more_buffers_are_lent_than_there_are_and_who_came_first_gets_the_next() -> None:
    buffers = Buffers(2, 8, kept=2)
    first, second = await buffers.borrow(), await buffers.borrow()
    came: list[int] = []

    async def wait(number: int) -> Borrowed:
        lent = await buffers.borrow()
        came.append(number)
        return lent

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = [group.create_task(wait(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        assert came == []
        first.give_back()
        third = await waiting[0]
        assert came == [1]
        assert third.buffer is first.buffer
        second.give_back()
    assert came == [1, 2]


async def test_a_buffer_goes_back_only_when_all_who_keep_it_have_given_it_back() -> None:
    buffers = Buffers(1, 8, kept=1)
    lent = await buffers.borrow()
    lent.keep()
    lent.give_back()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await buffers.borrow()
    lent.give_back()
    async with asyncio.timeout(10):
        await buffers.borrow()


async def test_whoever_waits_for_a_buffer_can_be_cancelled_and_no_buffer_is_lost() -> None:
    buffers = Buffers(1, 8, kept=1)
    lent = await buffers.borrow()
    waiting = asyncio.ensure_future(buffers.borrow())
    await asyncio.sleep(0)
    waiting.cancel()
    lent.give_back()
    async with asyncio.timeout(10):
        await buffers.borrow()


async def test_a_buffer_that_was_given_back_is_neither_kept_nor_given_back_again() -> None:
    lent = await Buffers(1, 8, kept=1).borrow()
    lent.give_back()
    for misuse in (lent.keep, lent.give_back):
        with pytest.raises(ValueError, match="given back"):
            misuse()


async def test_no_more_buffers_are_kept_for_the_next_ones_than_they_are_likely_to_need() -> None:
    buffers = Buffers(4, 8, kept=1)
    lent = [await buffers.borrow() for _ in range(4)]
    for one in lent:
        one.give_back()
    again = [await buffers.borrow() for _ in range(4)]
    assert [one.buffer is lent[0].buffer for one in again] == [True, False, False, False]
