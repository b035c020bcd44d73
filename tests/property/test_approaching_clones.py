"""A clone that is made while its file is written is the file as soon as that stands still, whatever happened to it."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from replicad.storage.local import fiemap
from replicad.storage.local.approach import Approach
from tests.support.filesystems import mounted
from tests.support.rewriting import Rewriter, move_everything

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")

_KINDS = ("xfs", "btrfs", "btrfs compressed", "btrfs without copy on write")
_SECONDS = 3.0
_LONG_S = float(os.environ.get("REPLICAD_SOAK_SECONDS", "300"))
_BLOCK = 4096


@contextmanager
def _file_system(kind: str) -> Iterator[Path]:
    options = {"btrfs compressed": "compress-force=zstd:1", "btrfs without copy on write": "nodatacow"}.get(kind, "")
    with mounted(kind.split()[0], 1 << 30, options) as where:
        yield where


@contextmanager
def _both(path: Path) -> Iterator[tuple[int, int]]:
    """A file, and an empty one without a name beside it."""
    source_fd = os.open(path, os.O_RDONLY)
    target_fd = os.open(path.parent, os.O_TMPFILE | os.O_RDWR)
    try:
        fiemap.take_after(source_fd, target_fd)
        yield source_fd, target_fd
    finally:
        os.close(source_fd)
        os.close(target_fd)


def _content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small files have many."""
    monkeypatch.setattr("replicad.storage.local.approach._PART_EXTENTS", 3)
    monkeypatch.setattr("replicad.storage.local.fiemap._PART_EXTENTS", 5)


def _changed_for(seconds: float, kind: str, seed: int) -> int:
    """Approach a file that is changed in every way between the steps, over and over; how often."""
    random, rounds, end_s = Random(seed), 0, time.monotonic() + seconds
    with _file_system(kind) as where:
        path = where / "디스크 🖴.vhdx"
        path.write_bytes(random.randbytes(1 << 20))
        rewriter = Rewriter(path, kind.split()[0], random)
        while time.monotonic() < end_s:
            rewriter.done.clear()
            with _both(path) as (source_fd, target_fd):
                approach = Approach()
                approach.begin(source_fd, target_fd)
                for _ in range(random.randint(0, 3)):
                    rewriter.some()
                    approach.catch_up(source_fd, target_fd)
                rewriter.some()
                assert approach.finish(source_fd, target_fd), rewriter.done
                if approach.has_held(target_fd):  # a balance moves the clone's bytes, too
                    assert _content(target_fd) == _content(source_fd), f"seed {seed}, {rewriter.done}"
                    rounds += 1
    return rounds


@pytest.mark.parametrize("kind", _KINDS)
def test_the_clone_is_the_file_whatever_was_done_to_it_meanwhile(kind: str) -> None:
    assert _changed_for(_SECONDS, kind, seed=11) >= 10


@pytest.mark.soak
@pytest.mark.timeout(_LONG_S + 300)
@pytest.mark.parametrize("kind", _KINDS)
def test_the_clone_is_the_file_whatever_was_done_to_it_meanwhile_for_long(kind: str) -> None:
    end_s, seed = time.monotonic() + _LONG_S, int(time.time())
    while time.monotonic() < end_s:
        seed += 1
        assert _changed_for(min(60, end_s - time.monotonic()), kind, seed)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_the_clone_is_the_file_although_it_is_written_all_the_time_until_it_stands_still(kind: str) -> None:
    with _file_system(kind) as where, ThreadPoolExecutor(1) as executor:
        path, size = where / "disk", 2 << 20
        path.write_bytes(bytes(size))
        for seed in range(2):
            still = threading.Event()

            def write(seed: int = seed, still: threading.Event = still) -> int:
                random, count = Random(seed), 0
                with path.open("r+b") as file:
                    while not still.is_set():
                        os.pwrite(file.fileno(), random.randbytes(_BLOCK), random.randrange(size // _BLOCK) * _BLOCK)
                        count += 1
                return count

            writing = executor.submit(write)
            with _both(path) as (source_fd, target_fd):
                approach = Approach()
                approach.begin(source_fd, target_fd)
                while not approach.catch_up(source_fd, target_fd):
                    assert not writing.done()
                still.set()
                assert writing.result(30) > 0
                assert approach.finish(source_fd, target_fd)
                assert approach.has_held(target_fd)
                assert _content(target_fd) == _content(source_fd)


def test_what_is_written_while_it_should_stand_still_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with _file_system("xfs") as where:
        path = where / "disk"
        path.write_bytes(bytes(1 << 20))
        with _both(path) as (source_fd, target_fd), path.open("r+b") as writer:
            approach = Approach()
            approach.begin(source_fd, target_fd)
            asked = fiemap.places

            def write_after(fd: int, start: int, end: int) -> bytes:
                found = asked(fd, start, end)
                time.sleep(0.01)  # the times of files move in steps
                os.pwrite(writer.fileno(), b"x", 0)
                return found

            monkeypatch.setattr(fiemap, "places", write_after)
            assert not approach.finish(source_fd, target_fd)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_clone_whose_bytes_were_moved_is_not_believed(kind: str) -> None:
    with _file_system(kind) as where:
        path = where / "disk"
        path.write_bytes(Random(1).randbytes(1 << 20))
        with _both(path) as (source_fd, target_fd):
            approach = Approach()
            approach.begin(source_fd, target_fd)
            approach.catch_up(source_fd, target_fd)
            if kind == "btrfs":
                move_everything(where)
            else:
                os.pwrite(target_fd, os.pread(target_fd, _BLOCK, 0), 0)  # as one that defragments it
                os.fsync(target_fd)
            assert not approach.has_held(target_fd)


def test_a_file_in_pieces_is_cloned_part_by_part_and_then_what_changed_alone() -> None:
    with _file_system("xfs") as where:
        path = where / "disk"
        with path.open("wb") as file:
            for at in range(0, 4 << 20, 2 * _BLOCK):
                os.pwrite(file.fileno(), b"x" * _BLOCK, at)
            os.truncate(file.fileno(), 5 << 20)
        with _both(path) as (source_fd, target_fd), path.open("r+b") as writer:
            approach = Approach()
            approach.begin(source_fd, target_fd)
            assert approach.catch_up(source_fd, target_fd) == 0
            os.pwrite(writer.fileno(), b"new", 2 << 20)
            os.pwrite(writer.fileno(), b"new", (4 << 20) + 7 * _BLOCK)
            assert approach.catch_up(source_fd, target_fd) == 2
            assert approach.finish(source_fd, target_fd)
            assert _content(target_fd) == _content(source_fd)


def test_where_ranges_can_not_be_cloned_it_says_so() -> None:
    with mounted("ext4", 512 << 20) as where:  # a smaller one would have other blocks
        path = where / "disk"
        path.write_bytes(b"x" * 9000)
        with _both(path) as (source_fd, target_fd), pytest.raises(OSError) as caught:
            Approach().begin(source_fd, target_fd)
        assert caught.value.errno == errno.EOPNOTSUPP
