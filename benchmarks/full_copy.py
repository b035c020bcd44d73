"""The whole of a disk that can't be compressed: to a share, from a share, and from one directory to another.

The commands also write manifests, flush, read a sample back and commit a point; `restore` checks every chunk. The data
path reads, hashes and writes. The other programs copy, and neither hash nor flush.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from .contest import Case, Contest, Contestant, Contests
from .lab import DISK, Lab, check_and_remove, make_disk
from .measuring import Measurement, measure
from .results import Kind
from .site import PROTECTIONS, Site, protected_shares, site

_VM = "vm"
_LARGEST_BUFFER = ("-b", "16776960")  # what smbclient takes at most
_COPY = "copy.vhdx"


def put(lab: Lab, size_bytes: int) -> Contests:
    """From a local directory to a share."""
    lab.need_room(2 * size_bytes)
    disk = make_disk(lab, lab.directory("source") / DISK, size_bytes)
    with site(lab.directory("site"), protected_shares(lab.directory("shares"))) as here:
        here.configure({f"{_VM}-{name}": (disk.parent, rf"\\{name}\{name}") for name in PROTECTIONS})
        for name in PROTECTIONS:
            yield Contest("put", name, disk.stat().st_size, _putters(here, name, disk))


def _putters(here: Site, name: str, disk: Path) -> tuple[Contestant, ...]:
    vm = f"{_VM}-{name}"

    def forget() -> None:
        here.forget_replica(name, vm)

    def sync() -> Measurement:
        return here.replicad("sync", vm)[0]

    def check_replica() -> None:
        check_and_remove(disk, here.behind(name, vm, "disks", DISK))

    def path() -> Measurement:
        return here.data_path("through", str(disk.parent), rf"\\{name}\{name}", DISK)

    def check(copy: str) -> None:
        check_and_remove(disk, here.behind(name, copy))

    return (
        Contestant("replicad sync", Kind.COMMAND, sync, prepare=forget, check=check_replica),
        Contestant("replicad data path", Kind.DATA_PATH, path, check=partial(check, DISK)),
        *_others(here, name, f'put "{disk}" {_COPY}', (str(disk), f"nas:{name}/{_COPY}"), partial(check, _COPY)),
    )


def _others(
    here: Site, share: str, words: str, rclone_words: tuple[str, str], check: Callable[[], None]
) -> Iterator[Contestant]:
    """smbclient, given `words`, and rclone: source and target."""
    verb, client = words.split()[0], partial(here.smbclient, share, share, words)
    copy = partial(here.rclone, "copyto", *rclone_words)
    yield Contestant(f"smbclient {verb}", Kind.OTHER, client, check=check)
    yield Contestant(f"smbclient {verb} -b", Kind.OTHER, partial(client, *_LARGEST_BUFFER), check=check)
    yield Contestant("rclone copyto", Kind.OTHER, copy, check=check, needs="rclone")


def get(lab: Lab, size_bytes: int) -> Contests:
    """From a share to a local directory."""
    lab.need_room(4 * size_bytes)
    disk = make_disk(lab, lab.directory("source") / DISK, size_bytes)
    target = lab.directory("target")
    with site(lab.directory("site"), protected_shares(lab.directory("shares"))) as here:
        here.configure({f"{_VM}-{name}": (disk.parent, rf"\\{name}\{name}") for name in PROTECTIONS})
        for name in PROTECTIONS:
            vm = f"{_VM}-{name}"
            here.replicad("sync", vm)
            yield Contest("get", name, disk.stat().st_size, _getters(here, name, vm, disk, target))
            here.forget_replica(name, vm)


def _getters(here: Site, name: str, vm: str, disk: Path, target: Path) -> tuple[Contestant, ...]:
    def restore() -> Measurement:
        return here.replicad("restore", vm, "--to", str(target / "restored"))[0]

    def path() -> Measurement:
        return here.data_path("through", rf"\\{name}\{name}\{vm}\disks", str(target), DISK)

    def check(copy: str) -> None:
        check_and_remove(disk, target / copy)

    words = rf'get "{vm}\disks\{DISK}" "{target / _COPY}"'
    source = f"nas:{name}/{vm}/disks/{DISK}"
    return (
        Contestant("replicad restore", Kind.COMMAND, restore, check=partial(check, f"restored/{DISK}")),
        Contestant("replicad data path", Kind.DATA_PATH, path, check=partial(check, DISK)),
        *_others(here, name, words, (source, str(target / _COPY)), partial(check, _COPY)),
    )


def local(lab: Lab, size_bytes: int) -> Contests:
    """From one directory to another."""
    lab.need_room(2 * size_bytes)
    disk = make_disk(lab, lab.directory("source") / DISK, size_bytes)
    target = lab.directory("target")
    with site(lab.directory("site"), {}) as here:
        here.configure({_VM: (disk.parent, str(target))})

        def forget() -> None:
            lab.directory("target")
            lab.directory("site/state")

        def path() -> Measurement:
            return here.data_path("through", str(disk.parent), str(target), DISK)

        def other(*words: str) -> Measurement:
            return measure([*words, disk, target / _COPY])[0]

        def check(copy: str) -> None:
            check_and_remove(disk, target / copy)

        yield Contest(
            "local copy", "no server", disk.stat().st_size,
            (
                Contestant(
                    "replicad sync", Kind.COMMAND, lambda: here.replicad("sync", _VM)[0], prepare=forget,
                    check=partial(check, f"{_VM}/disks/{DISK}"),
                ),
                Contestant("replicad data path", Kind.DATA_PATH, path, prepare=forget, check=partial(check, DISK)),
                Contestant("cp", Kind.OTHER, partial(other, "cp"), prepare=forget, check=partial(check, _COPY)),
                Contestant(
                    "rsync", Kind.OTHER, partial(other, "rsync"), prepare=forget, check=partial(check, _COPY),
                    needs="rsync",
                ),
            ),
        )  # fmt: skip


CASES = (Case("put", 2048, 256, put), Case("get", 2048, 256, get), Case("local copy", 2048, 256, local))
