"""Whether memory grows with the disk: first copies and scans of disks of several sizes, the last one sparse."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from .contest import Case, Contest, Contestant, Contests
from .lab import DISK, Lab, check_same, make_disk
from .measuring import Measurement
from .results import Kind
from .site import ENCRYPTED, Site, protected_shares, site

_VM = "vm"
_MIB = 1 << 20


def memory(lab: Lab, size_bytes: int) -> Contests:
    """An eighth of the size, the size itself, and 128 times as much with an eighth of data in it."""
    lab.need_room(2 * size_bytes)
    with site(lab.directory("site"), protected_shares(lab.directory("shares"))) as here:
        for disk_bytes, what in ((size_bytes // 8, ""), (size_bytes, ""), (size_bytes * 128, ", sparse")):
            disk = make_disk(
                lab, lab.directory("source") / DISK, disk_bytes, min(disk_bytes, size_bytes // 8) if what else None
            )
            here.configure({_VM: (disk.parent, rf"\\{ENCRYPTED}\{ENCRYPTED}")})
            yield from _both(here, disk, _size(disk_bytes) + what)
            here.forget_replica(ENCRYPTED, _VM)


def _both(here: Site, disk: Path, size: str) -> Contests:
    def sync() -> Measurement:
        return here.replicad("sync", _VM)[0]

    first = Contestant(
        "replicad sync", Kind.COMMAND, sync, prepare=partial(here.forget_replica, ENCRYPTED, _VM),
        check=lambda: check_same(disk, here.behind(ENCRYPTED, _VM, "disks", DISK)),
    )  # fmt: skip
    again = Contestant("replicad sync", Kind.COMMAND, sync, prepare=lambda: os.utime(disk))
    data_bytes = disk.stat().st_blocks * 512
    yield Contest("memory", f"first copy, {size}", data_bytes, (first,))
    yield Contest("memory", f"scan, {size}", data_bytes, (again,))


def _size(count: int) -> str:
    unit, name = max((u, n) for u, n in ((1 << 20, "MiB"), (1 << 30, "GiB"), (1 << 40, "TiB")) if count >= u)
    return f"{count // unit} {name}"


CASES = (Case("memory", 8192, 512, memory),)
