"""Bringing a copy up to date after 1 % of the disk's 64 KiB chunks changed, anywhere; all see the same changes.

Without a change tracker replicad reads and hashes the whole local disk, and saves the old bytes of what it overwrites.
rsync reads both sides whole, and saves nothing; its connection is neither signed nor encrypted. The others send the
whole disk.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from .contest import Case, Contest, Contestant, Contests
from .lab import DISK, Lab, change_one_percent, check_and_remove, check_same, make_disk
from .measuring import Measurement
from .results import Kind
from .rsync_daemon import RsyncDaemon, rsync_daemon
from .site import ENCRYPTED, Site, protected_shares, site

_VM = "vm"
_COPY = "copy.vhdx"


def delta(lab: Lab, size_bytes: int) -> Contests:
    """From a local directory to a share that must be encrypted."""
    lab.need_room(4 * size_bytes)
    disk = make_disk(lab, lab.directory("source") / DISK, size_bytes)
    changed: list[int] = []
    with (
        site(lab.directory("site"), protected_shares(lab.directory("shares"))) as here,
        rsync_daemon(lab.directory("rsync"), lab.directory("module")) as daemon,
    ):
        here.configure({_VM: (disk.parent, rf"\\{ENCRYPTED}\{ENCRYPTED}")})
        yield Contest(
            "delta of 1 %", ENCRYPTED, disk.stat().st_size, _contestants(here, daemon, disk, changed),
            before_round=lambda: changed.append(change_one_percent(lab, disk)),
        )  # fmt: skip


def _contestants(here: Site, daemon: RsyncDaemon, disk: Path, changed: list[int]) -> tuple[Contestant, ...]:
    def sync() -> Measurement:
        measured, report = here.replicad("sync", _VM)
        assert 0 < report["sent_bytes"] <= changed[-1], f"{report['sent_bytes']} bytes sent of {changed[-1]} changed"
        return measured

    def sync_first() -> None:
        here.replicad("sync", _VM)

    def check_replica() -> None:
        check_same(disk, here.behind(ENCRYPTED, _VM, "disks", DISK))

    def check_mirror() -> None:
        check_same(disk, daemon.directory / DISK)

    def check_copy() -> None:
        check_and_remove(disk, here.behind(ENCRYPTED, _COPY))

    return (
        Contestant("replicad sync", Kind.COMMAND, sync, begin=sync_first, check=check_replica),
        Contestant(
            "rsync --inplace", Kind.OTHER, partial(daemon.update, disk), begin=partial(daemon.update, disk),
            check=check_mirror, needs="rsync",
        ),
        Contestant(
            "smbclient put, whole", Kind.OTHER,
            partial(here.smbclient, ENCRYPTED, ENCRYPTED, f'put "{disk}" {_COPY}'), check=check_copy,
        ),
        Contestant(
            "rclone copyto, whole", Kind.OTHER,
            partial(here.rclone, "copyto", str(disk), f"nas:{ENCRYPTED}/{_COPY}"), check=check_copy, needs="rclone",
        ),
    )  # fmt: skip


CASES = (Case("delta of 1 %", 4096, 512, delta),)
