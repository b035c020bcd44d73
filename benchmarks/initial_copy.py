"""The first copy of a disk to a share, against `smbclient put`.

replicad also hashes every chunk, writes a manifest, flushes to stable storage, reads a sample back and commits a point.
"""

from __future__ import annotations

from .case import Case
from .harness import Measurement
from .lab import DISK, VM, Lab


def _prepare(lab: Lab) -> None:
    lab.forget_replica()
    (lab.share_directory / "put.vhdx").unlink(missing_ok=True)


def _ours(lab: Lab) -> tuple[Measurement, int]:
    measured, report = lab.replicad("sync", VM)
    lab.check_same(lab.share_directory / VM / "disks" / DISK)
    return measured, int(report["sent_bytes"])


def _theirs(lab: Lab) -> Measurement:
    measured = lab.smbclient(f'put "{lab.disk}" put.vhdx')
    lab.check_same(lab.share_directory / "put.vhdx")
    return measured


CASE = Case("initial copy", "smbclient put", _prepare, _ours, _theirs)
