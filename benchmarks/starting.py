"""What every run begins with: starting the program, connecting, signing in.

It is in all figures of the other cases but those of the data path.
"""

from __future__ import annotations

from functools import partial

from .contest import Case, Contest, Contestant, Contests
from .lab import DISK, Lab, make_disk
from .measuring import Measurement
from .results import Kind
from .site import PROTECTIONS, Site, protected_shares, site

_VM = "vm"


def start(lab: Lab, size_bytes: int) -> Contests:
    """Looking at a share; next to nothing is transferred."""
    lab.need_room(3 * size_bytes)
    disk = make_disk(lab, lab.directory("source") / DISK, size_bytes)
    with site(lab.directory("site"), protected_shares(lab.directory("shares"))) as here:
        for name in PROTECTIONS:
            here.configure({_VM: (disk.parent, rf"\\{name}\{name}")})
            here.forget_replica(name, _VM)
            here.replicad("sync", _VM)
            here.behind(name, "one.vhdx").write_bytes(b"1")
            yield Contest("start", name, 0, _contestants(here, name))


def _contestants(here: Site, name: str) -> tuple[Contestant, ...]:
    def points() -> Measurement:
        return here.replicad("points", _VM)[0]

    return (
        Contestant("replicad points", Kind.COMMAND, points),
        Contestant("smbclient ls", Kind.OTHER, partial(here.smbclient, name, name, "ls")),
        Contestant("rclone lsf", Kind.OTHER, partial(here.rclone, "lsf", f"nas:{name}"), needs="rclone"),
    )


CASES = (Case("start", 8, 8, start),)
