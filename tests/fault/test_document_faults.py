"""A small file replaced whole while every single step of it fails, tears or crashes."""

from __future__ import annotations

from random import Random

import pytest

from replicad.model.errors import OutOfSpaceError, ReplicadError, UnreachableError
from replicad.storage.copying import copy_ranges
from replicad.storage.documents import read_whole, replace_whole
from replicad.storage.memory import MemoryShare
from replicad.storage.port import CopyRange, LockHolder, OpenMode
from tests.support.faulty import CRASHES, Crash, Fault, FaultyShare, When, crashes
from tests.support.files import HOLDER, get, names, pattern, put

OLD, NEW = pattern(100_000, 1), pattern(150_000, 2)
STEPS = ["create a.json.tmp", "write a.json.tmp at 0, 150000 bytes", "flush a.json.tmp", "rename a.json.tmp to a.json",
         "flush_directory "]  # fmt: skip


async def started() -> MemoryShare:
    share = MemoryShare(volatile=True)
    await replace_whole(share, "a.json", OLD)
    return share


async def test_the_steps_are_numbered_and_told() -> None:
    share = FaultyShare(await started())
    await replace_whole(share, "a.json", NEW)
    assert share.log == STEPS


@pytest.mark.parametrize("fault", CRASHES, ids=lambda fault: fault.when.value)
@pytest.mark.parametrize("step", range(1, len(STEPS) + 1))
@pytest.mark.parametrize("seed", [None, 1, 2, 3])
async def test_after_a_crash_at_any_step_the_content_is_old_or_new_and_replacing_works_again(
    step: int, fault: Fault, seed: int | None
) -> None:
    below = await started()
    share = FaultyShare(below.view(), {step: fault})
    assert await crashes(replace_whole(share, "a.json", NEW))
    if seed is not None:
        below.crash(Random(seed))
    elif fault.when is When.AFTER and step == len(STEPS):
        below.crash()
        assert await get(below, "a.json") == NEW
    assert await read_whole(below, "a.json", 1 << 20) in (OLD, NEW)
    await replace_whole(below, "a.json", NEW)
    below.crash()
    assert await names(below) == ["a.json"]
    assert await get(below, "a.json") == NEW


@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("step", range(1, len(STEPS) + 1))
async def test_an_error_at_any_step_is_told_and_the_next_attempt_succeeds(step: int, when: When) -> None:
    error = OutOfSpaceError("write", "a.json.tmp", "no space is left")
    share = FaultyShare(await started(), {step: Fault(when, error)})
    with pytest.raises(ReplicadError) as caught:
        await replace_whole(share, "a.json", NEW)
    assert (type(caught.value), caught.value.args) == (type(error), error.args)
    assert await get(share, "a.json") in (OLD, NEW)
    await replace_whole(share, "a.json", NEW)
    assert await names(share) == ["a.json"]
    assert await get(share, "a.json") == NEW


async def test_after_a_crash_every_call_crashes_and_the_locks_are_free() -> None:
    below = MemoryShare()
    share = FaultyShare(below.view(), {4: Fault(When.BEFORE)})
    lock = await share.lock("replica.lock", HOLDER)
    file = await share.open("disk", OpenMode.CREATE)
    await file.write(b"1234", 0)
    with pytest.raises(Crash):
        await file.flush()
    for call in (file.close, file.identity, lock.check, lock.release, share.free_bytes, share.close):
        with pytest.raises(Crash):
            await call()
    with pytest.raises(Crash):
        await share.open("disk", OpenMode.READ)
    async with await below.lock("replica.lock", LockHolder("next life", "m", "b", 2, "1", "now")):
        assert await get(below, "disk") == b"1234"
        async with await below.open("disk", OpenMode.HOLD):
            pass


async def test_a_torn_call_has_done_its_first_half() -> None:
    error = UnreachableError("write", "disk", "the connection was lost")
    below = MemoryShare()
    await put(below, "source", pattern(100))
    share = FaultyShare(below, {n: Fault(When.TORN, error) for n in (2, 3, 4, 5)})
    async with (
        await below.open("source", OpenMode.READ) as source,
        await share.open("disk", OpenMode.CREATE) as disk,
    ):
        with pytest.raises(UnreachableError):
            await disk.write(pattern(100), 0)
        assert await get(below, "disk") == pattern(100)[:50]
        with pytest.raises(UnreachableError):
            await disk.zero(0, 20)
        assert await get(below, "disk") == bytes(10) + pattern(100)[10:50]
        with pytest.raises(UnreachableError):
            await copy_ranges(source, disk, [CopyRange(0, 0, 4), CopyRange(10, 20, 4)])
        assert await get(below, "disk") == pattern(100)[:4] + bytes(6) + pattern(100)[10:50]
        with pytest.raises(UnreachableError):
            await disk.set_size(0)
        assert len(await get(below, "disk")) == 50
