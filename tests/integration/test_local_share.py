"""What only local shares have to withstand: links, special files, mounts, dying lock holders, missing roots."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from replicad.model.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    LockedError,
    NotFoundError,
    OutOfSpaceError,
    PermanentError,
    ReplicadError,
    StuckError,
    TimedOutError,
    TransientError,
    UnreachableError,
    UnsupportedError,
)
from replicad.storage.documents import remove_tree
from replicad.storage.local import LocalShare, syscalls, tree
from replicad.storage.local.errnos import translate
from replicad.storage.local.threads import Threads
from replicad.storage.port import CopyRange, OpenMode
from tests.support.files import HOLDER, get, names, pattern, put
from tests.support.filesystems import mounted
from tests.support.processes import other_process

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@asynccontextmanager
async def local(root: Path | str) -> AsyncIterator[LocalShare]:
    share = LocalShare(str(root))
    try:
        yield share
    finally:
        await share.close()


# --- the root --------------------------------------------------------------------------------------------------------


async def test_a_missing_root_is_told_when_it_is_used_and_not_before(tmp_path: Path) -> None:
    async with local(tmp_path / "없음") as share:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: share.list(""),
            lambda: share.stat("a"),
            lambda: share.make_dir("a"),
            lambda: share.make_dir(""),
            lambda: share.open("a", OpenMode.CREATE),
            lambda: share.free_bytes(),
            lambda: share.lock("a", HOLDER),
            lambda: share.capabilities(),
            lambda: share.flush_directory(""),
        ]
        for call in calls:
            with pytest.raises(NotFoundError, match=r"없음: there is no such directory\. Create it"):
                await call()
    assert list(tmp_path.iterdir()) == []


async def test_a_root_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    async with local(tmp_path / "file") as share:
        with pytest.raises(NotFoundError, match="it is a file, not a directory"):
            await share.list("")


async def test_the_root_itself_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    async with local(tmp_path / "link") as share:
        await put(share, "disk", b"1")
    assert (tmp_path / "real/disk").read_bytes() == b"1"


# --- links and special files -----------------------------------------------------------------------------------------


@asynccontextmanager
async def share_with_planted_links(tmp_path: Path) -> AsyncIterator[LocalShare]:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "to-dir").symlink_to(outside)
    (root / "to-file").symlink_to(outside / "secret")
    (root / "dangling").symlink_to(outside / "new")
    (root / "disk").write_bytes(b"disk")
    async with local(root) as share:
        yield share
    assert {p.name: p.read_bytes() for p in outside.iterdir()} == {"secret": b"secret"}


async def test_no_call_follows_a_link_below_the_root(tmp_path: Path) -> None:
    async with share_with_planted_links(tmp_path) as share:
        calls: list[Callable[[], Awaitable[object]]] = []
        for path in ("to-file", "to-dir/secret", "dangling", "to-dir/new"):
            calls += [partial(share.open, path, mode) for mode in (OpenMode.READ, OpenMode.HOLD, OpenMode.WRITE)]
            calls += [partial(share.lock, path, HOLDER), partial(share.lock_holder, path)]
        calls += [
            lambda: share.open("to-dir/new", OpenMode.CREATE),
            lambda: share.stat("to-dir/secret"),
            lambda: share.list("to-dir"),
            lambda: share.list("to-dir/deeper"),
            lambda: share.make_dir("to-dir"),
            lambda: share.make_dir("to-dir/new"),
            lambda: share.make_dir("to-file"),
            lambda: share.rename("disk", "to-dir/disk"),
            lambda: share.rename("to-dir/secret", "mine"),
            lambda: share.remove("to-dir/secret"),
            lambda: share.flush_directory("to-dir"),
        ]
        for call in calls:
            with pytest.raises(UnsupportedError, match="symbolic link"):
                await call()
        with pytest.raises(AlreadyExistsError):
            await share.open("dangling", OpenMode.CREATE)
        assert await names(share) == ["dangling", "disk", "to-dir", "to-file"]


async def test_links_are_listed_as_links_and_renamed_and_removed_themselves(tmp_path: Path) -> None:
    async with share_with_planted_links(tmp_path) as share:
        assert [(e.name, e.is_link, e.is_dir) for e in await share.list("")] == [
            ("dangling", True, False), ("disk", False, False), ("to-dir", True, False), ("to-file", True, False),
        ]  # fmt: skip
        assert (await share.stat("to-dir")).is_link
        await share.rename("disk", "to-file", replace=True)
        assert await get(share, "to-file") == b"disk"
        await share.make_dir("tree")
        await share.rename("to-dir", "tree/to-dir")
        await remove_tree(share, "tree")
        await remove_tree(share, "dangling")
        assert await names(share) == ["to-file"]


async def test_a_directory_swapped_for_a_link_in_mid_use_leads_nowhere(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (root / "vm").mkdir(parents=True)
    stop = Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "vm").rename(root / "aside")
            (root / "vm").symlink_to(outside)
            (root / "vm").unlink()
            (root / "aside").rename(root / "vm")

    async with local(root) as share:
        with ThreadPoolExecutor(1) as pool:
            swapping = pool.submit(swap)
            try:
                made = 0
                for index in range(400):
                    try:
                        async with await share.open(f"vm/{index}", OpenMode.CREATE) as file:
                            await file.write(b"x", 0)
                        made += 1
                    except (UnsupportedError, NotFoundError):
                        continue
            finally:
                stop.set()
            swapping.result(30)
        assert made == len(await share.list("vm"))
    assert list(outside.iterdir()) == []


async def test_special_files_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        async with local(tmp_path) as share, asyncio.timeout(20):
            for path in ("fifo", "socket"):
                for mode in (OpenMode.READ, OpenMode.HOLD, OpenMode.WRITE):
                    with pytest.raises(UnsupportedError, match="a device, a pipe or a socket"):
                        await share.open(path, mode)
                with pytest.raises(UnsupportedError):
                    await share.lock(path, HOLDER)
                assert (await share.stat(path)).size_bytes == 0


async def test_devices_are_refused() -> None:
    async with local("/dev") as share:
        for mode in (OpenMode.READ, OpenMode.WRITE):
            with pytest.raises(UnsupportedError):
                await share.open("zero", mode)


async def test_names_that_are_not_text_are_listed_and_refused(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff\xfe", "wb"):  # noqa: PTH123  # pathlib takes no bytes
        pass
    async with local(tmp_path) as share:
        (name,) = await names(share)
        with pytest.raises(PermanentError):
            await share.open(name, OpenMode.READ)


# --- rights, room, renames -------------------------------------------------------------------------------------------


async def test_new_files_and_directories_are_for_this_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with local(tmp_path) as share:
            await share.make_dir("vm")
            await put(share, "vm/disk", b"1")
            async with await share.lock("vm/replica.lock", HOLDER):
                modes = [(tmp_path / name).stat().st_mode & 0o7777 for name in ("vm", "vm/disk", "vm/replica.lock")]
    finally:
        os.umask(before)
    assert modes == [0o700, 0o600, 0o600]


@pytest.mark.root
@needs_root
async def test_a_full_file_system_is_out_of_space_and_the_rest_stays_usable() -> None:
    with mounted("tmpfs", 8 << 20) as top:
        async with local(top) as share, await share.open("disk", OpenMode.CREATE) as file:
            with pytest.raises(OutOfSpaceError, match="no space is left"):
                await file.write(pattern(9 << 20), 0)
            assert await share.free_bytes() == 0
            await file.set_size(0)
            assert await share.free_bytes() > 7 << 20
            await file.write(b"1", 0)
            assert await get(share, "disk") == b"1"


@pytest.mark.root
@needs_root
async def test_a_lock_can_be_had_on_a_full_file_system_by_whoever_wants_to_make_room() -> None:
    with mounted("tmpfs", 1 << 20) as top:
        async with local(top) as share, await share.open("disk", OpenMode.CREATE) as file:
            with pytest.raises(OutOfSpaceError, match="no space is left"):
                await file.write(pattern(2 << 20), 0)
            async with await share.lock("replica.lock", HOLDER) as lock:
                await lock.check()
                with pytest.raises(LockedError):
                    await share.lock("replica.lock", HOLDER)
            assert await names(share) == ["disk"]


@pytest.mark.root
@needs_root
async def test_a_rename_or_copy_to_another_file_system_is_unsupported() -> None:
    with mounted("xfs") as xfs, mounted("btrfs") as btrfs:
        async with local(xfs) as one, local(btrfs) as two:
            await put(one, "disk", pattern(100_000))
            async with await one.open("disk", OpenMode.READ) as source, await two.open("c", OpenMode.CREATE) as target:
                with pytest.raises(UnsupportedError, match="different file systems"):
                    await target.copy_from(source, [CopyRange(0, 0, 100_000)])


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
async def test_a_copy_shares_its_blocks_where_the_file_system_can(kind: str) -> None:
    with mounted(kind) as top:
        async with local(top) as share:
            await put(share, "disk", pattern(64 << 20))
            before = await share.free_bytes()
            async with (
                await share.open("disk", OpenMode.READ) as source,
                await share.open("undo", OpenMode.CREATE) as undo,
            ):
                await undo.copy_from(source, [CopyRange(0, 0, 64 << 20)])
                await undo.flush()
            assert before - await share.free_bytes() < 8 << 20
            assert await get(share, "undo") == pattern(64 << 20)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
async def test_where_the_kernel_cannot_rename_without_replacing_links_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "as NFS does")

    monkeypatch.setattr(syscalls, "rename_no_replace", refuse)
    async with local(tmp_path) as share:
        await put(share, "one", b"1")
        await put(share, "two", b"2")
        await share.make_dir("dir")
        await share.make_dir("empty")
        for source, target in (("one", "two"), ("dir", "empty"), ("one", "dir"), ("dir", "one")):
            with pytest.raises(AlreadyExistsError):
                await share.rename(source, target)
        await share.rename("one", "dir/three")
        await share.rename("dir", "renamed")
        assert await names(share) == ["empty", "renamed", "two"]
        assert await get(share, "renamed/three") == b"1"


async def test_one_of_two_names_of_a_file_is_gone_after_it_replaced_the_other(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    async with local(tmp_path) as share:
        await share.rename("one", "two", replace=True)
        assert await names(share) == ["two"]


async def test_a_read_only_root_is_not_tried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, "read-only")

    async with local(tmp_path) as share:
        monkeypatch.setattr(tree, "open_file", refuse)
        found = await share.capabilities()
        assert found.notes == ("We may not write here, so nothing was tried out.",)
        assert not found.server_copy


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, AccessDeniedError), (errno.EROFS, AccessDeniedError), (errno.EDQUOT, OutOfSpaceError),
        (errno.ESTALE, UnreachableError), (errno.EMFILE, TransientError), (errno.ETIMEDOUT, TimedOutError),
        (errno.EIO, PermanentError), (errno.EUCLEAN, PermanentError),
    ],
)  # fmt: skip
def test_error_numbers_are_translated(number: int, kind: type[ReplicadError]) -> None:
    error = translate(OSError(number, "a text that nobody reads"), "write", "/a/b")
    assert type(error) is kind
    assert str(error).startswith("cannot write /a/b: ")
    assert "nobody reads" not in str(error)


# --- locks -----------------------------------------------------------------------------------------------------------

LOCKER = """
import asyncio, sys
from replicad.storage.local import LocalShare
from replicad.storage.port import LockHolder

