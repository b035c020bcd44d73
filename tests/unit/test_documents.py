"""Small files and whole directories, on a share that can crash."""

from __future__ import annotations

from contextlib import suppress
from inspect import CORO_CLOSED, getcoroutinestate
from random import Random

import pytest

from replicad.model.errors import AccessDeniedError, IntegrityError, InvalidNameError, NotFoundError
from replicad.storage.documents import exists, read_whole, remove_tree, replace_whole
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode, Stat


async def test_what_was_replaced_is_read_back() -> None:
    share = MemoryShare()
    await replace_whole(share, "복제 🙂.json", b"old and long")
    await replace_whole(share, "복제 🙂.json", b"new")
    assert await read_whole(share, "복제 🙂.json", 3) == b"new"
    assert [entry.name for entry in await share.list("")] == ["복제 🙂.json"]


async def test_a_file_larger_than_its_limit_is_not_read() -> None:
    share = MemoryShare()
    async with await share.open("bomb", OpenMode.CREATE) as file:
        await file.set_size(1 << 50)
    with pytest.raises(IntegrityError, match="at most 1024"):
        await read_whole(share, "bomb", 1024)


async def test_what_an_interrupted_writer_left_is_replaced() -> None:
    share = MemoryShare()
    async with await share.open("a.json.tmp", OpenMode.CREATE) as file:
        await file.write(b"half of something long", 0)
    await replace_whole(share, "a.json", b"whole")
    assert await read_whole(share, "a.json", 100) == b"whole"
    assert not await exists(share, "a.json.tmp")


class Killed(BaseException):
    """The end of the process in the middle of a call."""


@pytest.mark.parametrize("seed", range(40))
async def test_a_crash_at_any_moment_leaves_the_old_or_the_new_content(seed: int) -> None:
    luck = Random(seed)
    old, new = b"o" * 200_000, b"n" * 300_000
    share = MemoryShare(volatile=True)
    await replace_whole(share, "a.json", old)
    replacing = replace_whole(share, "a.json", new)
    with suppress(StopIteration):
        for _ in range(luck.randint(0, 12)):
            replacing.send(None)
    share.crash(luck)
    if getcoroutinestate(replacing) != CORO_CLOSED:
        with suppress(Killed):
            replacing.throw(Killed())
            while True:
                replacing.send(None)
    assert await read_whole(share, "a.json", 1 << 20) in (old, new)


async def test_a_replaced_file_survives_a_crash_after_the_return() -> None:
    share = MemoryShare(volatile=True)
    await replace_whole(share, "a.json", b"new")
    share.crash()
    assert await read_whole(share, "a.json", 100) == b"new"


async def test_a_tree_is_removed_whole_and_nothing_beside_it() -> None:
    share = MemoryShare()
    for directory in ("vm/points/1", "vm/points/2/deep", "vm-2"):
        await share.make_dir(directory)
        await replace_whole(share, f"{directory}/point.json", b"{}")
    await remove_tree(share, "vm")
    await remove_tree(share, "vm")
    assert [entry.name for entry in await share.list("")] == ["vm-2"]
    await remove_tree(share, "vm-2/point.json")
    assert await share.list("vm-2") == []


async def test_the_root_is_never_removed() -> None:
    share = MemoryShare()
    await replace_whole(share, "a", b"1")
    with pytest.raises(InvalidNameError):
        await remove_tree(share, "")
    assert await exists(share, "a")


async def test_only_a_missing_file_does_not_exist() -> None:
    class Closed(MemoryShare):
        async def stat(self, path: str) -> Stat:
            raise AccessDeniedError("look at", path, "refused")

    with pytest.raises(AccessDeniedError):
        await exists(Closed(), "a")
    with pytest.raises(NotFoundError):
        await read_whole(MemoryShare(), "a", 10)
