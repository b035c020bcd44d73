"""What has to be looked at whatever a tracker says."""

from __future__ import annotations

import pytest

from replicad.model.changes import ChangeSet, Outside
from replicad.model.extents import Extent
from replicad.model.manifest import Manifest
from replicad.model.points import Provenance
from replicad.replica.known_chunks import KnownChunks
from replicad.replica.undo_format import NOT_WRITTEN, EntryKind, UndoEntry
from replicad.workflows.widening import widened

CHUNK = 64 * 1024
OLD, NEW = b"o" * 16, b"n" * 16


def _known(size_bytes: int, before_bytes: int = 10 * CHUNK) -> KnownChunks:
    return KnownChunks(Manifest(CHUNK, before_bytes), size_bytes)


def _told(*extents: Extent, outside: Outside = Outside.UNCHANGED) -> ChangeSet:
    return ChangeSet(extents, outside, Provenance.DIRTY_BITMAP, "why")


def test_a_tracker_is_believed_where_nothing_was_interrupted() -> None:
    told = _told(Extent(5, 7))
    assert widened(told, _known(10 * CHUNK)) == told


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("new_hash", [NEW, NOT_WRITTEN])
def test_what_an_interrupted_cycle_touched_is_looked_at(durable: bool, new_hash: bytes) -> None:
    known = _known(10 * CHUNK)
    known.replay(UndoEntry(3, EntryKind.SAVED, OLD, new_hash), durable)
    known.replay(UndoEntry(7, EntryKind.AGAIN, OLD, new_hash), durable)
    known.distrust(9)
    found = widened(_told(Extent(5, 7)), known)
    assert found.extents == (Extent(5, 7), *(Extent(index * CHUNK, CHUNK) for index in (3, 7, 9)))
    assert (found.outside, found.provenance, found.note) == (Outside.UNCHANGED, Provenance.DIRTY_BITMAP, "why")


@pytest.mark.parametrize(
    ("before_bytes", "size_bytes", "chunks"),
    [
        (10 * CHUNK - 5, 12 * CHUNK, [9]),
        (12 * CHUNK, 10 * CHUNK - 5, [9]),
        (10 * CHUNK, 12 * CHUNK, [9]),
        (10 * CHUNK - 5, 10 * CHUNK - 3, [9]),
        (0, 12 * CHUNK, []),
        (12 * CHUNK, 0, []),
    ],
)
def test_the_chunk_that_the_old_or_the_new_end_cuts_is_looked_at(
    before_bytes: int, size_bytes: int, chunks: list[int]
) -> None:
    found = widened(_told(), _known(size_bytes, before_bytes))
    assert [extent.offset_bytes // CHUNK for extent in found.extents] == chunks


def test_what_was_touched_beyond_the_new_end_is_left_out() -> None:
    known = _known(5 * CHUNK, 5 * CHUNK)
    known.replay(UndoEntry(8, EntryKind.BEYOND, OLD, NEW), durable=True)
    assert widened(_told(), known).extents == ()


def test_a_full_scan_looks_at_everything_anyhow() -> None:
    known = _known(10 * CHUNK)
    known.distrust(9)
    told = _told(Extent(5, 7), outside=Outside.ZEROS)
    assert widened(told, known) == told
