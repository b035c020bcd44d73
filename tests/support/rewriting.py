"""Whatever can be done to a disk file on a real file system, by whoever uses it or looks after the file system."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

BLOCK = 4096
MOST_BYTES = 3 << 20

_KEEP_SIZE, _PUNCH_HOLE, _COLLAPSE, _ZERO_RANGE, _INSERT, _UNSHARE = 1, 2, 8, 16, 32, 64
_NOT_HERE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Rewriter:
    """Changes one file in random ways; `other` is a second file of the same file system, `kept` an earlier clone."""

    def __init__(self, path: Path, kind: str, random: Random) -> None:
        self.path, self.kind, self.random = path, kind, random
        self.other = path.with_name("다른 파일.bin")
        self.other.write_bytes(random.randbytes(1 << 20))
        self.kept: Path | None = None
        self.done: list[str] = []
        self.balances = True

    def some(self) -> None:
        """A few changes, one after the other."""
        for _ in range(self.random.randint(1, 5)):
            name, change = self.random.choice(_CHANGES)
            self.done.append(name)
            try:
                change(self)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
        if self.random.random() < 0.3:
            with self._opened() as fd:
                os.fsync(fd)

    @contextmanager
    def _opened(self, flags: int = 0) -> Iterator[int]:
        fd = os.open(self.path, os.O_RDWR | flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def _range(self, unit: int = 1) -> tuple[int, int]:
        size = self.path.stat().st_size
        start = self.random.randint(0, max(0, size - 1)) // unit * unit
        length = self.random.choice([1, 512, BLOCK, 3 * BLOCK, 65536, 200_000])
        return start, max(unit, -(-length // unit) * unit)

    def write(self) -> None:
        start, length = self._range()
        with self._opened() as fd:
            os.pwrite(fd, self.random.randbytes(length), start)

    def write_text(self) -> None:
        """What compresses well."""
        start, length = self._range()
        with self._opened() as fd:
            os.pwrite(fd, (self.random.randbytes(16) * (length // 16 + 1))[:length], start)

    def write_zeros(self) -> None:
        start, length = self._range()
        with self._opened() as fd:
            os.pwrite(fd, bytes(length), start)

    def write_the_same(self) -> None:
        start, length = self._range()
        with self._opened() as fd:
            os.pwrite(fd, os.pread(fd, length, start), start)

    def write_and_write_back(self) -> None:
        start, length = self._range()
        with self._opened() as fd:
            before = os.pread(fd, length, start)
            os.pwrite(fd, self.random.randbytes(len(before)), start)
            os.fsync(fd)
            os.pwrite(fd, before, start)

    def write_past_the_cache(self) -> None:
        start, length = self._range(BLOCK)
        with mmap.mmap(-1, length) as buffer, self._opened(os.O_DIRECT) as fd:
            buffer[:] = self.random.randbytes(length)
            os.pwrite(fd, buffer, start)

    def write_memory(self) -> None:
        start, length = self._range()
        with self._opened() as fd:
            if not (size := os.fstat(fd).st_size):
                return
            with mmap.mmap(fd, size) as mapped:
                end = min(start + length, size)
                mapped[start:end] = self.random.randbytes(end - start)

    def cut_or_grow(self) -> None:
        os.truncate(self.path, self.random.randint(0, MOST_BYTES))

    def grow_a_little(self) -> None:
        os.truncate(self.path, min(MOST_BYTES, self.path.stat().st_size + self.random.randint(1, 9000)))

    def cut_a_little(self) -> None:
        os.truncate(self.path, max(0, self.path.stat().st_size - self.random.randint(1, 9000)))

    def cut_and_grow_back(self) -> None:
        size = self.path.stat().st_size
        os.truncate(self.path, self.random.randint(0, size))
        os.truncate(self.path, size)

    def append(self) -> None:
        with self._opened(os.O_APPEND) as fd:
            os.write(fd, self.random.randbytes(self.random.choice([1, 100, BLOCK, 30_000])))

    def _fallocate(self, mode: int, unit: int = 1) -> None:
        start, length = self._range(unit)
        with self._opened() as fd:
            if _libc.fallocate64(fd, mode, start, length) < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

    def allocate(self) -> None:
        self._fallocate(self.random.choice([0, _KEEP_SIZE]))

    def allocate_past_the_end(self) -> None:
        with self._opened() as fd:
            _libc.fallocate64(fd, _KEEP_SIZE, os.fstat(fd).st_size, 100_000)

    def punch(self) -> None:
        self._fallocate(_PUNCH_HOLE | _KEEP_SIZE)

    def punch_and_allocate(self) -> None:
        start, length = self._range()
        with self._opened() as fd:
            _libc.fallocate64(fd, _PUNCH_HOLE | _KEEP_SIZE, start, length)
            _libc.fallocate64(fd, _KEEP_SIZE, start, length)
            if self.random.random() < 0.5:
                os.pwrite(fd, self.random.randbytes(length // 2 + 1), start)

    def zero_range(self) -> None:
        self._fallocate(_ZERO_RANGE | self.random.choice([0, _KEEP_SIZE]))

    def collapse(self) -> None:
        self._fallocate(_COLLAPSE, BLOCK)

    def insert(self) -> None:
        if self.path.stat().st_size < MOST_BYTES:
            self._fallocate(_INSERT, BLOCK)

    def unshare(self) -> None:
        self._fallocate(_UNSHARE)

    def share_blocks(self) -> None:
        """A piece of this file, another or the kept clone takes the place of one of this file."""
        source = self.random.choice([self.path, self.other, self.kept or self.other])
        start, length = self._range(BLOCK)
        with source.open("rb") as other, self._opened() as fd:
            from_ = self.random.randint(0, os.fstat(other.fileno()).st_size) // BLOCK * BLOCK
            if source == self.path and abs(from_ - start) < length:
                return
            os.copy_file_range(other.fileno(), fd, length, from_, start)

    def replace(self) -> None:
        """Another file takes its place, with the same bytes, in part, or those of the kept clone."""
        source = self.random.choice([self.path, self.kept or self.path])
        new = self.path.with_name("새 파일.bin")
        _run("cp", f"--reflink={self.random.choice(['always', 'never'])}", "--sparse=auto", str(source), str(new))
        new.chmod(0o600)
        shutil.copystat(self.path, new)
        new.replace(self.path)
        self.path.chmod(0o600)

    def look_old(self) -> None:
        os.utime(self.path, (1, 1))

    def defragment(self) -> None:
        if self.kind == "btrfs":
            _run("btrfs", "filesystem", "defragment", "-f", str(self.path))
        else:
            # It refuses what it can't make better.
            subprocess.run(["xfs_fsr", str(self.path)], capture_output=True, timeout=60, check=False)

    def balance(self) -> None:
        if self.kind == "btrfs" and self.balances and self.random.random() < 0.3:
            move_everything(self.path.parent)


_CHANGES: tuple[tuple[str, Callable[[Rewriter], None]], ...] = tuple(
    (change.__name__, change)
    for change, weight in (
        (Rewriter.write, 4), (Rewriter.write_text, 3), (Rewriter.write_zeros, 2), (Rewriter.write_the_same, 2),
        (Rewriter.write_and_write_back, 1), (Rewriter.write_past_the_cache, 3), (Rewriter.write_memory, 2),
        (Rewriter.cut_or_grow, 1), (Rewriter.grow_a_little, 2), (Rewriter.cut_a_little, 2),
        (Rewriter.cut_and_grow_back, 1), (Rewriter.append, 2), (Rewriter.allocate, 2),
        (Rewriter.allocate_past_the_end, 2), (Rewriter.punch, 3), (Rewriter.punch_and_allocate, 2),
        (Rewriter.zero_range, 2), (Rewriter.collapse, 1), (Rewriter.insert, 1), (Rewriter.unshare, 1),
        (Rewriter.share_blocks, 3), (Rewriter.replace, 1), (Rewriter.look_old, 1), (Rewriter.defragment, 1),
        (Rewriter.balance, 1),
    )
    for _ in range(weight)
)  # fmt: skip


def move_everything(where: Path) -> None:
    """Have a btrfs put all of its blocks elsewhere."""
    _run("btrfs", "balance", "start", "--full-balance", str(where))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
