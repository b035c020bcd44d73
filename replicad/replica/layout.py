"""Where each thing lies in a replica's directory (docs/format.md). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from replicad.model.errors import InvalidNameError
from replicad.model.names import MAX_NAME_BYTES, check_path, join, last_part

OUR_SUFFIXES = (".updating", ".initial", ".removed", ".undo", ".pending", ".xxh3", ".tmp")
_NUMBER = r"[1-9][0-9]{0,17}"


def disk_key(path: str) -> str:
    """One file name for a disk's path: '%' and '/' become '%25' and '%2F'."""
    return path.replace("%", "%25").replace("/", "%2F")


def path_of_key(key: str) -> str:
    """The path that `disk_key` made `key` of."""
    return key.replace("%2F", "/").replace("%25", "%")


def check_disk_path(path: str) -> str:
    """`path` itself if a replica can hold a disk of that name; InvalidNameError that says why not."""
    check_path(path, "disk name")
    for part in path.casefold().split("/"):
        # A directory is refused as well: 'a.vhdx.updating/' would be in the way of 'a.vhdx'.
        if part.endswith(OUR_SUFFIXES):
            suffix = next(suffix for suffix in OUR_SUFFIXES if part.endswith(suffix))
            raise InvalidNameError(
                "replicate", f"disk {path!r}", f"names ending in {suffix!r} are replicad's own on a replica",
                "Rename it, or leave it out with 'exclude'.",
            )  # fmt: skip
    spare = MAX_NAME_BYTES - len(f".{'9' * 18}.removed")
    if len(disk_key(path).encode()) > spare:
        raise InvalidNameError(
            "replicate", f"disk '{path}'", f"its path is {len(disk_key(path).encode())} bytes long, and {spare} of the "
            f"{MAX_NAME_BYTES} that a name may have are left for it on a replica",
            "Choose a shorter name, or leave it out with 'exclude'.",
        )  # fmt: skip
    return path


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one replica, relative to its share; `root` is the VM's directory."""

    root: str

    @property
    def record(self) -> str:
        return join(self.root, "replica.json")

    @property
    def record_copy(self) -> str:
        """The same bytes once more."""
        return join(self.root, "replica.copy.json")

    @property
    def lock(self) -> str:
        return join(self.root, "replica.lock")

    @property
    def recovery_text(self) -> str:
        return join(self.root, "RECOVERY.txt")

    @property
    def disks_dir(self) -> str:
        return join(self.root, "disks")

    @property
    def manifests_dir(self) -> str:
        return join(self.root, "manifests")

    @property
    def points_dir(self) -> str:
        return join(self.root, "points")

    def disk(self, path: str) -> str:
        """The disk of the latest committed point, under its own name."""
        return join(self.disks_dir, path)

    def updating(self, path: str) -> str:
        """The same disk while a cycle writes it."""
        return self.disk(path) + ".updating"

    def initial(self, path: str) -> str:
        """A disk that is being sent for the first time."""
        return self.disk(path) + ".initial"

    def manifest(self, path: str, point: int) -> str:
        """The manifest of a disk, written for `point`."""
        return join(self.manifests_dir, f"{disk_key(path)}.{point}.xxh3")

    def point_dir(self, number: int) -> str:
        return join(self.points_dir, str(number))

    def pending_dir(self, number: int) -> str:
        return join(self.points_dir, f"{number}.pending")

    def point_record(self, directory: str) -> str:
        return join(directory, "point.json")

    def point_record_copy(self, directory: str) -> str:
        """The same bytes once more."""
        return join(directory, "point.copy.json")

    def cycle_record(self, directory: str) -> str:
        return join(directory, "cycle.json")

    def undo(self, directory: str, path: str) -> str:
        """The undo log of a disk in a point's directory, or in a pending one."""
        return join(directory, disk_key(path) + ".undo")

    def pruned_dir(self, number: int) -> str:
        """What is left of a pruned point while it is deleted."""
        return join(self.points_dir, f"{number}.pruned")

    def merging_dir(self, number: int) -> str:
        """Is there as long as something may lie beside the record of point `number` that it does not name."""
        return join(self.points_dir, f"{number}.merging")

    def merged_undo(self, directory: str, path: str, previous: int) -> str:
        """The undo log of a disk that leads over pruned points, back to point `previous`."""
        return join(directory, f"{disk_key(path)}.{previous}.merged")

    def removed(self, number: int, path: str, since: int) -> str:
        """The last content of a disk that is gone since point `since`, beside the record of point `number`."""
        return join(self.point_dir(number), f"{disk_key(path)}.{since}.removed")

    def removed_manifest(self, number: int, path: str, since: int) -> str:
        """The manifest of that content."""
        return join(self.point_dir(number), f"{disk_key(path)}.{since}.xxh3")


def point_number(name: str) -> int | None:
    """The number of a committed point's directory; None for any other name."""
    return int(name) if re.fullmatch(_NUMBER, name) else None


def undo_path(name: str) -> str | None:
    """The path of the disk that an undo log's file name stands for; None for any other name, among them all that stand
    for no disk's path: such a one could lead out of the replica's directory."""
    key = name.removesuffix(".undo")
    path = path_of_key(key)
    if key == name or not path or disk_key(path) != key:
        return None
    try:
        return check_disk_path(path)
    except InvalidNameError:
        return None


def is_of_cycle(name: str) -> bool:
    """Whether a file of this name in a pending directory is one that a cycle puts there."""
    records = ("cycle.json", "point.json", "point.copy.json")
    return name.removesuffix(".tmp") in records or undo_path(name) is not None


def is_undo_file(name: str, path: str) -> bool:
    """Whether a log of the disk `path` that a committed point names can have this name."""
    key = disk_key(path)
    return name == f"{key}.undo" or re.fullmatch(rf"{re.escape(key)}\.{_NUMBER}\.merged", name) is not None


def is_point_content(name: str) -> bool:
    """Whether a file of this name beside a point's record is an undo log, a removed disk's content, or its manifest."""
    return re.fullmatch(rf".+(\.undo|\.{_NUMBER}\.(merged|removed|xxh3))", name, re.DOTALL) is not None


def is_point_record(name: str) -> bool:
    """Whether a file of this name is a point's record, that of its cycle, or a half-written one."""
    return name.removesuffix(".tmp") in ("point.json", "point.copy.json", "cycle.json")


def pending_number(name: str) -> int | None:
    """The number of a pending point's directory; None for any other name."""
    return _number_before(name, "pending")


def pruned_number(name: str) -> int | None:
    """The number of the point of which a directory of this name is what is left; None for any other name."""
    return _number_before(name, "pruned")


def merging_number(name: str) -> int | None:
    """The number of the point that was being merged with others; None for any other name."""
    return _number_before(name, "merging")


def _number_before(name: str, what: str) -> int | None:
    match = re.fullmatch(rf"({_NUMBER})\.{what}", name)
    return int(match[1]) if match else None


def manifest_name(name: str) -> tuple[str, int] | None:
    """The disk key and point of a manifest's file name; None for any other name."""
    match = re.fullmatch(rf"(.+)\.({_NUMBER})\.xxh3", last_part(name), re.DOTALL)
    return (match[1], int(match[2])) if match else None
