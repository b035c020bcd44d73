"""Real file systems on loop devices. Root only."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
    "tmpfs": [],
}
KINDS = tuple(_MAKE)


@contextmanager
def mounted(kind: str, size_bytes: int = 512 * 1024 * 1024, options: str = "") -> Iterator[Path]:
    """An empty file system of one of `KINDS`, unmounted and removed in the end. The image file is sparse. `options` are
    for its mount, without `loop`."""
    with tempfile.TemporaryDirectory(prefix=f"replicad-{kind}-") as directory:
        image, where = Path(directory) / "image", Path(directory) / "mnt"
        where.mkdir()
        if kind == "tmpfs":
            _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(where))
        else:
            with image.open("wb") as file:
                file.truncate(size_bytes)
            _run(*_MAKE[kind], str(image))
            _run("mount", "-t", kind, "-o", f"loop,{options}" if options else "loop", str(image), str(where))
        try:
            yield where
        finally:
            # Lazily: a thread of a cancelled test may be in it for an instant more.
            _run("umount", "-l", str(where))


@contextmanager
def as_after_power_failure(where: Path) -> Iterator[Path]:
    """What somebody finds who loses power now, on an ext4 of `mounted`, without harm to that one."""
    with tempfile.TemporaryDirectory(prefix="replicad-after-") as directory:
        image, found = Path(directory) / "image", Path(directory) / "mnt"
        found.mkdir()
        _run("cp", "--sparse=always", str(where.parent / "image"), str(image))
        _run("mount", "-o", "loop", str(image), str(found))
        try:
            yield found
        finally:
            _run("umount", str(found))


class PowerFailures:
    """What somebody would find on a file system who lost power at a moment, for any number of moments.

    Its image is cloned in one instant, so a clone has every write that had reached the disk by then, and nothing that
    was only in memory.
    """

    def __init__(self, kind: str, image: Path) -> None:
        self._kind = kind
        self._image = image
        self.kept = 0

    def keep(self) -> None:
        """Keep what would be found now."""
        _run("cp", "--reflink=always", str(self._image), str(self._image.with_name(f"image {self.kept}")))
        self.kept += 1

    @contextmanager
    def found(self, number: int) -> Iterator[Path]:
        """What was kept with that number, from 0, mounted for writing; it is removed in the end."""
        image, where = self._image.with_name(f"image {number}"), self._image.with_name(f"mnt {number}")
        where.mkdir()
        # Two XFS with the same identity can't be mounted at a time, unless one says that it does not matter.
        options = "loop,nouuid" if self._kind == "xfs" else "loop"
        _run("mount", "-t", self._kind, "-o", options, str(image), str(where))
        try:
            yield where
        finally:
            _run("umount", str(where))
            where.rmdir()
            image.unlink()


@contextmanager
def losing_power(kind: str, size_bytes: int = 512 * 1024 * 1024) -> Iterator[tuple[Path, PowerFailures]]:
    """As `mounted`, for `ext4` and `xfs`, with the power failures that can be tried on it."""
    with mounted("xfs", 4 * size_bytes) as outer:
        image, where = outer / "image", outer / "mnt"
        where.mkdir()
        with image.open("wb") as file:
            file.truncate(size_bytes)
        _run(*_MAKE[kind], str(image))
        _run("mount", "-t", kind, "-o", "loop", str(image), str(where))
        try:
            yield where, PowerFailures(kind, image)
        finally:
            _run("umount", "-l", str(where))


@contextmanager
def bound(there: Path, here: Path) -> Iterator[None]:
    """What is mounted at one place, at a second one too."""
    _run("mount", "--bind", str(there), str(here))
    try:
        yield
    finally:
        _run("umount", "-l", str(here))


@contextmanager
def overlaid(there: Path, here: Path) -> Iterator[None]:
    """An empty overlay file system at `here`, which keeps its files below `there`."""
    for name in ("lower", "upper", "work"):
        (there / name).mkdir()
    options = f"lowerdir={there}/lower,upperdir={there}/upper,workdir={there}/work"
    _run("mount", "-t", "overlay", "overlay", "-o", options, str(here))
    try:
        yield
    finally:
        _run("umount", "-l", str(here))


def resize(where: Path, size_bytes: int) -> None:
    """Make a mounted tmpfs larger or smaller."""
    _run("mount", "-o", f"remount,size={size_bytes}", str(where))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


@contextmanager
def served_by_a_program(image: Path, where: Path) -> Iterator[None]:
    """The file `image` under a second name, on a file system (FUSE) that a program serves: who writes the image is not
    seen there, as with sshfs or GlusterFS."""
    where.touch()
    node = {"driver": "file", "node-name": "image", "filename": str(image)}
    export = {"type": "fuse", "id": "export", "node-name": "image", "mountpoint": str(where), "writable": True}
    with tempfile.TemporaryDirectory(prefix="replicad-fuse-") as directory:
        ready = Path(directory) / "pid"  # written when the export stands
        command = ["qemu-storage-daemon", "--pidfile", str(ready)]
        command += ["--blockdev", json.dumps(node), "--export", json.dumps(export)]
        process = subprocess.Popen(command)
        try:
            deadline = time.monotonic() + 30
            while not ready.exists():
                assert process.poll() is None, "the export ended at once"
                assert time.monotonic() < deadline, "the export did not come up"
                time.sleep(0.01)
            yield
        finally:
            process.terminate()  # it takes the mount with it
            process.wait(30)
