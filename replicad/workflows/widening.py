"""What must be looked at beside what a tracker says has changed. Pure."""

from __future__ import annotations

from dataclasses import replace

from replicad.model.changes import ChangeSet, Outside
from replicad.model.extents import Extent, normalise
from replicad.replica.known_chunks import KnownChunks


def widened(changes: ChangeSet, known: KnownChunks) -> ChangeSet:
    """The same, with the chunks of which the replica's disk may hold something else than at the point before: those
    that an interrupted cycle touched, and the one that the disk's old or new end cuts."""
    if changes.outside is Outside.ZEROS:
        return changes
    size = known.chunk_bytes
    doubtful = (Extent(index * size, size) for index in known.to_compare())
    return replace(changes, extents=tuple(normalise((*changes.extents, *doubtful))))
