"""Disks of the test guest."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from tests.support.programs import run

DiskKind = Literal["dynamic", "fixed", "raw"]
_MIB = 1024 * 1024


def make_disk(path: Path, size_bytes: int = 256 * _MIB, kind: DiskKind = "dynamic", block_bytes: int = _MIB) -> Path:
    """A new disk with an empty ext4 in it, sparse; its suffix tells the guest what it is: `.vhdx`, any other for raw.

    `block_bytes` is the VHDX's. The journal is small, and nothing is left to be made later.
    """
    assert (path.suffix.lower() in {".vhdx", ".avhdx"}) == (kind != "raw"), f"{path.name} is not named as {kind} is"
    with tempfile.TemporaryDirectory(prefix=".making-", dir=path.parent) as scratch:
        raw = Path(scratch) / "raw"
        with raw.open("wb") as file:
            file.truncate(size_bytes)
        made_later = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        run("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-E", made_later, "-J", "size=8", "-N", "1024", str(raw))
        if kind == "raw":
            raw.rename(path)
            return path
        vhdx = Path(scratch) / "vhdx"
        # Without block_state_zero=off a fixed VHDX of QEMU's grows.
        options = f"block_size={block_bytes}" + (",subformat=fixed,block_state_zero=off" if kind == "fixed" else "")
        run("qemu-img", "create", "-q", "-f", "vhdx", "-o", options, str(vhdx), str(size_bytes))
        run("qemu-img", "convert", "-n", "--target-is-zero", "-f", "raw", "-O", "vhdx", str(raw), str(vhdx))
        vhdx.rename(path)
    return path


def copy_disk(source: Path, target: Path) -> Path:
    """A copy of its own, sparse, and a clone where the file system can."""
    run("cp", "--sparse=always", "--reflink=auto", "--", str(source), str(target))
    return target


def raw_of(disk: Path, directory: Path) -> Path:
    """The content of a disk as a raw file in a directory, the VHDX's log replayed; the disk is not touched."""
    copy, raw = directory / f"copy of {disk.name}", directory / f"{disk.name}.raw"
    copy_disk(disk, copy)
    if disk.suffix.lower() not in {".vhdx", ".avhdx"}:
        copy.rename(raw)
        return raw
    # Opened for writing, QEMU replays the log; for reading it refuses to open a VHDX that has one.
    run("qemu-io", "-f", "vhdx", "-c", "flush", str(copy))
    run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", str(copy), str(raw))
    copy.unlink()
    return raw
