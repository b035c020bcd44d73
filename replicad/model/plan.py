"""What a cycle is going to do with each disk, from what the latest point has and what the source shows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .chunks import choose_chunk_size
from .points import CycleKind, DiskState, FileKind, RecoveryPoint, RemovedDisk


@dataclass(frozen=True, slots=True)
class SourceDisk:
    """A disk as the source shows it now."""

    path: str
    kind: FileKind
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PlannedDisk:
    """A disk of the next point; `known` is its state at the latest one, None if that does not have it. `reason`: why it
    is looked at, if there is more to it than how its changes are known."""

    source: SourceDisk
    known: DiskState | None
    chunk_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class CyclePlan:
    """`disks` in the order of their paths; `removed` are those of the latest point that the source has no more."""

    kind: CycleKind
    disks: tuple[PlannedDisk, ...]
    removed: tuple[RemovedDisk, ...]
    warnings: tuple[str, ...]


def plan_cycle(
    latest: RecoveryPoint | None, sources: Sequence[SourceDisk], chunk_bytes: int | None, *, resync: bool
) -> CyclePlan:
    """The plan. A disk keeps the chunk size that it began with; new ones get `chunk_bytes`, or one that fits them."""
    known = {d.path: d for d in latest.disks} if latest else {}
    disks = tuple(
        _plan_disk(source, known.get(source.path), chunk_bytes, resync=resync)
        for source in sorted(sources, key=lambda s: s.path)
    )
    present = {s.path for s in sources}
    removed = tuple(
        RemovedDisk(d.id, d.path, d.manifest, latest.number + 1)
        for d in (latest.disks if latest else ())
        if latest is not None and d.path not in present
    )
    warnings = tuple(
        f"{r.path} is no longer at the source: points up to {latest.number} keep it, later ones don't have it"
        for r in removed
        if latest is not None
    )
    kind = CycleKind.INITIAL if latest is None else CycleKind.RESYNC if resync else CycleKind.DELTA
    return CyclePlan(kind, disks, removed, warnings)


def _plan_disk(source: SourceDisk, known: DiskState | None, chunk_bytes: int | None, *, resync: bool) -> PlannedDisk:
    if known is None:
        return PlannedDisk(
            source, None, chunk_bytes or choose_chunk_size(source.size_bytes), "the latest point does not have it"
        )
    if resync:
        reason = "resynchronisation: both sides are read and compared"
    elif source.size_bytes != known.size_bytes:
        reason = f"it {'grew' if source.size_bytes > known.size_bytes else 'shrank'} from {known.size_bytes} bytes"
    else:
        reason = ""
    return PlannedDisk(source, known, known.chunk_bytes, reason)
