"""Finding out that a disk has not changed, without a change tracker: it is read and hashed whole.

The disk is in the page cache for all of them. `sync` also opens the replica and commits a point.
"""

from __future__ import annotations

import os
from functools import partial

from .contest import Case, Contest, Contestant, Contests
from .lab import DISK, Lab, make_disk
from .measuring import Measurement, measure
from .results import Kind
from .site import ENCRYPTED, protected_shares, site

_VM = "vm"


def scan(lab: Lab, size_bytes: int) -> Contests:
    """A local disk whose replica is on a share."""
    lab.need_room(2 * size_bytes)
    disk = make_disk(lab, lab.directory("source") / DISK, size_bytes)
    with site(lab.directory("site"), protected_shares(lab.directory("shares"))) as here:
        here.configure({_VM: (disk.parent, rf"\\{ENCRYPTED}\{ENCRYPTED}")})

        def first_copy() -> None:
            here.replicad("sync", _VM)

        def touch() -> None:
            os.utime(disk)  # so that nothing but reading it can tell

        def sync() -> Measurement:
            measured, report = here.replicad("sync", _VM)
            read_bytes, sent_bytes = report["scanned_bytes"], report["sent_bytes"]
            assert (read_bytes >= size_bytes, sent_bytes) == (True, 0), f"{read_bytes} read, {sent_bytes} sent"
            return measured

        def path() -> Measurement:
            return here.data_path("scan", str(disk.parent), DISK)

        def other(*words: str) -> Measurement:
            return measure(words)[0]

        yield Contest(
            "scan", "unchanged", disk.stat().st_size,
            (
                Contestant("replicad sync", Kind.COMMAND, sync, begin=first_copy, prepare=touch),
                Contestant("replicad scan", Kind.DATA_PATH, path),
                Contestant("xxhsum -H2", Kind.OTHER, partial(other, "xxhsum", "-H2", str(disk)), needs="xxhsum"),
                Contestant("dd bs=1M", Kind.OTHER, partial(other, "dd", f"if={disk}", "of=/dev/null", "bs=1M")),
            ),
        )  # fmt: skip


CASES = (Case("scan", 8192, 512, scan),)
