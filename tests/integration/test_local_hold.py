"""Holds on local files, against real other processes."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from replicad.model.errors import BusyError, UnsupportedError
from replicad.storage.local import LocalShare, syscalls
from replicad.storage.port import CopyRange, OpenMode, ShareFile
from tests.support.files import pattern, put
from tests.support.filesystems import KINDS, mounted, served_by_a_program
from tests.support.processes import Other, other_process

WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)   # waits while the file is held
print("opened")
os.pwrite(fd, b"written after the hold was given back", 0)
print("written")
sys.stdin.readline()
"""
MAPPER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
shared = mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
os.close(fd)
print("mapped")
sys.stdin.readline()
shared.close()
print("unmapped")
sys.stdin.readline()
"""
TIMED_WRITER = """
import os, sys, time
sys.stdin.readline()
began = time.monotonic()
fd = os.open(sys.argv[1], os.O_WRONLY)
print(time.monotonic() - began)
sys.stdin.readline()
"""
TRUNCATER = """
import os, sys
os.truncate(sys.argv[1], 1)
print("cut")
sys.stdin.readline()
"""
SIZE = 3 * 1024 * 1024
NAME = "디스크 1 🗄.vhdx"


@asynccontextmanager
async def share_with_disk(root: Path) -> AsyncIterator[LocalShare]:
    share = LocalShare(str(root))
    await put(share, NAME, pattern(SIZE))
    try:
        yield share
    finally:
        await share.close()


async def line(other: Other) -> str:
    return await asyncio.to_thread(other.line)


async def until_busy(file: ShareFile) -> None:
    """Read over and over: each read gives the old bytes whole or raises BusyError, and the first BusyError ends it."""
    async with asyncio.timeout(30):
        while True:
            buffer = bytearray(SIZE)
            try:
                count = await file.read_into(buffer, 0)
            except BusyError:
                return
            assert count == SIZE
            assert buffer == pattern(SIZE)


@pytest.mark.parametrize("script", [WRITER, TRUNCATER])
async def test_a_writer_in_mid_hold_gets_in_and_no_read_after_that_succeeds(tmp_path: Path, script: str) -> None:
    async with share_with_disk(tmp_path) as share, await share.open(NAME, OpenMode.HOLD) as held:
        buffer = bytearray(10)
        assert await held.read_into(buffer, 0) == 10
        with other_process(script, str(tmp_path / NAME)) as writer:
            await until_busy(held)
            assert await line(writer) in ("opened", "cut")
            for _ in range(3):
                with pytest.raises(BusyError, match="디스크 1"):
                    await held.read_into(buffer, 0)
            for call in (held.identity, held.allocated_extents):
                with pytest.raises(BusyError):
                    await call()
            async with await share.open("copy", OpenMode.CREATE) as copy:
                with pytest.raises(BusyError):
                    await copy.copy_from(held, [CopyRange(0, 0, 10)])


async def test_a_writer_gets_in_soon_even_if_nobody_reads(tmp_path: Path) -> None:
    async with share_with_disk(tmp_path) as share, await share.open(NAME, OpenMode.HOLD) as held:
        with other_process(WRITER, str(tmp_path / NAME)) as writer:
            # The kernel would let it in after 45 s.
            async with asyncio.timeout(20):
                assert await line(writer) == "opened"
                assert await line(writer) == "written"
            with pytest.raises(BusyError):
                await held.read_into(bytearray(10), 0)


async def test_the_process_outlives_a_broken_hold_whatever_signal_it_gets(tmp_path: Path) -> None:
    script = f"""
import asyncio, os, signal, sys
from replicad.model.errors import BusyError
from replicad.storage.local import LocalShare
from replicad.storage.port import OpenMode

async def main():
    share = LocalShare({str(tmp_path)!r})
    assert signal.getsignal(signal.SIGIO) is signal.SIG_DFL  # which would end this process
    async with await share.open("disk", OpenMode.HOLD) as held:
        print("held", flush=True)
        try:
            while True:
                await held.read_into(bytearray(10), 0)
        except BusyError:
            print("busy", flush=True)
    sys.stdin.readline()

