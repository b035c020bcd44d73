"""Whether a set of disks holds what a guest wrote, judged by mounting them here, or by the guest itself."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.guest.disks import copy_disk, raw_of
from tests.support.guest.image import GuestImage
from tests.support.guest.records import Found, read_records
from tests.support.guest.running import running_guest
from tests.support.programs import run


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found on a set of disks.

    All records up to `records_through` are there that must be. `highest`, the last whole record, is larger if something
    was lost, or if the disks are not of one instant. `torn` counts slots with no whole record in them. `fsck_clean`:
    once the journal was replayed, e2fsck found nothing to mend. `io_errors` of the guest, or why a disk can't be
    mounted.
    """

    records_through: int
    highest: int
    torn: int
    fsck_clean: bool
    io_errors: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """All is there and whole, as one instant of all disks."""
        return self.records_through == self.highest and not self.torn and self.fsck_clean and not self.io_errors


def check_disk(disks: Sequence[Path], scratch: Path | None = None) -> Checked:
    """Check copies of the disks, in their order, here: ext4 replays its journal, Python reads. Needs root. Blocks.

    No guest may run on them. The copies lie below `scratch`, by default the system's directory for such files.
    """
    raws: list[Path] = []
    errors: list[str] = []
    found = Found(0, 0, (), 0)
    with tempfile.TemporaryDirectory(prefix="replicad-checked-", dir=scratch) as directory:
        with contextlib.ExitStack() as stack:
            try:
                for number, disk in enumerate(disks):
                    raws.append(raw_of(disk, _made(Path(directory) / str(number))))
                found = read_records([stack.enter_context(_mounted(raw)) for raw in raws])
            except (OSError, AssertionError) as error:
                errors.append(str(error))
        clean = len(raws) == len(disks) and all(map(_is_clean, raws))
    return Checked(found.through, found.highest, found.torn, clean, tuple(errors))


async def check_disk_by_booting(image: GuestImage, disks: Sequence[Path], scratch: Path | None = None) -> Checked:
    """The same by a guest that boots on the copies: its kernel replays the journal, its program reads."""
    with tempfile.TemporaryDirectory(prefix="replicad-checked-", dir=scratch) as directory:
        copies = [
            copy_disk(disk, _made(Path(directory) / str(number)) / disk.name) for number, disk in enumerate(disks)
        ]
        async with running_guest(image, copies, verify=True) as guest:
            await guest.ended()
            line = next(line.text for line in guest.lines if line.text.startswith("checked "))
            unusable = [
                line.text for line in guest.lines if line.text.startswith(("absent", "unmountable", "read-only"))
            ]
        through, highest, torn, _ = (int(word) for word in line.split()[1:])
        raws = [raw_of(copy, copy.parent) for copy in copies]
        return Checked(through, highest, torn, all(map(_is_clean, raws)), (*unusable, *guest.io_errors))


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _is_clean(raw: Path) -> bool:
    done = subprocess.run(["e2fsck", "-fn", str(raw)], capture_output=True, check=False, timeout=120)
    return done.returncode == 0


@contextmanager
def _mounted(raw: Path) -> Iterator[Path]:
    where = raw.with_name("mnt")
    where.mkdir()
    run("mount", "-t", "ext4", "-o", "loop", str(raw), str(where))
    try:
        yield where
    finally:
        run("umount", str(where))
