"""The guest's records, read on this host: what init.c writes."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

_HEAD = struct.Struct("<8sQQIIIIIIQQ")
_MAGIC = b"REPLREC1"
_CHECKED_FROM = 16
_BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Ring:
    """Where records lie: record n on disk n % disks."""

    disks: int
    files: int
    per_file: int
    slot_bytes: int

    @property
    def slots(self) -> int:
        """How many there are on each disk."""
        return self.files * self.per_file

    def place(self, number: int) -> tuple[int, int, int]:
        """Its disk, file and slot."""
        turn = number // self.disks % self.slots
        return number % self.disks, turn // self.per_file, turn % self.per_file

    def excused(self, number: int, highest: int) -> bool:
        """Whether the slot of that record may have anything in it, as `highest` is the last whole one.

        It is being overwritten, or its file, which has an odd number, was deleted to be made anew.
        """
        disk, file, slot = self.place(number)
        following = highest + 1 + (disk - highest - 1) % self.disks
        _, next_file, next_slot = self.place(following)
        if file != next_file:
            return False
        if following == highest + 1 and (slot == next_slot or (file % 2 == 1 and next_slot == 0)):
            return True
        return file % 2 == 1 and next_slot > 0 and slot >= next_slot


@dataclass(frozen=True, slots=True)
class Found:
    """What the records of a set of disks say.

    `highest` is the last whole record; up to `through` all are there that must be. The two differ if something was
    lost, or if the disks were not taken in one instant. `torn` slots have something that is no whole record.
    """

    highest: int
    through: int
    missing: tuple[int, ...]
    torn: int


@dataclass(frozen=True, slots=True)
class Slot:
    """What is in a slot: a record with its number, nothing (0), or something that is no whole record (None)."""

    number: int | None
    ring: Ring | None = None


def read_records(directories: Sequence[Path]) -> Found:
    """Read them from the disks' file systems, in the order of the disks."""
    ring = _ring(directories)
    if ring is None:
        return Found(0, 0, (), 0)
    slots = {
        (disk, file, slot): found
        for disk, directory in enumerate(directories)
        for file in range(ring.files)
        for slot, found in enumerate(_read_file(directory / "records" / str(file), ring))
    }
    return judge(ring, slots)


def judge(ring: Ring, slots: Mapping[tuple[int, int, int], Slot]) -> Found:
    """What these slots, by disk, file and slot, say; those that are left out are empty."""
    highest = max((found.number for found in slots.values() if found.number), default=0)
    missing = []
    torn = 0
    for number in range(max(1, highest - ring.disks * ring.slots + 1), highest + 1):
        found = slots.get(ring.place(number), Slot(0))
        if found.number != number and not ring.excused(number, highest):
            missing.append(number)
            torn += found.number is None
    # And in slots in which nothing was written yet.
    for number in range(highest + 2, ring.disks * ring.slots):
        torn += slots.get(ring.place(number), Slot(0)).number is None
    return Found(highest, missing[0] - 1 if missing else highest, tuple(missing), torn)


def _ring(directories: Sequence[Path]) -> Ring | None:
    """The ring that the first whole record tells of."""
    for directory in directories:
        for path in sorted((directory / "records").glob("*")):
            content = path.read_bytes()
            # Slots are whole blocks, and the first ones of a file may be the last to be written.
            for start in range(0, len(content), _BLOCK_BYTES):
                if content.startswith(_MAGIC, start) and (ring := _slot(content[start:]).ring) is not None:
                    return ring
    return None


def _read_file(path: Path, ring: Ring) -> list[Slot]:
    content = path.read_bytes() if path.exists() else b""
    starts = range(0, len(content), ring.slot_bytes)
    return [_slot(content[start : start + ring.slot_bytes]) for start in starts][: ring.per_file]


def _slot(content: bytes) -> Slot:
    head = content[: _HEAD.size].ljust(_HEAD.size, b"\0")
    if not any(head):
        return Slot(0)
    magic, checksum, number, size, disks, _, files, per_file, slot_bytes, _, _ = _HEAD.unpack(head)
    whole = magic == _MAGIC and _HEAD.size <= size <= len(content)
    if not whole or xxhash.xxh64_intdigest(content[_CHECKED_FROM:size]) != checksum:
        return Slot(None)
    return Slot(number, Ring(disks, files, per_file, slot_bytes))