asyncio.run(main())
"""
    (tmp_path / "disk").write_bytes(b"0123456789")
    with other_process(script) as holder:
        assert await line(holder) == "held"
        with other_process(WRITER, str(tmp_path / "disk")) as writer:
            assert await line(writer) == "opened"
            assert await line(holder) == "busy"
            assert holder.process.poll() is None
            holder.go_on()
            assert holder.process.wait(30) == 0


async def test_a_file_open_for_writing_elsewhere_is_refused_with_the_name_of_the_process(tmp_path: Path) -> None:
    async with share_with_disk(tmp_path) as share:
        with other_process(WRITER, str(tmp_path / NAME)) as writer:
            assert await line(writer) == "opened"
            assert await line(writer) == "written"
            with pytest.raises(BusyError, match=rf"process {writer.pid} \(python.*\) has it open for writing"):
                await share.open(NAME, OpenMode.HOLD)
        # It was killed.
        await (await share.open(NAME, OpenMode.HOLD)).close()


async def test_a_file_that_is_only_mapped_for_writing_is_refused_too(tmp_path: Path) -> None:
    async with share_with_disk(tmp_path) as share:
        with other_process(MAPPER, str(tmp_path / NAME)) as mapper:
            assert await line(mapper) == "mapped"
            with pytest.raises(BusyError):
                await share.open(NAME, OpenMode.HOLD)
            mapper.go_on()
            assert await line(mapper) == "unmapped"
            await (await share.open(NAME, OpenMode.HOLD)).close()


async def test_a_closed_hold_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with share_with_disk(tmp_path) as share:
        for _ in range(20):
            async with await share.open(NAME, OpenMode.HOLD) as held:
                await held.read_into(bytearray(10), 0)
            fd = os.open(tmp_path / NAME, os.O_WRONLY | os.O_NONBLOCK)
            os.close(fd)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root")
async def test_a_file_of_another_owner_is_unsupported_with_a_hint_and_not_busy() -> None:
    script = """
import asyncio, os, sys
from replicad.model.errors import UnsupportedError
from replicad.storage.local import LocalShare
from replicad.storage.port import OpenMode

async def main():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    try:
        await LocalShare(sys.argv[1]).open("disk", OpenMode.HOLD)
    except UnsupportedError as error:
        print(error, flush=True)

