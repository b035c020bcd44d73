"""What every share promises: names, directories, modes of opening, holds and locks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from replicad.model.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    BusyError,
    InvalidNameError,
    LockedError,
    NotFoundError,
    PermanentError,
    UnsupportedError,
)
from replicad.storage.port import OpenMode, Share, ShareFile
from tests.support.adapters import Tree, need
from tests.support.files import HOLDER, get, names, pattern, put

NAMES = ["a b.vhdx", "web-01.avhdx", "~tmp", "Überblick", "가상 머신 1.vhdx", "백업 🗄️", "🙂"]

# --- names and directories -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_comes_back_as_it_was_given(tree: Tree, name: str) -> None:
    await tree.share.make_dir(name)
    await put(tree.share, f"{name}/{name}", b"1")
    assert [(e.name, e.is_dir, e.is_link) for e in await tree.other.list("")] == [(name, True, False)]
    assert [(e.name, e.is_dir, e.size_bytes) for e in await tree.other.list(name)] == [(name, False, 1)]
    assert (await tree.other.stat(f"{name}/{name}")).name == name
    assert await get(tree.other, f"{name}/{name}") == b"1"


async def test_a_listing_is_sorted_by_name(tree: Tree) -> None:
    for name in NAMES:
        await put(tree.share, name, b"")
    assert await names(tree.share) == sorted(NAMES)


async def test_a_long_name_and_a_deep_path_work(tree: Tree) -> None:
    name = "가" * 83 + ".vhdx"  # 254 bytes
    deep = "/".join(["깊은 곳"] * 12)
    await tree.share.make_dir(deep)
    await put(tree.share, f"{deep}/{name}", b"deep")
    assert await get(tree.other, f"{deep}/{name}") == b"deep"


@pytest.mark.parametrize(
    "path",
    [
        "..", "../x", "a/../../x", "a/..", ".", "./a", "/etc/passwd", "//server/share", "a//b", "a/", "a\\..\\b",
        "a\0b", "C:x", "nul", "a.", "a ", "가" * 86, "line\nbreak",
    ],
)  # fmt: skip
async def test_a_path_that_leaves_the_root_or_is_not_portable_is_refused_by_every_method(tree: Tree, path: str) -> None:
    share = tree.share
    await put(share, "there", b"1")
    calls: list[Callable[[], Awaitable[object]]] = [
        *(lambda mode=mode: share.open(path, mode) for mode in OpenMode),
        lambda: share.stat(path),
        lambda: share.list(path),
        lambda: share.make_dir(path),
        lambda: share.rename(path, "elsewhere"),
        lambda: share.rename("there", path, replace=True),
        lambda: share.remove(path),
        lambda: share.flush_directory(path),
        lambda: share.lock(path, HOLDER),
        lambda: share.lock_holder(path),
    ]
    for call in calls:
        with pytest.raises(InvalidNameError):
            await call()
    assert await names(share) == ["there"]


async def test_the_root_can_be_looked_at_but_not_opened_renamed_or_removed(tree: Tree) -> None:
    share = tree.share
    root = await share.stat("")
    assert (root.is_dir, root.is_link, root.size_bytes) == (True, False, 0)
    assert await share.list("") == []
    await share.make_dir("")
    await share.flush_directory("")
    await share.make_dir("vm")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: share.open("", OpenMode.READ),
        lambda: share.open("", OpenMode.CREATE),
        lambda: share.rename("", "vm/root"),
        lambda: share.rename("vm", ""),
        lambda: share.remove(""),
        lambda: share.lock("", HOLDER),
    ]
    for call in calls:
        with pytest.raises(PermanentError):
            await call()
    assert await names(share) == ["vm"]


async def test_what_is_not_there_is_not_found(tree: Tree) -> None:
    share = tree.share
    await put(share, "file", b"1")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: share.open("없음", OpenMode.READ),
        lambda: share.open("없음", OpenMode.HOLD) if tree.capabilities.hold else share.stat("없음"),
        lambda: share.open("없음", OpenMode.WRITE),
        lambda: share.open("없음/새", OpenMode.CREATE),
        lambda: share.open("file/below", OpenMode.READ),
        lambda: share.stat("없음"),
        lambda: share.stat("없음/below"),
        lambda: share.stat("file/below"),
        lambda: share.list("없음"),
        lambda: share.list("file"),
        lambda: share.rename("없음", "new"),
        lambda: share.rename("file", "없음/new"),
        lambda: share.remove("없음"),
        lambda: share.lock("없음/lock", HOLDER),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            await call()
    assert await names(share) == ["file"]


async def test_an_error_names_the_thing_as_the_user_knows_it(tree: Tree) -> None:
    with pytest.raises(NotFoundError) as caught:
        await tree.share.open("vm 1/웹.vhdx", OpenMode.READ)
    assert tree.share.name in caught.value.subject
    assert "웹.vhdx" in caught.value.subject


async def test_directories_are_made_with_those_above_them_and_may_be_there(tree: Tree) -> None:
    for _ in range(2):
        await tree.share.make_dir("a/b/c")
    await tree.other.make_dir("a/b/d")
    assert await names(tree.share, "a/b") == ["c", "d"]


async def test_a_directory_is_not_made_over_or_below_a_file(tree: Tree) -> None:
    await put(tree.share, "file", b"1")
    for path in ("file", "file/below"):
        with pytest.raises(AlreadyExistsError):
            await tree.share.make_dir(path)
    assert await get(tree.share, "file") == b"1"


async def test_a_directory_that_is_not_empty_is_not_removed(tree: Tree) -> None:
    share = tree.share
    await share.make_dir("vm")
    await put(share, "vm/disk", b"1")
    with pytest.raises(PermanentError):
        await share.remove("vm")
    assert await get(share, "vm/disk") == b"1"
    await share.remove("vm/disk")
    await share.remove("vm")
    assert await names(tree.other) == []


async def test_sizes_are_those_of_files_and_0_for_directories(tree: Tree) -> None:
    share = tree.share
    await share.make_dir("dir")
    await put(share, "file", pattern(100_000))
    directory, file = await share.list("")
    assert (directory.is_dir, directory.size_bytes, directory.allocated_bytes) == (True, 0, 0)
    assert (file.is_dir, file.size_bytes) == (False, 100_000)
    assert file.allocated_bytes >= 100_000
    assert file == await share.stat("file")
    assert file.write_time_ns > 1_600_000_000 * 10**9


async def test_free_room_is_told(tree: Tree) -> None:
    assert await tree.share.free_bytes() > 0


async def test_capabilities_are_tried_out_and_nothing_is_left_behind(tree: Tree) -> None:
    await put(tree.share, "disk", b"1")
    found = await asyncio.gather(*(tree.share.capabilities() for _ in range(3)))
    assert [replace(one, notes=()) for one in found] == [tree.capabilities] * 3
    assert await names(tree.other) == ["disk"]


# --- renaming --------------------------------------------------------------------------------------------------------


async def test_a_file_is_renamed_within_and_between_directories(tree: Tree) -> None:
    share = tree.share
    await share.make_dir("from")
    await share.make_dir("to")
    await put(share, "from/one", b"1")
    await share.rename("from/one", "from/둘 🙂")
    await share.rename("from/둘 🙂", "to/three")
    for directory in ("from", "to"):
        await share.flush_directory(directory)
    assert await names(tree.other, "from") == []
    assert await get(tree.other, "to/three") == b"1"


async def test_a_directory_is_renamed_with_all_that_is_in_it(tree: Tree) -> None:
    share = tree.share
    await share.make_dir("points/7.pending/deep")
    await put(share, "points/7.pending/deep/undo", b"1")
    await share.rename("points/7.pending", "points/7")
    assert await names(tree.other, "points") == ["7"]
    assert await get(tree.other, "points/7/deep/undo") == b"1"


async def test_a_rename_replaces_a_file_only_if_told_to(tree: Tree) -> None:
    share = tree.share
    await put(share, "new", b"new")
    await put(share, "old", b"old")
    with pytest.raises(AlreadyExistsError, match="old"):
        await share.rename("new", "old")
    assert (await get(share, "new"), await get(share, "old")) == (b"new", b"old")
    await share.rename("new", "old", replace=True)
    assert await names(tree.other) == ["old"]
    assert await get(tree.other, "old") == b"new"


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize(("source", "target"), [("dir", "other"), ("dir", "file"), ("file", "dir")])
async def test_directories_neither_replace_nor_are_replaced(
    tree: Tree, source: str, target: str, replacing: bool
) -> None:
    share = tree.share
    await share.make_dir("dir")
    await share.make_dir("other")
    await put(share, "file", b"1")
    with pytest.raises(AlreadyExistsError):
        await share.rename(source, target, replace=replacing)
    assert await names(share) == ["dir", "file", "other"]
    assert await get(share, "file") == b"1"


async def test_a_directory_is_not_moved_into_itself(tree: Tree) -> None:
    await tree.share.make_dir("a/b")
    with pytest.raises(PermanentError):
        await tree.share.rename("a", "a/b/c")
    assert await names(tree.share, "a") == ["b"]


async def test_a_replaced_file_lives_on_for_whoever_has_it_open(tree: Tree) -> None:
    await put(tree.share, "disk", b"old")
    await put(tree.share, "disk.new", b"new")
    async with await tree.other.open("disk", OpenMode.READ) as reader:
        await tree.share.rename("disk.new", "disk", replace=True)
        assert await get(tree.share, "disk") == b"new"
        buffer = bytearray(3)
        assert await reader.read_into(buffer, 0) == 3
        assert buffer == b"old"


async def test_readers_see_the_old_or_the_new_file_while_it_is_replaced_over_and_over(tree: Tree) -> None:
    contents = {pattern(5000, seed) for seed in range(20)}
    await put(tree.share, "record", next(iter(contents)))
    done = asyncio.Event()

    async def replace_it() -> None:
        for content in contents:
            await put(tree.share, "record.tmp", content)
            await tree.share.rename("record.tmp", "record", replace=True)
        done.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(replace_it())
        seen = 0
        while not done.is_set() or not seen:
            assert await get(tree.other, "record") in contents
            seen += 1


# --- modes of opening ------------------------------------------------------------------------------------------------


async def test_create_makes_an_empty_file_and_never_touches_one_that_is_there(tree: Tree) -> None:
    async with await tree.share.open("disk", OpenMode.CREATE) as file:
        assert file.path == "disk"
        assert (await file.identity()).size_bytes == 0
        await file.write(b"1", 0)
        buffer = bytearray(1)
        assert await file.read_into(buffer, 0) == 1
        assert buffer == b"1"
    await tree.share.make_dir("dir")
    for path in ("disk", "dir"):
        with pytest.raises(AlreadyExistsError):
            await tree.other.open(path, OpenMode.CREATE)
    assert await get(tree.share, "disk") == b"1"


async def test_of_many_creators_one_wins(tree: Tree) -> None:
    results = await asyncio.gather(
        *(share.open("disk", OpenMode.CREATE) for share in [tree.share, tree.other] * 4), return_exceptions=True
    )
    files = [one for one in results if not isinstance(one, BaseException)]
    for file in files:
        await file.close()
    assert len(files) == 1
    assert sum(isinstance(one, AlreadyExistsError) for one in results) == 7


async def test_write_keeps_what_is_there(tree: Tree) -> None:
    await put(tree.share, "disk", b"abc")
    async with await tree.share.open("disk", OpenMode.WRITE) as file:
        await file.write(b"X", 1)
    assert await get(tree.other, "disk") == b"aXc"


@pytest.mark.parametrize("mode", [OpenMode.READ, OpenMode.HOLD])
async def test_a_file_opened_for_reading_is_not_changed(tree: Tree, mode: OpenMode) -> None:
    need(mode is not OpenMode.HOLD or tree.capabilities.hold)
    await put(tree.share, "disk", b"abc")
    async with await tree.share.open("disk", mode) as file:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: file.write(b"X", 0),
            lambda: file.zero(0, 1),
            lambda: file.set_size(0),
            lambda: file.flush(),
            lambda: file.copy_from(file, []),
        ]
        for call in calls:
            with pytest.raises(AccessDeniedError):
                await call()
        assert await get(tree.share, "disk") == b"abc"


async def test_a_directory_is_not_opened_as_a_file(tree: Tree) -> None:
    await tree.share.make_dir("dir")
    for mode in (OpenMode.READ, OpenMode.WRITE):
        with pytest.raises(PermanentError):
            await tree.share.open("dir", mode)


async def test_readers_and_writers_share_a_file(tree: Tree) -> None:
    await put(tree.share, "disk", b"abc")
    async with (
        await tree.share.open("disk", OpenMode.WRITE) as one,
        await tree.other.open("disk", OpenMode.WRITE) as two,
        await tree.other.open("disk", OpenMode.READ) as reader,
    ):
        await one.write(b"1", 0)
        await two.write(b"2", 1)
        buffer = bytearray(3)
        await reader.read_into(buffer, 0)
        assert buffer == b"12c"


async def test_a_file_can_be_closed_twice_and_by_several_at_once(tree: Tree) -> None:
    await put(tree.share, "disk", b"abc")
    file = await tree.share.open("disk", OpenMode.WRITE)
    await file.close()
    await file.close()
    file = await tree.share.open("disk", OpenMode.READ)
    await asyncio.gather(*(file.close() for _ in range(5)))
    await tree.share.remove("disk")


async def test_a_file_is_given_back_when_its_block_fails(tree: Tree) -> None:
    need(tree.capabilities.hold)
    await put(tree.share, "disk", b"abc")
    with pytest.raises(RuntimeError):
        async with await tree.share.open("disk", OpenMode.WRITE):
            raise RuntimeError
    await (await tree.other.open("disk", OpenMode.HOLD)).close()


# --- holds -----------------------------------------------------------------------------------------------------------


async def _refused(share: Share, mode: OpenMode) -> None:
    with pytest.raises(BusyError, match=r"disk\.vhdx"):
        await share.open("disk.vhdx", mode)


async def test_a_share_that_cannot_hold_says_so(tree: Tree) -> None:
    need(not tree.capabilities.hold)
    await put(tree.share, "disk.vhdx", b"abc")
    with pytest.raises(UnsupportedError):
        await tree.share.open("disk.vhdx", OpenMode.HOLD)


async def test_a_held_file_lets_readers_in_and_writers_not(tree: Tree) -> None:
    need(tree.capabilities.hold)
    await put(tree.share, "disk.vhdx", b"abc")
    held = await tree.share.open("disk.vhdx", OpenMode.HOLD)
    await _refused(tree.other, OpenMode.WRITE)
    await _refused(tree.share, OpenMode.WRITE)
    assert await get(tree.other, "disk.vhdx") == b"abc"
    again = await tree.other.open("disk.vhdx", OpenMode.HOLD)
    for file in (held, again):
        buffer = bytearray(3)
        assert await file.read_into(buffer, 0) == 3
        assert buffer == b"abc"
    await held.close()
    await _refused(tree.share, OpenMode.WRITE)
    await again.close()
    async with await tree.share.open("disk.vhdx", OpenMode.WRITE) as writer:
        await writer.write(b"X", 0)
    assert await get(tree.other, "disk.vhdx") == b"Xbc"


@pytest.mark.parametrize("mode", [OpenMode.WRITE, OpenMode.CREATE])
async def test_a_file_that_somebody_writes_is_not_held(tree: Tree, mode: OpenMode) -> None:
    need(tree.capabilities.hold)
    if mode is OpenMode.WRITE:
        await put(tree.share, "disk.vhdx", b"abc")
    writer: ShareFile = await tree.share.open("disk.vhdx", mode)
    await _refused(tree.other, OpenMode.HOLD)
    await _refused(tree.share, OpenMode.HOLD)
    await writer.write(b"still", 0)
    await writer.close()
    async with await tree.other.open("disk.vhdx", OpenMode.HOLD) as held:
        buffer = bytearray(5)
        assert await held.read_into(buffer, 0) == 5
        assert buffer == b"still"


async def test_a_refused_writer_does_not_break_the_hold(tree: Tree) -> None:
    need(tree.capabilities.hold)
    await put(tree.share, "disk.vhdx", pattern(1 << 20))
    async with await tree.share.open("disk.vhdx", OpenMode.HOLD) as held:
        for _ in range(3):
            await _refused(tree.other, OpenMode.WRITE)
            buffer = bytearray(1 << 20)
            assert await held.read_into(buffer, 0) == 1 << 20
            assert buffer == pattern(1 << 20)
        assert (await held.identity()).size_bytes == 1 << 20
        assert sum(e.length_bytes for e in await held.allocated_extents()) == 1 << 20


# --- locks -----------------------------------------------------------------------------------------------------------


async def test_a_lock_is_held_by_one_and_says_by_whom(tree: Tree) -> None:
    lock = await tree.share.lock("replica.lock", HOLDER)
    for share in (tree.other, tree.share):
        with pytest.raises(LockedError, match=rf"nas-가.*{HOLDER.pid}.*2026-01-31T12:00:00Z"):
            await share.lock("replica.lock", replace(HOLDER, host="intruder", machine_id="machine-2", pid=1))
        seen = await share.lock_holder("replica.lock")
        assert seen is not None
        # An SMB share fills in its sessions, which it alone knows.
        assert replace(seen, session_id=0, extra={key: seen.extra[key] for key in HOLDER.extra}) == HOLDER
    await lock.check()
    await lock.release()


async def test_a_released_lock_is_free_at_once_and_can_be_released_again(tree: Tree) -> None:
    lock = await tree.share.lock("replica.lock", HOLDER)
    await lock.release()
    await lock.release()
    assert await tree.other.lock_holder("replica.lock") is None
    async with await tree.other.lock("replica.lock", replace(HOLDER, host="second")) as second:
        await lock.release()
        await second.check()
        with pytest.raises(LockedError, match="second"):
            await tree.share.lock("replica.lock", HOLDER)
    for _ in range(5):
        async with await tree.share.lock("replica.lock", HOLDER) as again:
            await again.check()


async def test_nobody_holds_what_is_not_there(tree: Tree) -> None:
    assert await tree.share.lock_holder("replica.lock") is None


async def test_of_many_lockers_one_wins(tree: Tree) -> None:
    results = await asyncio.gather(
        *(share.lock("replica.lock", HOLDER) for share in [tree.share, tree.other] * 4), return_exceptions=True
    )
    locks = [one for one in results if not isinstance(one, BaseException)]
    assert sum(isinstance(one, LockedError) for one in results) == 7
    assert len(locks) == 1
    await locks[0].check()
    await locks[0].release()


async def test_asking_for_the_holder_never_keeps_the_lock_from_anybody(tree: Tree) -> None:
    done = asyncio.Event()

    async def ask() -> None:
        while not done.is_set():
            await tree.other.lock_holder("replica.lock")

    async with asyncio.TaskGroup() as group:
        group.create_task(ask())
        for _ in range(20):
            async with await tree.share.lock("replica.lock", HOLDER) as lock:
                await lock.check()
        done.set()


@pytest.mark.parametrize("left", [b"", b"{", b"\xff\xfe garbage", b'{"host": 7}', b"x" * 100_000])
async def test_a_lock_file_left_behind_is_no_lock_whatever_is_in_it(tree: Tree, left: bytes) -> None:
    await put(tree.share, "replica.lock", left)
    assert await tree.share.lock_holder("replica.lock") is None
    async with await tree.share.lock("replica.lock", HOLDER):
        seen = await tree.other.lock_holder("replica.lock")
        assert seen is not None
        assert seen.host == HOLDER.host


async def test_two_locks_do_not_know_of_each_other(tree: Tree) -> None:
    await tree.share.make_dir("웹 01")
    async with (
        await tree.share.lock("replica.lock", HOLDER),
        await tree.share.lock("웹 01/replica.lock", HOLDER) as two,
    ):
        await two.check()
