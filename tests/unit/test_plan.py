"""Plans of cycles, chunk sizes among them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from replicad.model.chunks import choose_chunk_size, chunk_count, chunk_length, is_chunk_size
from replicad.model.plan import SourceDisk, plan_cycle
from replicad.model.points import (
    Change,
    Consistency,
    CycleKind,
    DiskState,
    FileKind,
    ManifestReference,
    Provenance,
    RecoveryPoint,
    Statistics,
)

KIB, GIB, TIB = 1 << 10, 1 << 30, 1 << 40


@pytest.mark.parametrize(
    ("size", "chunk"),
    [
        (0, 64 * KIB), (256 * GIB, 64 * KIB), (256 * GIB + 1, 128 * KIB), (TIB, 256 * KIB), (16 * TIB, 4096 * KIB),
        (64 * TIB, 4096 * KIB),
    ],
)  # fmt: skip
def test_chunks_grow_with_the_disk_so_that_its_manifest_fits(size: int, chunk: int) -> None:
    assert choose_chunk_size(size) == chunk
    assert is_chunk_size(chunk)


def test_chunk_arithmetic_at_the_end_of_a_disk() -> None:
    assert chunk_count(0, 65536) == 0
    assert chunk_count(65537, 65536) == 2
    assert [chunk_length(i, 65537, 65536) for i in range(3)] == [65536, 1, 0]
    assert not any(map(is_chunk_size, [0, 32 * KIB, 96 * KIB, 8192 * KIB]))


def _point(*disks: tuple[str, int]) -> RecoveryPoint:
    states = tuple(
        DiskState(
            f"{n:032x}", path, FileKind.DISK, size, 128 * KIB, Change.INITIAL, Provenance.FULL_SCAN,
            ManifestReference(4, "00"), None, Statistics(),
        )
        for n, (path, size) in enumerate(disks)
    )  # fmt: skip
    return RecoveryPoint(
        1, "0" * 32, "vm", 4, 3, datetime(2026, 1, 1, tzinfo=UTC), CycleKind.DELTA, Consistency.COLD, 1, "host", states,
        (), (), Statistics(),
    )  # fmt: skip


def _disk(path: str, size: int) -> SourceDisk:
    return SourceDisk(path, FileKind.DISK, size)


def test_a_first_cycle_takes_all_disks_anew() -> None:
    plan = plan_cycle(None, [_disk("b", 5), _disk("a", TIB)], None, resync=False)
    assert (plan.kind, plan.removed) == (CycleKind.INITIAL, ())
    assert [(d.source.path, d.known, d.chunk_bytes) for d in plan.disks] == [
        ("a", None, 256 * KIB), ("b", None, 64 * KIB),
    ]  # fmt: skip


def test_later_cycles_tell_new_grown_shrunk_and_removed_disks_with_reasons() -> None:
    latest = _point(("gone", 1), ("grew", 10), ("shrank", 10), ("same", 10))
    plan = plan_cycle(
        latest, [_disk("grew", 11), _disk("shrank", 9), _disk("same", 10), _disk("new", 1)], 64 * KIB, resync=False
    )
    reasons = {d.source.path: d.reason for d in plan.disks}
    assert reasons["grew"] == "it grew from 10 bytes"
    assert reasons["shrank"] == "it shrank from 10 bytes"
    assert reasons["same"] == ""
    assert "does not have it" in reasons["new"]
    assert [r.path for r in plan.removed] == ["gone"]
    assert "points up to 4 keep it" in plan.warnings[0]
    assert {d.source.path: d.chunk_bytes for d in plan.disks} == {
        "grew": 128 * KIB, "shrank": 128 * KIB, "same": 128 * KIB, "new": 64 * KIB,
    }  # fmt: skip


def test_a_resynchronisation_says_that_it_reads_both_sides() -> None:
    plan = plan_cycle(_point(("a", 1)), [_disk("a", 1)], None, resync=True)
    assert plan.kind is CycleKind.RESYNC
    assert "both sides" in plan.disks[0].reason
