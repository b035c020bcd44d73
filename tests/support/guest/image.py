"""The kernel and the initial file system of the test guest, made once for all test processes.

The kernel, its modules and the guest agent come out of Debian packages, which are downloaded and unpacked, but never
installed.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("init.c")
CACHE = Path(__file__).parents[3] / ".venv" / "guest"
_KERNEL = "linux-image-cloud-amd64"
_AGENT = "qemu-guest-agent"
_PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils", "gcc": "gcc", "dpkg-deb": "dpkg"}
_MODULES = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "drivers/char/virtio_console",
)


class NoGuestError(Exception):
    """The guest can't be built here: what is missing, and what to do about it."""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """What QEMU boots."""

    kernel: Path
    initramfs: Path
    initramfs_with_agent: Path


def build_guest(cache: Path = CACHE) -> GuestImage:
    """The guest, made if it is not there yet (seconds); safe in parallel processes.

    Raises `NoGuestError` with one sentence.
    """
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            raise NoGuestError(f"the test guest needs {program}: run `make test`, or `apt-get install {package}`")
    # Made anew when what it is made from changes.
    digest = hashlib.sha256(_SOURCE.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:16]
    made = cache / digest
    with _lock(cache / "lock"):
        if not made.is_dir():
            unpacked = _unpacked_packages(cache)
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                _make(unpacked, Path(scratch) / "guest")
                (Path(scratch) / "guest").rename(made)
    return GuestImage(made / "kernel", made / "initramfs", made / "initramfs-agent")


@pytest.fixture(scope="session")
def guest_image() -> GuestImage:
    """The guest; a test fails with one sentence where it can't be had."""
    try:
        return build_guest()
    except NoGuestError as error:
        pytest.fail(str(error), pytrace=False)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unpacked_packages(cache: Path) -> Path:
    """The directory that the packages are unpacked in."""
    unpacked = cache / "packages"
    if unpacked.is_dir():
        return unpacked
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        kernel = _real_kernel_package()
        _run("apt-get", "download", "-qq", kernel, _AGENT, cwd=Path(scratch))
        for package in Path(scratch).glob("*.deb"):
            _run("dpkg-deb", "-x", str(package), f"{scratch}/unpacked")
        (Path(scratch) / "unpacked").rename(unpacked)
    return unpacked


def _real_kernel_package() -> str:
    """The package that the name of the newest kernel stands for."""
    for attempt in range(2):
        said = _run("apt-cache", "depends", "--important", _KERNEL) if attempt or _lists_are_there() else ""
        for line in said.splitlines():
            if line.strip().startswith("Depends: linux-image-"):
                return line.split()[-1]
        if not attempt:
            # A container image comes without the lists of packages.
            _run("apt-get", "update", "-qq")
    raise NoGuestError(f"the test guest needs Debian's package {_KERNEL}, which apt-cache does not know")


def _lists_are_there() -> bool:
    return subprocess.run(["apt-cache", "show", _KERNEL], capture_output=True, check=False, timeout=60).returncode == 0


def _make(unpacked: Path, guest: Path) -> None:
    guest.mkdir()
    kernels = list((unpacked / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise NoGuestError(f"the package {_KERNEL} has {len(kernels)} kernels: remove {unpacked} and try again")
    (guest / "kernel").hardlink_to(kernels[0])
    init = guest.with_name("init")
    _run("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-o", str(init), str(_SOURCE))
    modules = unpacked / "lib" / "modules" / kernels[0].name.removeprefix("vmlinuz-") / "kernel"
    files = [("init", init), *((f"modules/{Path(name).name}.ko", modules / f"{name}.ko") for name in _MODULES)]
    _pack(guest / "initramfs", files)
    agent = unpacked / "usr" / "sbin" / "qemu-ga"
    _pack(guest / "initramfs-agent", [*files, ("usr/sbin/qemu-ga", agent), *_libraries_of(agent)])


def _libraries_of(program: Path) -> Iterator[tuple[str, Path]]:
    """The shared libraries that a program needs, which are those that QEMU itself needs."""
    for line in _run("ldd", str(program)).splitlines():
        words = line.split()
        if "not found" in line:
            raise NoGuestError(f"the test guest's agent needs the library {words[0]}, which is not installed")
        path = next((word for word in words if word.startswith("/")), None)
        if path is not None:
            yield path.lstrip("/"), Path(path).resolve()


def _pack(archive: Path, files: Sequence[tuple[str, Path]]) -> None:
    """Write an initial file system: `newc` of cpio, compressed."""
    directories = sorted({str(parent) for name, _ in files for parent in Path(name).parents} - {"."})
    with archive.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
        for number, name in enumerate(directories, 1):
            file.write(_entry(number, name, stat.S_IFDIR | 0o755, b""))
        for number, (name, path) in enumerate(files, len(directories) + 1):
            file.write(_entry(number, name, stat.S_IFREG | 0o755, path.read_bytes()))
        file.write(_entry(0, "TRAILER!!!", 0, b""))


def _entry(number: int, name: str, mode: int, content: bytes) -> bytes:
    encoded = os.fsencode(name) + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoGuestError(f"the test guest can't be built: {' '.join(command)}: {error}") from error
    if done.returncode:
        answer = " ".join((done.stderr or done.stdout).split())
        raise NoGuestError(f"the test guest can't be built: {' '.join(command)}: {answer}")
    return done.stdout
