"""Cycles on demand by touching a file: none is lost, and names that nobody knows stay."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from replicad.service.inotify import Inotify
from replicad.service.triggers import TriggerDirectory

_VMS = {"web01", "웹 서버 🙂"}
_FOREVER_S = 3_600.0

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners of POSIX")


class _Given:
    """Triggers as they come."""

    def __init__(self) -> None:
        self.vms: list[str] = []
        self._came = asyncio.Event()

    async def __call__(self, vm: str) -> None:
        self.vms.append(vm)
        self._came.set()

    async def until(self, count: int) -> list[str]:
        async with asyncio.timeout(30):
            while len(self.vms) < count:
                self._came.clear()
                await self._came.wait()
        return self.vms


def _no_inotify() -> Inotify:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _at_its_limit() -> Inotify:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class _WithoutWatches(Inotify):
    """As where the user has no watch left, which is a limit of the whole host and not to be touched by a test."""

    def add(self, directory: str, mask: int = 0) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@asynccontextmanager
async def _watching(
    state_dir: Path,
    give: Callable[[str], Awaitable[None]],
    known: Callable[[str], bool] = _VMS.__contains__,
    **options: float | Callable[[], Inotify],
) -> AsyncIterator[TriggerDirectory]:
    directory = TriggerDirectory(state_dir, known, give, **{"poll_s": 0.02, "rescan_s": _FOREVER_S} | options)  # type: ignore[arg-type]  # options by their names
    async with asyncio.TaskGroup() as group:
        task = group.create_task(directory.watch())
        try:
            yield directory
        finally:
            task.cancel()


async def _made(directory: TriggerDirectory) -> Path:
    async with asyncio.timeout(30):
        while not directory.path.exists():  # noqa: ASYNC110 - a thread makes it
            await asyncio.sleep(0.005)
    return directory.path


def _taken(state_dir: Path) -> list[str]:
    return sorted(path.name for path in (state_dir / "triggers.taken").iterdir())


@pytest.mark.parametrize(
    ("open_inotify", "why"),
    [
        (Inotify, []),
        (_no_inotify, []),
        (_at_its_limit, ["Too many open files"]),
        (_WithoutWatches, ["No space left on device"]),
    ],
)
async def test_touching_a_file_triggers_the_vm_of_its_name(
    tmp_path: Path, open_inotify: Callable[[], Inotify], why: list[str]
) -> None:
    given = _Given()
    with capture_logs() as logged:
        async with _watching(tmp_path, given, open_inotify=open_inotify) as directory:
            path = await _made(directory)
            for count, vm in enumerate(("웹 서버 🙂", "web01", "web01"), 1):
                (path / vm).touch()
                assert (await given.until(count))[-1] == vm
                assert not (path / vm).exists()
    assert len(given.vms) == 3
    assert [event["why"] for event in logged] == why


async def test_the_directories_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    state_dir = tmp_path / "deep" / "state"
    async with _watching(state_dir, _Given()) as directory:
        await _made(directory)
    for path in (state_dir.parent, state_dir, directory.path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


async def test_what_was_touched_before_the_start_is_given(tmp_path: Path) -> None:
    given = _Given()
    (tmp_path / "triggers").mkdir()
    (tmp_path / "triggers" / "web01").touch()
    async with _watching(tmp_path, given):
        assert await given.until(1) == ["web01"]


async def test_unknown_names_stay_with_one_warning_each_until_they_are_known(tmp_path: Path) -> None:
    given, known = _Given(), set(_VMS)
    with capture_logs() as logged:
        async with _watching(tmp_path, given, known.__contains__) as directory:
            path = await _made(directory)
            (path / "db01").touch()
            (path / "오타\n").touch()
            (path / "web01").touch()
            await given.until(1)
            (path / "web01").touch()
            await given.until(2)
            assert sorted(one.name for one in path.iterdir()) == ["db01", "오타\n"]
            known.add("db01")
            directory.look_again()
            assert await given.until(3) == ["web01", "web01", "db01"]
    assert sorted(event["file"] for event in logged) == sorted([str(path / "db01"), str(path / "오타\n")])
    assert {event["why"] for event in logged} == {"no virtual machine of this name is configured"}


async def test_a_directory_of_a_vms_name_is_no_trigger(tmp_path: Path) -> None:
    given = _Given()
    (tmp_path / "triggers" / "web01").mkdir(parents=True)
    with capture_logs() as logged:
        async with _watching(tmp_path, given) as directory:
            (directory.path / "웹 서버 🙂").touch()
            assert await given.until(1) == ["웹 서버 🙂"]
    assert [event["why"] for event in logged] == ["it is a directory, and no file"]


async def test_a_trigger_that_was_taken_and_not_given_is_given_after_the_restart(tmp_path: Path) -> None:
    async def fail(vm: str) -> None:
        raise RuntimeError(f"the process died before {vm} was known")

    (tmp_path / "triggers").mkdir()
    (tmp_path / "triggers" / "web01").touch()
    with pytest.raises(ExceptionGroup):
        async with _watching(tmp_path, fail):
            await asyncio.Event().wait()
    assert _taken(tmp_path) == ["web01"]
    given = _Given()
    async with _watching(tmp_path, given) as directory:
        assert await given.until(1) == ["web01"]
        (directory.path / "web01").touch()
        await given.until(2)
    assert given.vms == ["web01"] * 2


async def test_a_touch_while_a_trigger_is_given_is_another_trigger(tmp_path: Path) -> None:
    given = _Given()
    path = tmp_path / "triggers" / "web01"

    async def give(vm: str) -> None:
        if not given.vms:
            path.touch()
        await given(vm)

    async with _watching(tmp_path, give) as directory:
        await _made(directory)
        path.touch()
        assert await given.until(2) == ["web01", "web01"]


async def test_taken_triggers_of_vms_that_are_configured_no_more_are_forgotten(tmp_path: Path) -> None:
    given = _Given()
    (tmp_path / "triggers.taken").mkdir()
    (tmp_path / "triggers.taken" / "gone").touch()
    async with _watching(tmp_path, given) as directory:
        (await _made(directory) / "web01").touch()
        await given.until(1)
    assert "gone" not in _taken(tmp_path)


async def test_another_directory_in_its_place_is_watched(tmp_path: Path) -> None:
    given = _Given()
    async with _watching(tmp_path, given) as directory:
        path = await _made(directory)
        (path / "web01").touch()
        await given.until(1)
        path.rename(tmp_path / "old")
        async with asyncio.timeout(30):
            while not path.exists():  # noqa: ASYNC110 - a thread makes it
                await asyncio.sleep(0.005)
        (path / "web01").touch()
        await given.until(2)


async def test_a_directory_that_cannot_be_made_is_one_warning_and_tried_again(tmp_path: Path) -> None:
    given = _Given()
    (tmp_path / "triggers").write_text("in the way")
    with capture_logs() as logged:
        async with _watching(tmp_path, given) as directory:
            async with asyncio.timeout(30):
                while not logged:  # noqa: ASYNC110 - a warning
                    await asyncio.sleep(0.005)
            (tmp_path / "triggers").unlink()
            directory.look_again()
            async with asyncio.timeout(30):
                while not directory.path.is_dir():  # noqa: ASYNC110 - a thread makes it
                    await asyncio.sleep(0.005)
            (directory.path / "web01").touch()
            await given.until(1)
    assert [event["event"] for event in logged] == ["triggers can't be taken"]


async def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = _open_descriptors()
    for _ in range(5):
        given = _Given()
        async with _watching(tmp_path, given) as directory:
            (await _made(directory) / "web01").touch()
            await given.until(1)
    assert _open_descriptors() <= before


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0