async def main():
    holder = LockHolder("그 호스트", "m", "b", 99, "1", "2026-02-03T00:00:00Z")
    lock = await LocalShare(sys.argv[1]).lock("replica.lock", holder)
    print("locked")
    await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


async def test_a_lock_is_regained_at_once_after_its_holder_is_killed(tmp_path: Path) -> None:
    async with local(tmp_path) as share:
        with other_process(LOCKER, str(tmp_path)) as other:
            assert await asyncio.to_thread(other.line) == "locked"
            with pytest.raises(LockedError, match=r"그 호스트, process 99, since 2026-02-03"):
                await share.lock("replica.lock", HOLDER)
            other.kill()
            assert await share.lock_holder("replica.lock") is None
            async with await share.lock("replica.lock", HOLDER) as lock:
                await lock.check()
                assert await share.lock_holder("replica.lock") == HOLDER


async def test_a_lock_file_is_gone_after_its_release(tmp_path: Path) -> None:
    async with local(tmp_path) as share:
        async with await share.lock("replica.lock", HOLDER):
            assert await names(share) == ["replica.lock"]
        assert await names(share) == []


async def test_a_lock_whose_file_somebody_removed_is_lost(tmp_path: Path) -> None:
    async with local(tmp_path) as share:
        first = await share.lock("replica.lock", HOLDER)
        await share.remove("replica.lock")
        second = await share.lock("replica.lock", replace(HOLDER, host="second"))
        with pytest.raises(LockedError, match="removed or replaced"):
            await first.check()
        await first.release()
        await second.check()
        await second.release()


