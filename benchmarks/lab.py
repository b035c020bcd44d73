"""Where the measurements take place: a directory, best in memory, and disks in it that can't be compressed."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from .ballast import Ballast

CHUNK_BYTES = 64 << 10
_SPARE_MEMORY_BYTES = 1 << 30
DISK = "디스크.vhdx"
_PIECE_BYTES = 1 << 20


class LeftOutError(Exception):
    """Says in a sentence why something can't be measured here."""


@dataclass(frozen=True, slots=True)
class Lab:
    """One directory, removed in the end; `rng` decides what is written where. `ballast` keeps memory ready for files
    that lie in memory; None for others."""

    root: Path
    rng: random.Random
    ballast: Ballast | None = None

    def directory(self, name: str) -> Path:
        """A new, empty directory; an older one of that name is removed."""
        path = self.root / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def need_room(self, wanted_bytes: int) -> None:
        """Have room for as much, and be sure of it; LeftOutError if there is less. In memory, the programs need some,
        too."""
        room_bytes = self._room_bytes()
        if room_bytes < wanted_bytes:
            wanted, room = (f"{count / (1 << 30):.1f}" for count in (wanted_bytes, room_bytes))
            raise LeftOutError(
                f"it takes {wanted} GiB in {self.root.parent}, and {room} are free: "
                "choose a smaller --size-mib, or another --directory"
            )
        if self.ballast is not None:
            # Twice as much, as the kernel also gives away what was not kept.
            self.ballast.hold(min(2 * wanted_bytes, room_bytes))

    def _room_bytes(self) -> int:
        free_bytes = shutil.disk_usage(self.root).free
        if is_in_memory(self.root):
            return max(0, min(free_bytes, _available_memory_bytes() - _SPARE_MEMORY_BYTES))
        return free_bytes

    def random_bytes(self, count: int) -> bytes:
        """Bytes that can't be compressed, some ten times as fast as from the system."""
        key, nonce = self.rng.randbytes(16), self.rng.randbytes(16)
        return Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor().update(bytes(count))


def make_disk(lab: Lab, path: Path, size_bytes: int, data_bytes: int | None = None) -> Path:
    """A VHDX of fixed size with `data_bytes` of data, evenly spread in pieces of 1 MiB; without it, full of data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["qemu-img", "create", "-f", "vhdx", "-o", "subformat=fixed,block_state_zero=off", path, str(size_bytes)],
        check=True, timeout=60, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    first = path.stat().st_size - size_bytes
    count = (size_bytes if data_bytes is None else data_bytes) // _PIECE_BYTES
    stride = size_bytes // count // _PIECE_BYTES * _PIECE_BYTES
    with path.open("r+b") as file:
        for number in range(count):
            file.seek(first + number * stride)
            file.write(lab.random_bytes(_PIECE_BYTES))
        # Else the first one to read or to clone it would have to wait for the file system to write it.
        file.flush()
        os.fsync(file.fileno())
    return path


def change_one_percent(lab: Lab, disk: Path) -> int:
    """Overwrite one in a hundred of the disk's chunks, anywhere behind its first 8 MiB; how many bytes that were."""
    chunks = disk.stat().st_size // CHUNK_BYTES
    first = (8 << 20) // CHUNK_BYTES
    changed = lab.rng.sample(range(first, chunks), max(1, chunks // 100))
    with disk.open("r+b") as file:
        for index in changed:
            file.seek(index * CHUNK_BYTES)
            file.write(lab.random_bytes(CHUNK_BYTES))
    return len(changed) * CHUNK_BYTES


def check_same(disk: Path, copy: Path) -> None:
    """AssertionError if a copy is not what the disk is. What is a hole in both is not read."""
    with disk.open("rb", buffering=0) as ours, copy.open("rb", buffering=0) as theirs:
        size_bytes = disk.stat().st_size
        assert copy.stat().st_size == size_bytes, f"{copy} is not as long as {disk}"
        position = 0
        a, b = (memoryview(bytearray(_PIECE_BYTES)) for _ in range(2))
        while (
            position := min(_next_data(ours.fileno(), position), _next_data(theirs.fileno(), position))
        ) < size_bytes:
            read = os.preadv(ours.fileno(), [a], position)
            assert os.preadv(theirs.fileno(), [b], position) == read, f"{copy} changed while it was read"
            assert a[:read] == b[:read], f"{copy} differs from {disk} at byte {position} or soon after"
            position += read


def check_and_remove(disk: Path, copy: Path) -> None:
    """`check_same`, and make room."""
    check_same(disk, copy)
    copy.unlink()


def file_system_of(path: Path) -> str:
    """Its name, as /proc/mounts has it."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    where = path.resolve()
    fitting = [(len(point), kind) for point, kind in mounts if where.is_relative_to(point)]
    return max(fitting, default=(0, "unknown"))[1]


def is_in_memory(path: Path) -> bool:
    """Whether files there are kept in memory."""
    return file_system_of(path) in ("tmpfs", "ramfs")


@contextlib.contextmanager
def lab(directory: Path, seed: int, ballast: Ballast | None = None) -> Iterator[Lab]:
    """A lab below `directory`."""
    # A short name: smbd makes Unix sockets below it.
    root = Path(tempfile.mkdtemp(prefix="replicad-bench-", dir=directory))
    try:
        yield Lab(root, random.Random(seed), ballast)
    finally:
        shutil.rmtree(root)


def _next_data(fd: int, position: int) -> int:
    try:
        return os.lseek(fd, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return os.fstat(fd).st_size  # only a hole is left


def _available_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo tells no available memory")
