"""What a verification finds, and which points it costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

from replicad.model.chunks import chunk_count
from replicad.replica.undo_log import UndoIndex


class Part(Enum):
    """What kind of thing is damaged."""

    RECORD = "record"
    TEXT = "text"
    MANIFEST = "manifest"
    DISK = "disk"
    STRUCTURE = "vhdx structure"
    UNDO_LOG = "undo log"
    REMOVED_DISK = "removed disk"


@dataclass(frozen=True, slots=True)
class Damage:
    """Something on the share that is not what it must be: where, what, and what it costs.

    `chunks` are those of the disk that are wrong, and `points` those that `restore` can't give as they were while it is
    there (it needs no bytes for what should be zeros). `repaired`: it was there, and is no more; else `not_repaired`
    may be a clause that says why not.
    """

    part: Part
    file: str
    reason: str
    costs: str
    chunks: tuple[int, ...] = ()
    points: tuple[int, ...] = ()
    repaired: bool = False
    not_repaired: str = ""


@dataclass(slots=True)
class _Track:
    """One damage on the way back from the latest point. `chunks` of the disk are wrong at the point come to (None: any
    of them may be); `points` were touched so far."""

    damage: Damage
    disk_id: str | None
    chunks: set[int] | None
    points: list[int]


@dataclass(slots=True)
class Verification:
    """What was checked and what was found. `read_bytes` are of disks and undo logs.

    `leftovers` are files in the replica's directory that belong to no point; nothing needs them, and they are not
    checked.
    """

    points: list[int] = field(default_factory=list)
    read_bytes: int = 0
    damages: list[Damage] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    @property
    def damaged_points(self) -> list[int]:
        """The points that `restore` can't give as they were, ascending."""
        return sorted({number for d in self.damages if not d.repaired for number in d.points})


class Findings:
    """Damages as they are found on the way from the latest point back to the oldest, at each step of which `went_back`
    is told what the undo logs of a point bring back."""

    def __init__(self) -> None:
        self._tracks: list[_Track] = []

    def add(self, damage: Damage) -> None:
        """A damage whose `points` are known."""
        self._tracks.append(_Track(damage, None, None, list(damage.points)))

    def add_of_disk(self, damage: Damage, disk_id: str, point: int | None, lost: Iterable[int] | None) -> None:
        """A damage of a disk's content at the point come to, which these chunks can't be restored from; None: any.

        Without a `point` it is that of no point (any more), and touches those before it only.
        """
        chunks = None if lost is None else set(lost)
        self._tracks.append(
            _Track(damage, disk_id, chunks, [point] if point is not None and (chunks is None or chunks) else [])
        )

    def went_back(self, disk_id: str, index: UndoIndex | None, point: int) -> None:
        """The disk was followed to the older `point`: through this log, or without one if it did not change."""
        for track in self._tracks:
            if track.disk_id != disk_id:
                continue
            if track.chunks and index is not None:
                header = index.header
                chunks = chunk_count(header.previous_size_bytes, header.chunk_bytes)
                brought_back = track.chunks.intersection(index.chunks)
                track.chunks = {chunk for chunk in track.chunks - brought_back if chunk < chunks}
            if track.chunks is None or track.chunks:
                track.points.append(point)

    def damages(self) -> list[Damage]:
        """All of them with the points that they touch, by the kind of thing."""
        found = [replace(t.damage, points=tuple(sorted({*t.points}))) for t in self._tracks]
        return sorted(found, key=lambda damage: list(Part).index(damage.part))
