"""A disk from one share of a server to another one: by the server itself, and through the client; the copying alone,
and the whole of `replicad move`, which also proves what was copied.

On XFS the server shares the blocks between both files, so that the time does not grow with the disk.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from replicad.cli.demo.samba import SambaShare

from .contest import Case, Contest, Contestant, Contests
from .lab import Lab, check_and_remove, check_same, is_in_memory, make_disk
from .measuring import Measurement
from .mounts import mounted
from .results import Kind
from .site import AGAIN, SIGNED, Site, site

_DISK = "disk.vhdx"
_MACHINE = "서버"
_FROM, _TO, _BOTH = "from", "to", "both"
_MIB = 1 << 20


def in_memory(lab: Lab, size_bytes: int) -> Contests:
    """On the lab's own file system."""
    lab.need_room(2 * size_bytes)
    yield from _between(
        lab, lab.directory("shares"), "in memory" if is_in_memory(lab.root) else "on disk", [size_bytes]
    )


def on_ext4(lab: Lab, size_bytes: int) -> Contests:
    """On ext4, where the server copies each block."""
    lab.need_room(3 * size_bytes)
    with mounted("ext4", 3 * size_bytes + 256 * _MIB, lab.root) as where:
        yield from _between(lab, where, "ext4", [size_bytes])


def on_xfs(lab: Lab, size_bytes: int) -> Contests:
    """On XFS, where the server copies none: three sizes, up to twice what the other cases take."""
    lab.need_room(5 * size_bytes)
    with mounted("xfs", 5 * size_bytes + 512 * _MIB, lab.root) as where:
        yield from _between(lab, where, "XFS", [size_bytes // 8, size_bytes // 2, size_bytes * 2])


def _between(lab: Lab, root: Path, what: str, sizes_bytes: list[int]) -> Contests:
    """A contest for each size. `smbclient scopy` works within one share only: one that shows both directories."""
    shares = {_FROM: SambaShare(root / _FROM), _TO: SambaShare(root / _TO), _BOTH: SambaShare(root)}
    with site(lab.directory("site"), shares) as here:
        here.configure({"unused": (root / _FROM, rf"\\{SIGNED}\{_TO}")})
        for size_bytes in sizes_bytes:
            disk = make_disk(lab, here.behind(_FROM, _DISK), size_bytes)
            mib = f"{size_bytes // _MIB} MiB" if size_bytes % (1 << 30) else f"{size_bytes >> 30} GiB"
            yield Contest("move", f"{what}, {mib}", disk.stat().st_size, _contestants(here, disk))
            disk.unlink()


def _contestants(here: Site, disk: Path) -> tuple[Contestant, ...]:
    def ours(verb: str) -> Measurement:
        return here.data_path(verb, rf"\\{SIGNED}\{_FROM}", rf"\\{SIGNED}\{_TO}", _DISK)

    def check() -> None:
        check_and_remove(disk, here.behind(_TO, _DISK))

    scopy = partial(here.smbclient, _BOTH, SIGNED, rf"scopy {_FROM}\{_DISK} {_TO}\{_DISK}")
    pipe = partial(here.smbclient_pipe, _FROM, _TO, SIGNED, _DISK)
    return (
        Contestant("replicad, by the server", Kind.DATA_PATH, partial(ours, "by-server"), check=check),
        Contestant("smbclient scopy", Kind.OTHER, scopy, check=check),
        Contestant("replicad, through us", Kind.OTHER, partial(ours, "through"), check=check),
        Contestant("smbclient get | put", Kind.OTHER, pipe, check=check),
    )


def whole_in_memory(lab: Lab, size_bytes: int) -> Contests:
    """`replicad move` on the lab's own file system."""
    lab.need_room(2 * size_bytes)
    yield from _moved(lab, lab.directory("shares"), "in memory" if is_in_memory(lab.root) else "on disk", size_bytes)


def whole_on_xfs(lab: Lab, size_bytes: int) -> Contests:
    """`replicad move` on XFS, where the server copies no block."""
    lab.need_room(3 * size_bytes)
    with mounted("xfs", 3 * size_bytes + 512 * _MIB, lab.root) as where:
        yield from _moved(lab, where, "XFS", size_bytes)


def _moved(lab: Lab, root: Path, what: str, size_bytes: int) -> Contests:
    shares = {_FROM: SambaShare(root / _FROM), _TO: SambaShare(root / _TO)}
    with site(lab.directory("site"), shares) as here:
        here.configure({"unused": (root / _FROM, rf"\\{SIGNED}\{_TO}")})
        disk = make_disk(lab, here.behind(_FROM, _MACHINE, _DISK), size_bytes)
        ways = (
            ("by the server, a sample read", SIGNED, "sample"),
            ("by the server, all read", SIGNED, "all"),
            ("through us", AGAIN, "all"),
        )
        contestants = tuple(_mover(here, disk, *way) for way in ways)
        yield Contest("whole move", f"{what}, {size_bytes // _MIB} MiB", disk.stat().st_size, contestants)


def _mover(here: Site, disk: Path, name: str, server: str, proof: str) -> Contestant:
    r"""A move to `\\server\to`. What it leaves of its source is compared with the copy, and put back."""

    def run() -> Measurement:
        places = (rf"\\{SIGNED}\{_FROM}\{_MACHINE}", rf"\\{server}\{_TO}\{_MACHINE}")
        return here.replicad("move", "start", *places, "--standalone", "--keep-source", "--proof", proof)[0]

    def check() -> None:
        (kept,) = disk.parent.iterdir()
        copy = here.behind(_TO, _MACHINE, _DISK)
        check_same(kept, copy)
        copy.unlink()
        copy.parent.rmdir()
        kept.rename(disk)

    return Contestant(f"replicad move, {name}", Kind.COMMAND, run, check=check)


CASES = (
    Case("move", 2048, 256, in_memory),
    Case("move on ext4", 2048, 256, on_ext4),
    Case("move on XFS", 2048, 128, on_xfs),
    Case("whole move", 4096, 256, whole_in_memory),
    Case("whole move on XFS", 10240, 256, whole_on_xfs),
)