async def test_processes_that_take_and_release_a_lock_in_turns_never_hold_it_together(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from replicad.model.errors import LockedError
from replicad.storage.local import LocalShare
from replicad.storage.port import LockHolder

async def main():
    share, got = LocalShare(sys.argv[1]), 0
    while got < 25:
        try:
            lock = await share.lock("replica.lock", LockHolder("h", "m", "b", 1, "1", "now"))
        except LockedError:
            continue
        async with lock:
            mark = Path(sys.argv[1]) / "inside"
            mark.touch(exist_ok=False)
            await asyncio.sleep(0)
            mark.unlink()
            got += 1
    print("done")

asyncio.run(main())
"""
    with other_process(script, str(tmp_path)) as one, other_process(script, str(tmp_path)) as two:
        assert await asyncio.to_thread(one.line) == "done"
        assert await asyncio.to_thread(two.line) == "done"


# --- threads and files given back ------------------------------------------------------------------------------------


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_no_descriptor_is_left_open_by_failures_and_cancellations(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"1")
    async with local(tmp_path) as share:
        await share.list("")
        before = _open_descriptors()
        for turns in range(6):
            for mode in (OpenMode.READ, OpenMode.HOLD, OpenMode.WRITE):
                opening = asyncio.ensure_future(share.open("disk", mode))
                for _ in range(turns):
                    await asyncio.sleep(0)
                opening.cancel()
                with suppress(asyncio.CancelledError):
                    await (await opening).close()
        for path in ("없음", "disk/below"):
            with pytest.raises(NotFoundError):
                await share.open(path, OpenMode.READ)
        assert _open_descriptors() == before


async def test_a_call_that_never_ends_is_given_up_after_its_time() -> None:
    threads, gate = Threads(count=1), Event()
    with pytest.raises(StuckError, match=r"cannot read disk: the file system gave no answer within 0\.05 s"):
        await threads.run("read", "disk", gate.wait, timeout_s=0.05)
    gate.set()
    assert await threads.run("read", "disk", lambda: "the thread is free again") == "the thread is free again"
    threads.close()


async def test_a_result_that_comes_too_late_is_given_back() -> None:
    threads, begun, gate, given_back = Threads(count=1), Event(), Event(), Event()

    def open_slowly() -> str:
        begun.set()
        gate.wait(30)
        return "descriptor"

    acquiring = asyncio.ensure_future(
        threads.acquire("open", "disk", open_slowly, lambda result: given_back.set() if result else None)
    )
    await asyncio.sleep(0)
    assert await asyncio.to_thread(begun.wait, 30)
    acquiring.cancel()
    await asyncio.sleep(0)
    assert not acquiring.done()  # a call that has begun is waited for
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await acquiring
    assert given_back.is_set()
    threads.close()


async def test_a_call_that_has_not_begun_is_not_made_after_its_cancellation() -> None:
    threads, gate, made = Threads(count=1), Event(), Event()
    first = asyncio.ensure_future(threads.run("read", "disk", lambda: gate.wait(30)))
    second = asyncio.ensure_future(threads.run("write", "disk", made.set))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.set()
    assert await first
    await threads.run("read", "disk", lambda: None)
    assert not made.is_set()
    threads.close()


async def test_a_file_is_of_no_use_after_it_was_closed(tmp_path: Path) -> None:
    share = LocalShare(str(tmp_path))
    await put(share, "disk", b"1")
    file = await share.open("disk", OpenMode.READ)
    late = await share.open("disk", OpenMode.HOLD)
    await file.close()
    with pytest.raises(ValueError, match="closed"):
        await file.read_into(bytearray(1), 0)
    await share.close()
    await late.close()
    with pytest.raises(ValueError, match="closed"):
        await share.list("")
    os.close(os.open(tmp_path / "disk", os.O_WRONLY | os.O_NONBLOCK))


def test_it_can_be_imported_where_there_is_no_posix_and_says_so_when_used() -> None:
    script = """
import asyncio, os, sys, types
for name in ("fcntl", "pwd", "grp", "resource", "termios"):
    sys.modules[name] = None
sys.modules["_winapi"] = types.ModuleType("_winapi")  # what Python's own modules look for there
sys.platform = "win32"
from replicad.model.errors import UnsupportedError
from replicad.storage.local import LocalShare
share = LocalShare("C:/vms")
os.name = "nt"
try:
    share.list("").send(None)
except UnsupportedError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("cannot use C:/vms: local directories work on Linux only so far. Share the directory")


async def test_a_lock_file_removed_between_opening_and_locking_it_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_open, opened = tree.open_lock_file, 0

    def open_and_lose(root: str, path: str) -> int:
        nonlocal opened
        opened += 1
        fd = really_open(root, path)
        if opened == 1:
            (tmp_path / "replica.lock").unlink()  # as its holder does at the release
        return fd

    monkeypatch.setattr(tree, "open_lock_file", open_and_lose)
    async with local(tmp_path) as share, await share.lock("replica.lock", HOLDER) as lock:
        assert opened == 2
        await lock.check()
        with pytest.raises(LockedError):
            await share.lock("replica.lock", HOLDER)


async def test_where_holes_cannot_be_punched_zeros_are_written_and_never_beyond_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "as NFS 4.1 does")

    monkeypatch.setattr(syscalls, "punch_hole", refuse)
    size = (2 << 20) + 777
    async with local(tmp_path) as share:
        async with await share.open("disk", OpenMode.CREATE) as file:
            await file.write(pattern(size), 0)
            await file.zero(5, 10)
            await file.zero(1000, 1 << 40)
            await file.zero(size, 10)
        assert await get(share, "disk") == pattern(size)[:5] + bytes(10) + pattern(size)[15:1000] + bytes(size - 1000)
        assert not (await share.capabilities()).zero


async def test_a_special_file_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    really_open = os.open
    opened: list[object] = []

    def remember(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        opened.append(path)
        return really_open(path, flags, mode, dir_fd=dir_fd)

    async with local(tmp_path) as share:
        monkeypatch.setattr(os, "open", remember)
        with pytest.raises(UnsupportedError):
            await share.open("fifo", OpenMode.WRITE)
    assert set(opened) == {str(tmp_path)}  # opening some devices does something to them
