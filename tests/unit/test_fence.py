"""The fence in front of a replica that is being written."""

from __future__ import annotations

import pytest

from replicad.model.errors import LockedError
from replicad.replica.fence import RECENT_S, Fence


class _Lock:
    """A lock that counts how often it was asked for, and the time that passes meanwhile."""

    def __init__(self) -> None:
        self.asked = 0
        self.lost = False
        self.now_s = 1000.0
        self.answer_takes_s = 0.0

    async def check(self) -> None:
        self.asked += 1
        self.now_s += self.answer_takes_s
        if self.lost:
            raise LockedError("keep the lock", "웹 서버 🖥", "the server has taken it away", "Start again.")

    def fence(self) -> Fence:
        return Fence(self.check, lambda: self.now_s)


async def test_batches_in_quick_succession_rest_on_one_answer() -> None:
    lock = _Lock()
    fence = lock.fence()
    for _ in range(10):
        await fence.recently_ours()
        lock.now_s += RECENT_S / 20
    assert lock.asked == 1


async def test_a_writer_that_was_stopped_asks_before_it_goes_on() -> None:
    lock = _Lock()
    fence = lock.fence()
    await fence.recently_ours()
    lock.lost = True
    lock.now_s += RECENT_S
    with pytest.raises(LockedError):
        await fence.recently_ours()


async def test_an_answer_is_as_old_as_its_question() -> None:
    lock = _Lock()
    lock.answer_takes_s = RECENT_S
    fence = lock.fence()
    await fence.recently_ours()
    await fence.recently_ours()
    assert lock.asked == 2


async def test_a_commit_asks_however_recent_the_last_answer_is() -> None:
    lock = _Lock()
    fence = lock.fence()
    await fence.recently_ours()
    lock.lost = True
    with pytest.raises(LockedError):
        await fence.still_ours()


async def test_a_lost_lock_is_not_taken_for_held_after_the_error() -> None:
    lock = _Lock()
    lock.lost = True
    fence = lock.fence()
    for _ in range(2):
        with pytest.raises(LockedError):
            await fence.recently_ours()
    assert lock.asked == 2
