"""A disk from its replica back to a local directory, against `smbclient get`.

replicad also checks every chunk against its manifest and flushes the result.
"""

from __future__ import annotations

import shutil

from .case import Case
from .harness import Measurement
from .lab import DISK, VM, Lab


def _prepare(lab: Lab) -> None:
    lab.replicad("sync", VM)  # the disk may have changed since
    shutil.copyfile(lab.disk, lab.share_directory / "put.vhdx")
    shutil.rmtree(lab.target, ignore_errors=True)
    lab.target.mkdir()


def _ours(lab: Lab) -> tuple[Measurement, int]:
    measured, _ = lab.replicad("restore", VM, "--to", str(lab.target))
    lab.check_same(lab.target / DISK)
    return measured, 0


def _theirs(lab: Lab) -> Measurement:
    measured = lab.smbclient(f'get put.vhdx "{lab.target / "got.vhdx"}"')
    lab.check_same(lab.target / "got.vhdx")
    return measured


CASE = Case("restore", "smbclient get", _prepare, _ours, _theirs)
