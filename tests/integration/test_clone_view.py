"""Clones of a machine's files on real file systems: of which moment they are seen to be, and what is left of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from random import Random

import pytest

from replicad.model.clock import Clock
from replicad.model.errors import BusyError, OutOfSpaceError, UnsupportedError
from replicad.model.points import Consistency
from replicad.replica.layout import check_disk_path
from replicad.storage.decorated import DecoratedShare
from replicad.storage.local import LocalShare
from replicad.storage.memory import MemoryShare
from replicad.storage.metered import MeteredShare
from replicad.storage.port import OpenMode, Share
from replicad.tracking.clones import CloneView
from replicad.tracking.port import Freezer, Seen, SelectedFile
from replicad.tracking.selection import Selection
from tests.support.cloned import NAME, content, request
from tests.support.filesystems import bound, mounted
from tests.support.world import SteadyClock

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")

_SELECTION = Selection(("*.vhdx",), (), ("*.xml",))
_ONE, _TWO, _CONFIG = "디스크 1 🖴.vhdx", "하위 폴더/나 둘.vhdx", "vm.xml"


@dataclass
class _Instant:
    """Takes down when it was called."""

    heard: list[str] = field(default_factory=list)

    async def before(self, files: Sequence[SelectedFile]) -> None:
        self.heard.append(f"before {len(files)}")

    async def after(self) -> None:
        self.heard.append("after")


@dataclass
class _Freezer:
    """A machine that stands still while it is frozen."""

    reached: Consistency = Consistency.APPLICATION
    running: bool = True
    is_frozen: bool = False
    heard: list[bool] = field(default_factory=list)

    @asynccontextmanager
    async def frozen(self, *, application: bool) -> AsyncIterator[Consistency]:
        self.heard.append(application)
        self.is_frozen = True
        try:
            yield self.reached
        finally:
            self.is_frozen = False

    async def is_running(self) -> bool:
        return self.running


@pytest.fixture(params=["xfs", "btrfs"])
def where(request: pytest.FixtureRequest) -> Iterator[Path]:
    with mounted(request.param) as path:
        yield path


@pytest.fixture
async def share(where: Path) -> AsyncIterator[Share]:
    local = LocalShare(str(where))
    yield local
    await local.close()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def _disk(where: Path, path: str, seed: int = 1, size: int = 1 << 20) -> bytes:
    data = Random(seed).randbytes(size)
    (where / path).parent.mkdir(exist_ok=True)
    (where / path).write_bytes(data)
    return data


def _view(share: Share, executor: ThreadPoolExecutor, **options: object) -> CloneView:
    given = {
        "freezer": None,
        "wait_s": 2.0,
        "allow_fuzzy": False,
        "max_stall_s": 1.0,
        "keep_free": lambda total: 0,
        **options,
    }
    return CloneView(
        share, _SELECTION, check_disk_path, executor=executor, clock=SteadyClock(tick_s=0.5).clock(), **given  # type: ignore[arg-type]  # each test gives what it is about
    )  # fmt: skip


@contextmanager
def _written(*paths: Path) -> Iterator[list[int]]:
    """Somebody has these open for writing, as a hypervisor has."""
    fds = [os.open(path, os.O_RDWR) for path in paths]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def _left(where: Path) -> list[str]:
    return sorted(str(p.relative_to(where)) for p in where.rglob("*") if p.is_file())


async def _seen(view: CloneView, instant: _Instant | None = None) -> Seen:
    async with view.open(request(), instant or _Instant()) as seen:
        return seen


async def test_clones_of_files_that_nobody_writes_are_cold_and_leave_nothing(
    where: Path, share: Share, executor: ThreadPoolExecutor
) -> None:
    data = {_ONE: _disk(where, _ONE), _TWO: _disk(where, _TWO, 2, 5000), _CONFIG: _disk(where, _CONFIG, 3, 100)}
    instant = _Instant()
    async with _view(share, executor).open(request(), instant) as seen:
        assert instant.heard == ["before 3", "after"]
        assert seen.consistency is Consistency.COLD
        for path in data:
            (where / path).write_bytes(b"written since")  # nobody is kept from it
        assert {f.path: bytes(await content(f.file)) for f in seen.files} == data
        assert {f.path: f.size_bytes for f in seen.files} == {path: len(d) for path, d in data.items()}
        await seen.confirm()
        assert _left(where) == sorted(data), "clones have no name"
    assert _left(where) == sorted(data)


async def test_one_disk_of_a_running_machine_is_of_one_instant(
    where: Path, share: Share, executor: ThreadPoolExecutor
) -> None:
    _disk(where, _ONE)
    _disk(where, _CONFIG, 3, 100)
    with _written(where / _ONE, where / _CONFIG) as (fd, _):
        for at in (0, 512 << 10):
            os.pwrite(fd, bytes(8), at)
        stop = threading.Event()

        def write() -> int:
            """Pairs of blocks, each pair with its number, the second one after the first is on the disk."""
            number = 0
            while not stop.is_set():
                number += 1
                for at in (0, 512 << 10):
                    os.pwrite(fd, number.to_bytes(8, "big") * 512, at)
                    os.fdatasync(fd)
            return number

        with ThreadPoolExecutor(1) as writer:
            written = writer.submit(write)
            try:
                for _ in range(20):
                    async with _view(share, executor).open(request(), _Instant()) as seen:
                        assert seen.consistency is Consistency.CRASH
                        disk = await content(next(f for f in seen.files if f.path == _ONE).file)
                    first, second = (int.from_bytes(disk[at : at + 8], "big") for at in (0, 512 << 10))
                    assert second <= first <= second + 1, (first, second)
            finally:
                stop.set()
            assert written.result() > 0


async def test_several_disks_that_are_open_but_not_written_are_of_one_instant(
    where: Path, share: Share, executor: ThreadPoolExecutor
) -> None:
    _disk(where, _ONE)
    _disk(where, _TWO, 2)
    with _written(where / _ONE, where / _TWO):
        assert (await _seen(_view(share, executor))).consistency is Consistency.CRASH


class _WritingBetween(DecoratedShare):
    """Each time that clones were taken, something is written before anybody can look."""

    def __init__(self, inner: Share, write: list[object]) -> None:
        super().__init__(inner)
        self.writes = write
        self.opened = 0

    async def open(self, path: str, mode: OpenMode):  # type: ignore[no-untyped-def]  # as the base
        return await self.inner.open(path, mode)

    async def extent_map(self, file):  # type: ignore[no-untyped-def]  # as the base
        if self.writes:
            self.writes.pop()()  # type: ignore[operator]  # they are functions
        return await super().extent_map(file)


async def test_disks_that_are_written_between_their_clones_are_tried_again_until_they_are_quiet(
    where: Path, share: Share, executor: ThreadPoolExecutor
) -> None:
    _disk(where, _ONE)
    _disk(where, _TWO, 2)
    with _written(where / _ONE, where / _TWO) as (fd, _):
        writes: list[object] = [lambda: os.pwrite(fd, b"x", 10), lambda: os.pwrite(fd, b"y", 10)]
        between = _WritingBetween(share, writes)
        instant = _Instant()
        seen = await _seen(_view(between, executor, wait_s=60.0), instant)
        assert seen.consistency is Consistency.CRASH
        assert (writes, instant.heard) == ([], ["before 2", "after"])


async def test_disks_that_never_stand_still_are_refused_with_what_helps_or_read_as_fuzzy(
    where: Path, share: Share, executor: ThreadPoolExecutor
) -> None:
    _disk(where, _ONE)
    _disk(where, _TWO, 2)
    with _written(where / _ONE, where / _TWO) as (fd, _):
        always: list[object] = [lambda n=n: os.pwrite(fd, bytes([n % 256]), 10) for n in range(1000)]
        between = _WritingBetween(share, always)
        with pytest.raises(BusyError, match=r"디스크 1.*was written while.*'freeze' and 'thaw'.*qemu"):
            await _seen(_view(between, executor))
        seen = await _seen(_view(between, executor, allow_fuzzy=True))
        assert seen.consistency is Consistency.FUZZY
        assert "was written while" in seen.warnings[0]
    assert _left(where) == sorted([_ONE, _TWO])


async def test_a_hole_that_was_written_and_punched_again_is_no_quiet_instant(
    where: Path, share: Share, executor: ThreadPoolExecutor
) -> None:
    """The places are as they were; the times are not."""
    _disk(where, _ONE)
    os.truncate(where / _ONE, 4 << 20)
    _disk(where, _TWO, 2)
    local = LocalShare(str(where))
    with _written(where / _ONE, where / _TWO) as (fd, _):

        def write_and_punch() -> None:
            os.pwrite(fd, b"x" * 4096, 2 << 20)
            os.fsync(fd)
            from replicad.storage.local import syscalls

            syscalls.punch_hole(fd, 2 << 20, 4096)

        between = _WritingBetween(local, [write_and_punch])
        with pytest.raises(BusyError, match="was written"):
            await _seen(_view(between, executor, wait_s=0.0))
    await local.close()


@pytest.mark.parametrize("reached", [Consistency.APPLICATION, Consistency.CRASH])
async def test_all_disks_are_cloned_inside_the_freeze_and_the_label_is_what_it_reached(
    where: Path, share: Share, executor: ThreadPoolExecutor, reached: Consistency
) -> None:
    _disk(where, _ONE)
    _disk(where, _TWO, 2)
    freezer = _Freezer(reached)

    class Watching(DecoratedShare):
        async def clones(self, paths: Sequence[str]):  # type: ignore[no-untyped-def]  # as the base
            assert not freezer.is_frozen, "what can be done before is done before"
            clones = await super().clones(paths)
            take = clones.take

            async def taken():  # type: ignore[no-untyped-def]  # as the port
                assert freezer.is_frozen
                return await take()

            clones.take = taken  # type: ignore[method-assign]  # to see when
            return clones

    with _written(where / _ONE, where / _TWO):
        seen = await _seen(_view(Watching(share), executor, freezer=freezer))
    assert (seen.consistency, freezer.heard, freezer.is_frozen) == (reached, [True], False)


async def test_a_machine_that_is_off_is_not_frozen_and_its_disks_are_cold(
    where: Path, share: Share, executor: ThreadPoolExecutor
) -> None:
    _disk(where, _ONE)
    freezer = _Freezer(running=False)
    assert (await _seen(_view(share, executor, freezer=freezer))).consistency is Consistency.COLD
    assert freezer.heard == []


async def test_a_freeze_that_fails_leaves_no_clone(where: Path, share: Share, executor: ThreadPoolExecutor) -> None:
    _disk(where, _ONE)

    class Refusing(_Freezer):
        @asynccontextmanager
        async def frozen(self, *, application: bool) -> AsyncIterator[Consistency]:
            if application:
                raise BusyError("freeze", "vm", "it did not answer")
            yield Consistency.CRASH

    freezer: Freezer = Refusing()
    with pytest.raises(BusyError, match="did not answer"):
        await _seen(_view(share, executor, freezer=freezer))
    assert _left(where) == [_ONE]


async def test_a_disk_of_too_many_extents_is_refused_before_anything_waits_unless_nobody_writes(
    where: Path, share: Share, executor: ThreadPoolExecutor
) -> None:
    with (where / _ONE).open("wb") as file:
        for block in range(0, 400, 2):
            os.pwrite(file.fileno(), b"x" * 4096, block * 4096)
    freezer = _Freezer()
    with pytest.raises(UnsupportedError, match=r"has \d+ extents.*more than 1 ms.*max_stall"):
        await _seen(_view(share, executor, freezer=freezer, max_stall_s=0.001))
    assert freezer.heard == []
    with _written(where / _ONE), pytest.raises(UnsupportedError, match="cowextsize"):
        await _seen(_view(share, executor, max_stall_s=0.001))
    assert (await _seen(_view(share, executor, max_stall_s=0.001))).consistency is Consistency.COLD
    with _written(where / _ONE):
        seen = await _seen(_view(share, executor, max_stall_s=0.1))
        assert seen.consistency is Consistency.CRASH
        assert "had to wait for 500 ms" in seen.warnings[0], "the clock of this test says so"
        assert (await _seen(_view(share, executor, max_stall_s=0.5))).warnings == ()


async def test_a_machine_with_disks_in_many_pieces_stands_still_for_what_changed_alone(
    where: Path, share: Share, executor: ThreadPoolExecutor
) -> None:
    pieces = 10_000
    with (where / _ONE).open("wb") as disk:
        for number in range(pieces):
            os.pwrite(disk.fileno(), number.to_bytes(8, "big"), number * 2 * 4096)
    _disk(where, _TWO, 2)
    freezer = _Freezer()

    class Writing(_Freezer):
        @asynccontextmanager
        async def frozen(self, *, application: bool) -> AsyncIterator[Consistency]:
            with (where / _ONE).open("r+b") as disk:  # the last that it does before it stands still
                os.pwrite(disk.fileno(), b"the last", 7 * 4096)
                os.pwrite(disk.fileno(), b"the last", 2 * pieces * 4096)
            async with freezer.frozen(application=application) as reached:
                yield reached

    with _written(where / _ONE, where / _TWO):
        # As a whole it would take 0.15 s or more on XFS and 0.08 s on btrfs, by what is known of them.
        view = _view(share, executor, freezer=Writing(), max_stall_s=0.075)
        async with view.open(request(), _Instant()) as seen:
            assert freezer.heard == [True]
            for path, file in zip((_ONE, _TWO), seen.files, strict=True):
                expected = (where / path).read_bytes()
                assert file.size_bytes == len(expected)
                found = bytearray(len(expected))
                assert await file.file.read_into(found, 0) == len(expected)
                assert found == expected


async def test_clones_whose_bytes_were_moved_meanwhile_are_no_view(
    where: Path, share: Share, executor: ThreadPoolExecutor
) -> None:
    _disk(where, _ONE)

    class Moving(DecoratedShare):
        async def clones(self, paths: Sequence[str]):  # type: ignore[no-untyped-def]  # as the base
            clones = await super().clones(paths)

            async def moved() -> bool:
                return False

            clones.held = moved  # type: ignore[method-assign]  # to move them at the right moment
            return clones

    with _written(where / _ONE), pytest.raises(BusyError, match="moved its bytes around"):
        await _seen(_view(Moving(share), executor, freezer=_Freezer()))


async def test_what_is_read_from_clones_is_counted_by_what_stands_in_front(
    where: Path, share: Share, executor: ThreadPoolExecutor
) -> None:
    data = _disk(where, _ONE)
    metered = MeteredShare(DecoratedShare(share))
    async with _view(metered, executor).open(request(), _Instant()) as seen:
        before = metered.meter.read_bytes
        assert await content(seen.files[0].file) == data
    assert metered.meter.read_bytes - before == len(data)


async def test_a_disk_without_copy_on_write_is_cloned_with_its_attribute(executor: ThreadPoolExecutor) -> None:
    with mounted("btrfs") as where:
        local = LocalShare(str(where))
        (where / _ONE).touch()
        subprocess.run(["chattr", "+C", str(where / _ONE)], check=True)
        data = _disk(where, _ONE)
        with _written(where / _ONE) as (fd,):
            async with _view(local, executor).open(request(), _Instant()) as seen:
                os.pwrite(fd, b"in place?", 0)
                assert await content(seen.files[0].file) == data
        await local.close()


async def test_file_systems_that_can_not_clone_say_so_with_what_can(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    with mounted("ext4") as where:
        local = LocalShare(str(where))
        _disk(where, _ONE)
        freezer = _Freezer()
        for view in (_view(local, executor), _view(local, executor, freezer=freezer)):
            with pytest.raises(UnsupportedError, match=r"XFS.*btrfs.*none, qemu and command"):
                await _seen(view)
        assert freezer.heard == [], "a machine stood still for what can't be done"
        assert _left(where) == [_ONE]
        await local.close()
    memory = MemoryShare()
    async with await memory.open(_ONE, OpenMode.CREATE):
        pass
    with pytest.raises(UnsupportedError, match="only local file systems"):
        await _seen(_view(memory, executor))


async def test_a_disk_on_another_file_system_below_the_source_is_refused_by_name(executor: ThreadPoolExecutor) -> None:
    with mounted("xfs") as where, mounted("btrfs") as other:
        _disk(other, "나 둘.vhdx")
        _disk(where, _ONE)
        (where / "하위 폴더").mkdir()
        local = LocalShare(str(where))
        with bound(other, where / "하위 폴더"), pytest.raises(UnsupportedError, match="another file system"):
            await _seen(_view(local, executor))
        await local.close()


async def test_a_full_file_system_is_told_as_the_sources(executor: ThreadPoolExecutor) -> None:
    with mounted("xfs", 320 << 20) as where:
        with (where / _ONE).open("wb") as file:
            for block in range(0, 20_000, 2):  # so many extents that a clone needs room for its map
                os.pwrite(file.fileno(), b"x", block * 4096)
        local = LocalShare(str(where))
        with (where / "full").open("wb") as file:
            size = 256 << 20
            while size >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
                except OSError:
                    size //= 2
        with pytest.raises(
            OutOfSpaceError, match=r"no space is left on the source's file system.*Free some space there"
        ):
            await _seen(_view(local, executor))
        assert _left(where) == sorted([_ONE, "full"])
        await local.close()


def _quick_clock() -> Clock:
    """Whoever waits does so for an instant only."""
    clock = SteadyClock()

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0.001)

    return Clock(clock.now, clock.monotonic_s, sleep)


def _free(where: Path) -> int:
    found = os.statvfs(where)
    return found.f_bavail * found.f_frsize


async def test_clones_that_are_being_read_are_given_up_while_the_machine_has_room_to_go_on(
    where: Path, share: Share, executor: ThreadPoolExecutor
) -> None:
    data = _disk(where, _ONE)
    kept = where / f".replicad-{NAME}" / f"{'0' * 32}.clone"
    kept.parent.mkdir()
    kept.write_bytes(b"a clone that is kept for the next cycle")
    wanted = _free(where) - (5 << 20)
    view = replace(_view(share, executor, keep_free=lambda total: wanted), clock=_quick_clock())
    with (where / "what the machine writes").open("wb") as file:

        def take_room(size_bytes: int) -> None:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
            subprocess.run(["sync", "-f", where], check=True)  # btrfs tells of it only then

        async def read() -> None:
            async with view.open(request(), _Instant()) as seen:
                assert kept.exists(), "there is room yet"
                take_room(20 << 20)
                while kept.exists():
                    assert await content(seen.files[0].file) == data
                take_room(wanted * 6 // 10)
                while True:
                    assert await content(seen.files[0].file) == data

        with pytest.raises(OutOfSpaceError, match=r"go on reading clones in .*bytes are left.*Make room"):
            await asyncio.wait_for(read(), 60)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "room for clones"]


async def test_what_goes_wrong_while_clones_are_read_is_told_as_it_is_and_ends_the_look_at_the_room(
    where: Path, share: Share, executor: ThreadPoolExecutor
) -> None:
    _disk(where, _ONE)
    view = replace(_view(share, executor, keep_free=lambda total: 1 << 20), clock=_quick_clock())
    with pytest.raises(BusyError, match="somebody else's"):
        async with view.open(request(), _Instant()):
            raise BusyError("read", "it", "somebody else's")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), view.open(request(), _Instant()):
            await asyncio.Event().wait()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "room for clones"]


@pytest.mark.parametrize("writing", [False, True])
async def test_what_was_written_before_the_time_of_the_point_is_in_it(
    where: Path, share: Share, executor: ThreadPoolExecutor, writing: bool
) -> None:
    """So a write that is not in the clone was made after that time."""
    _disk(where, _ONE)
    clock = SteadyClock()
    written: list[datetime] = []

    class WritingAtOnce(DecoratedShare):
        async def clones(self, paths: Sequence[str]):  # type: ignore[no-untyped-def]  # as the base
            clones = await super().clones(paths)
            take = clones.take

            async def taken():  # type: ignore[no-untyped-def]  # as the port
                found = await take()
                written.append(clock.now())  # a write as soon as the clone is made
                return found

            clones.take = taken  # type: ignore[method-assign]  # to be there
            return clones

    view = replace(_view(WritingAtOnce(share), executor), clock=clock.clock())
    with _written(*([where / _ONE] if writing else [])):
        seen = await _seen(view)
    assert seen.taken < written[0]
