"""Bringing a copy up to date after 1 % of the disk's 64 KiB chunks changed, against `smbclient put` of the whole disk.

Without a change tracker replicad reads and hashes the whole local disk, and saves the old bytes of what it overwrites.
"""

from __future__ import annotations

from .case import Case
from .harness import Measurement
from .lab import DISK, VM, Lab


def _prepare(lab: Lab) -> None:
    lab.replicad("sync", VM)  # so that what changes now is all that differs
    lab.change_one_percent()


def _ours(lab: Lab) -> tuple[Measurement, int]:
    measured, report = lab.replicad("sync", VM)
    lab.check_same(lab.share_directory / VM / "disks" / DISK)
    return measured, int(report["sent_bytes"])


def _theirs(lab: Lab) -> Measurement:
    measured = lab.smbclient(f'put "{lab.disk}" put.vhdx')
    lab.check_same(lab.share_directory / "put.vhdx")
    return measured


CASE = Case("delta of 1 %", "smbclient put, whole", _prepare, _ours, _theirs)