asyncio.run(main())
"""
    with tempfile.TemporaryDirectory() as directory:
        disk = Path(directory) / "disk"
        disk.write_bytes(b"1")
        disk.chmod(0o644)
        disk.parent.chmod(0o755)
        with other_process(script, directory) as other:
            text = await line(other)
    assert "it belongs to user 0" in text
    assert "CAP_LEASE" in text


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
async def test_a_file_system_without_leases_is_unsupported_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(fd: int, watching_thread: int | None) -> None:
        raise OSError(number, "as NFS does")

    monkeypatch.setattr(syscalls, "take_read_lease", refuse)
    async with share_with_disk(tmp_path) as share:
        with pytest.raises(UnsupportedError, match="consistency method"):
            await share.open(NAME, OpenMode.HOLD)
        # Nothing is left of the attempt.
        async with await share.open(NAME, OpenMode.WRITE) as file:
            await file.write(b"1", 0)


async def test_a_hold_that_the_kernel_took_away_is_lost_like_any_other(tmp_path: Path) -> None:
    (second := tmp_path / "둘").mkdir()
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    async with share_with_disk(tmp_path) as share, await share.open(NAME, OpenMode.HOLD) as held:
        with held._descriptor.use() as fd:  # as it does after 45 s in which nobody looked: a suspended process, say
            syscalls.give_lease_back(fd)
        with pytest.raises(BusyError, match="somebody has opened it for writing meanwhile"):
            await held.read_into(bytearray(1), 0)
    async with share_with_disk(second) as share, await share.open(NAME, OpenMode.HOLD) as held:
        with held._descriptor.use() as fd:
            syscalls.give_lease_back(fd)
        assert held._hold is not None
        held._hold._watch()  # the look of every tenth of a second, which nobody awaits
        with pytest.raises(BusyError, match="somebody has opened it for writing meanwhile"):
            await held.read_into(bytearray(1), 0)
    assert complaints == []


async def test_no_signal_handler_is_touched(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGIO, signal.SIGURG)}
    async with share_with_disk(tmp_path) as share, await share.open(NAME, OpenMode.HOLD) as held:
        with other_process(WRITER, str(tmp_path / NAME)):
            await until_busy(held)
    assert {number: signal.getsignal(number) for number in before} == before


async def test_bytes_read_while_the_hold_was_lost_are_never_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_read, during = os.preadv, 0

    def read_late(fd: int, buffers: list[memoryview], offset: int) -> int:
        # The hold stood when this read began. Now a writer comes, is let in, and writes.
        nonlocal during
        with other_process(WRITER, str(tmp_path / NAME)) as writer:
            assert (writer.line(), writer.line()) == ("opened", "written")
        during += 1
        return really_read(fd, buffers, offset)

    async with share_with_disk(tmp_path) as share, await share.open(NAME, OpenMode.HOLD) as held:
        monkeypatch.setattr(os, "preadv", read_late)
        buffer = bytearray(7)
        with pytest.raises(BusyError):
            await held.read_into(buffer, 0)
        assert during == 1
        assert buffer == b"written"


async def _read_until_busy(held: ShareFile) -> str:
    buffer = bytearray(SIZE)
    async with asyncio.timeout(30):
        while True:
            try:
                await held.read_into(buffer, 0)
            except BusyError as error:
                return str(error)


@pytest.mark.parametrize("is_reading", [False, True])
async def test_a_writer_is_held_up_for_milliseconds_whether_we_read_or_not_and_is_named(
    tmp_path: Path, is_reading: bool
) -> None:
    waits: list[float] = []
    async with share_with_disk(tmp_path) as share:
        for _ in range(5):
            with other_process(TIMED_WRITER, str(tmp_path / NAME)) as writer:
                async with await share.open(NAME, OpenMode.HOLD) as held:
                    reading = [asyncio.create_task(_read_until_busy(held)) for _ in range(3 * is_reading)]
                    await held.read_into(bytearray(10), 0)
                    writer.go_on()
                    waits.append(float(await line(writer)))
                    who = f"process {writer.pid} (python"
                    assert [who in await task for task in reading] == [True] * len(reading)
                    with pytest.raises(BusyError, match=re.escape(who)):
                        await held.identity()
    # Looked at every tenth of a second it would be 50 ms on average; the best of five says nothing of a busy machine.
    assert min(waits) < 0.02, waits


async def test_the_thread_that_hears_of_writers_ends_when_nothing_is_held(tmp_path: Path) -> None:
    def watching() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "local-leases"]

    async with share_with_disk(tmp_path) as share:
        async with await share.open(NAME, OpenMode.HOLD), await share.open(NAME, OpenMode.HOLD):
            assert len(watching()) == 1
        async with asyncio.timeout(20):
            while watching():  # noqa: ASYNC110 - another thread's end
                await asyncio.sleep(0.05)
        async with await share.open(NAME, OpenMode.HOLD) as held:
            assert len(watching()) == 1
            with other_process(WRITER, str(tmp_path / NAME)) as writer:
                assert await line(writer) == "opened"
            with pytest.raises(BusyError):
                await held.identity()


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/fuse").exists() or shutil.which("qemu-storage-daemon") is None,
    reason="no file system can be served by a program here",
)
async def test_a_file_that_others_may_write_past_this_kernel_is_not_held(tmp_path: Path) -> None:
    image, root = tmp_path / "image", tmp_path / "share"
    root.mkdir()
    image.write_bytes(pattern(SIZE))
    with served_by_a_program(image, root / NAME):
        share = LocalShare(str(root))
        try:
            with pytest.raises(UnsupportedError, match="can't keep writers out of a file"):
                await share.open(NAME, OpenMode.HOLD)
            async with await share.open(NAME, OpenMode.READ) as file:
                buffer = bytearray(SIZE)
                assert await file.read_into(buffer, 0) == SIZE
            assert buffer == pattern(SIZE)
        finally:
            await share.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")
@pytest.mark.parametrize("kind", KINDS)
async def test_files_of_file_systems_that_are_this_kernels_alone_are_held(kind: str) -> None:
    with mounted(kind) as where:
        async with share_with_disk(where) as share, await share.open(NAME, OpenMode.HOLD) as file:
            buffer = bytearray(SIZE)
            assert await file.read_into(buffer, 0) == SIZE
