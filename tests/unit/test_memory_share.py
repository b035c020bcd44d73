"""What only the in-memory share can do; what every share does is in tests/contract."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from replicad.model.errors import (
    BusyError,
    LockedError,
    NotFoundError,
    OutOfSpaceError,
    UnreachableError,
    UnsupportedError,
)
from replicad.model.extents import Extent
from replicad.storage.memory import MemoryShare
from replicad.storage.port import CopyRange, LockHolder, OpenMode, Share
from replicad.storage.sparse import SECTOR_BYTES

PAGE = 64 * 1024
HOLDER = LockHolder("host-가", "m", "b", 7, "1", "2026-01-02T03:04:05Z")


async def put(share: Share, path: str, data: bytes, *, flush: bool = True) -> None:
    async with await share.open(path, OpenMode.CREATE) as file:
        await file.write(data, 0)
        if flush:
            await file.flush()


async def content(share: Share, path: str) -> bytes:
    async with await share.open(path, OpenMode.READ) as file:
        buffer = bytearray((await file.identity()).size_bytes)
        assert await file.read_into(buffer, 0) == len(buffer)
        return bytes(buffer)


async def test_it_is_a_share() -> None:
    share: Share = MemoryShare()
    assert await share.list("") == []


async def test_a_tebibyte_with_little_data_costs_little() -> None:
    share = MemoryShare(capacity_bytes=10 * PAGE)
    async with await share.open("big.vhdx", OpenMode.CREATE) as file:
        await file.set_size(1 << 40)
        await file.write(b"x", (1 << 40) - 1)
        assert await file.allocated_extents() == [Extent((1 << 40) - PAGE, PAGE)]
    assert await share.free_bytes() == 9 * PAGE


async def test_a_full_share_refuses_the_page_that_does_not_fit_and_keeps_those_before() -> None:
    share = MemoryShare(capacity_bytes=2 * PAGE)
    async with await share.open("a", OpenMode.CREATE) as file:
        with pytest.raises(OutOfSpaceError):
            await file.write(b"y" * 3 * PAGE, 0)
        assert (await file.identity()).size_bytes == 2 * PAGE
    assert await share.free_bytes() == 0
    await share.remove("a")
    assert await share.free_bytes() == 2 * PAGE


async def test_a_removed_file_keeps_its_room_until_it_is_closed() -> None:
    share = MemoryShare(capacity_bytes=2 * PAGE)
    async with await share.open("a", OpenMode.CREATE) as file:
        await file.write(b"y", 0)
        await share.remove("a")
        assert await share.free_bytes() == PAGE
    assert await share.free_bytes() == 2 * PAGE


async def test_names_that_differ_only_by_case_are_one_where_the_share_takes_them_for_one() -> None:
    share = MemoryShare(case_sensitive=False)
    await put(share, "Web.vhdx", b"1")
    assert (await share.stat("wEB.VHDX")).name == "Web.vhdx"
    await share.rename("web.vhdx", "WEB.vhdx")
    assert [entry.name for entry in await share.list("")] == ["WEB.vhdx"]


@pytest.mark.parametrize("missing", ["server_copy", "hold"])
async def test_a_missing_capability_is_unsupported(missing: str) -> None:
    share = MemoryShare(**{missing: False})  # type: ignore[arg-type]  # the parameters of that name are bool
    await put(share, "a", b"12345678")
    async with await share.open("a", OpenMode.WRITE) as file:
        if missing == "server_copy":
            with pytest.raises(UnsupportedError):
                await file.copy_from(file, [CopyRange(0, 4, 4)])
    if missing == "hold":
        with pytest.raises(UnsupportedError):
            await share.open("a", OpenMode.HOLD)
    assert getattr(await share.capabilities(), missing) is False


async def test_a_share_without_sparse_files_allocates_what_is_grown() -> None:
    share = MemoryShare(sparse=False, allocated_extents=False, zero=False)
    async with await share.open("a", OpenMode.CREATE) as file:
        await file.set_size(3 * PAGE)
        await file.write(b"x", 5 * PAGE)
        await file.zero(0, PAGE)
        assert await file.allocated_extents() == [Extent(0, 5 * PAGE + 1)]
    assert (await share.stat("a")).allocated_bytes == 6 * PAGE


async def test_a_broken_hold_makes_every_further_read_busy_and_lets_the_writer_in() -> None:
    share = MemoryShare()
    await put(share, "a", b"12345678")
    async with await share.open("a", OpenMode.HOLD) as held:
        share.break_hold("a")
        async with await share.view().open("a", OpenMode.WRITE):
            pass
        for _ in range(2):
            with pytest.raises(BusyError):
                await held.read_into(bytearray(1), 0)


async def test_the_death_of_a_host_frees_its_locks_and_files() -> None:
    share = MemoryShare()
    other = share.view()
    await share.lock("replica.lock", HOLDER)
    await put(share, "a", b"1")
    writer = await share.open("a", OpenMode.WRITE)
    with pytest.raises(LockedError, match="host-가"):
        await other.lock("replica.lock", HOLDER)
    share.die()
    await other.lock("replica.lock", HOLDER)
    async with await other.open("a", OpenMode.HOLD):
        with pytest.raises(UnreachableError):
            await writer.write(b"2", 0)


async def test_a_crash_loses_data_and_names_that_were_not_flushed() -> None:
    share = MemoryShare(volatile=True)
    await share.make_dir("vm")
    await share.flush_directory("")
    await put(share, "vm/flushed", b"1" * PAGE)
    await put(share, "vm/unflushed", b"2" * PAGE, flush=False)
    await share.flush_directory("vm")
    await put(share, "vm/nameless", b"3")
    async with await share.open("vm/flushed", OpenMode.WRITE) as file:
        await file.write(b"4" * 10, 0)
    share.crash()
    assert [entry.name for entry in await share.list("vm")] == ["flushed", "unflushed"]
    assert await content(share, "vm/flushed") == b"1" * PAGE
    assert await content(share, "vm/unflushed") == b""


async def test_a_rename_between_directories_survives_a_crash_whole_or_not_at_all() -> None:
    share = MemoryShare(volatile=True, capacity_bytes=10 * PAGE)
    for name in ("one", "two"):
        await share.make_dir(name)
    await share.flush_directory("")
    await put(share, "one/a", b"1")
    await share.flush_directory("one")
    await share.rename("one/a", "two/b")
    share.crash()
    assert await content(share, "one/a") == b"1"
    await share.rename("one/a", "two/b")
    await share.flush_directory("one")
    share.crash()
    assert await share.list("one") == []
    assert await content(share, "two/b") == b"1"
    await share.remove("two/b")
    share.crash()
    assert await content(share, "two/b") == b"1"
    assert await share.free_bytes() == 9 * PAGE


async def test_a_flushed_name_brings_with_it_the_changes_that_it_builds_on() -> None:
    share = MemoryShare(volatile=True)
    for name in ("one", "two", "three"):
        await share.make_dir(name)
    await put(share, "one/a", b"1")
    for name in ("", "one"):
        await share.flush_directory(name)
    await share.rename("one/a", "two/b")
    await share.rename("two/b", "three/c")
    await share.flush_directory("three")
    share.crash()
    assert [[entry.name for entry in await share.list(name)] for name in ("one", "two", "three")] == [[], [], ["c"]]


async def test_a_file_in_a_directory_whose_own_name_was_not_flushed_is_gone_with_it() -> None:
    share = MemoryShare(volatile=True)
    await share.make_dir("vm")
    await put(share, "vm/a", b"1")
    await share.flush_directory("vm")
    share.crash()
    with pytest.raises(NotFoundError):
        await share.stat("vm")


async def test_with_luck_each_unflushed_sector_survives_on_its_own() -> None:
    seen = set()
    for seed in range(64):
        share = MemoryShare(volatile=True)
        await put(share, "a", b"o" * 3 * PAGE)
        await share.flush_directory("")
        async with await share.open("a", OpenMode.WRITE) as file:
            await file.write(b"n" * 3 * PAGE, 0)
        share.crash(Random(seed))
        after = await content(share, "a")
        sectors = [after[start : start + SECTOR_BYTES] for start in range(0, 3 * PAGE, SECTOR_BYTES)]
        assert all(len(set(sector)) == 1 for sector in sectors)
        pages = [set(after[start : start + PAGE]) for start in range(0, 3 * PAGE, PAGE)]
        seen.add(tuple(page.pop() if len(page) == 1 else None for page in pages))
    assert {pages for pages in seen if None not in pages} == set(product(b"on", repeat=3))
    assert any(None in pages for pages in seen)


async def test_with_luck_a_file_may_be_as_it_was_at_any_moment_since_it_was_flushed() -> None:
    seen = set()
    for seed in range(64):
        share = MemoryShare(volatile=True)
        await put(share, "a", b"1" * 10)
        await share.flush_directory("")
        async with await share.open("a", OpenMode.WRITE) as file:
            await file.write(b"2" * 10, 0)
            await file.set_size(5)
            await file.write(b"3" * 20, 0)
        share.crash(Random(seed))
        after = await content(share, "a")
        seen.add((after[:1], len(after)))
    assert seen == set(product((b"1", b"2", b"3"), (5, 10, 20)))


async def test_with_luck_a_later_change_of_names_may_survive_without_an_earlier_one_that_it_does_not_build_on() -> None:
    seen = set()
    for seed in range(200):
        share = MemoryShare(volatile=True)
        for name in ("a.tmp", "b.tmp"):
            await put(share, name, name.encode())
        await share.flush_directory("")
        await share.rename("a.tmp", "a")
        await share.rename("b.tmp", "b")
        await share.rename("b", "c")
        share.crash(Random(seed))
        seen.add(tuple(entry.name for entry in await share.list("")))
    firsts, seconds = ("a.tmp", "a"), ("b.tmp", "b", "c")
    assert seen == {tuple(sorted(names)) for names in product(firsts, seconds)}
