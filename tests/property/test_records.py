"""The sealed JSON records: what is written reads back, and nothing else reads."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.model.errors import FormatVersionError, IntegrityError
from replicad.model.names import folded
from replicad.model.points import (
    FORMAT_VERSION,
    Change,
    Consistency,
    CycleKind,
    CycleRecord,
    DiskState,
    FileKind,
    ManifestReference,
    Mistake,
    PendingDisk,
    Provenance,
    RecoveryPoint,
    RemovedDisk,
    ReplicaRecord,
    Role,
    Statistics,
    Trust,
    UndoReference,
)
from replicad.replica.layout import disk_key
from replicad.replica.records import decode, encode

Disk = TypeVar("Disk", DiskState, RemovedDisk)

APART = (lambda disk: disk.id, lambda disk: folded(disk.path))
ID = st.binary(min_size=16, max_size=16).map(bytes.hex)
DIGEST = st.binary(min_size=32, max_size=32).map(bytes.hex)
SEED = st.binary(min_size=8, max_size=8).map(bytes.hex)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PATH = st.text("가 🖥é%.-x", max_size=20).map(lambda name: f"sub/{name}.vhdx")
TIME = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - st adds the zone
COUNT = st.integers(0, (1 << 63) - 1)
SIZE = st.integers(0, 64 << 40)
CHUNK = st.integers(16, 22).map(lambda power: 1 << power)
MANIFEST = st.builds(ManifestReference, st.integers(1, 1 << 40), DIGEST)
_MISTAKE = st.builds(Mistake, st.sampled_from(Provenance), COUNT, st.just(1), TIME)
TRUST = st.none() | st.builds(Trust, st.integers(1, 99), st.integers(99, 1 << 50), st.none() | _MISTAKE)
_STATE = st.builds(
    DiskState, ID, PATH, st.sampled_from(FileKind), SIZE, CHUNK, st.sampled_from(Change), st.sampled_from(Provenance),
    MANIFEST, st.none(), st.builds(Statistics, COUNT, COUNT, COUNT, COUNT, COUNT), TRUST, TEXT,
)  # fmt: skip
UNDO = st.none() | st.builds(UndoReference, SIZE, COUNT, COUNT, DIGEST, st.sampled_from([".undo", ".7.merged"]))
NUMBER = st.integers((1 << 20) + 12, 1 << 40)


def _with_undo(disk: Disk, undo: UndoReference | None) -> Disk:
    return replace(disk, undo=undo and replace(undo, file=disk_key(disk.path) + undo.file))


DISK = st.builds(_with_undo, _STATE, UNDO)
SINCE = st.integers(1 << 20, (1 << 20) + 5)
REMOVED = st.builds(
    _with_undo,
    st.builds(
        RemovedDisk, st.just("ff" * 16), PATH, MANIFEST, SINCE,
        st.none() | st.integers((1 << 20) + 5, (1 << 20) + 11),
    ),
    UNDO,
)  # fmt: skip
PREVIOUS = st.none() | st.integers(1, (1 << 20) - 1)
POINT = st.builds(
    RecoveryPoint, st.just(FORMAT_VERSION), ID, TEXT, NUMBER, PREVIOUS, TIME, st.sampled_from(CycleKind),
    st.sampled_from(Consistency), COUNT, TEXT, st.lists(DISK, max_size=3, unique_by=APART).map(tuple),
    st.lists(REMOVED, max_size=1).map(tuple), st.lists(TEXT, max_size=2).map(tuple), st.builds(Statistics),
    st.booleans(),
)  # fmt: skip
REPLICA = st.builds(
    ReplicaRecord, st.just(FORMAT_VERSION), ID, TEXT, TEXT, SEED, COUNT, st.sampled_from(Role), TIME, TEXT
)
CYCLE = st.builds(
    CycleRecord, st.just(FORMAT_VERSION), ID, NUMBER, PREVIOUS, TIME, TEXT,
    st.lists(st.builds(PendingDisk, ID, PATH, CHUNK), max_size=3, unique_by=APART).map(tuple),
)  # fmt: skip
RECORD = st.one_of(POINT, REPLICA, CYCLE)


@given(RECORD)
def test_a_record_reads_back_as_it_was_written(record: RecoveryPoint | ReplicaRecord | CycleRecord) -> None:
    assert decode(encode(record), type(record), "it") == record


@given(RECORD, st.data())
def test_a_record_with_any_changed_byte_is_refused(
    record: RecoveryPoint | ReplicaRecord | CycleRecord, data: st.DataObject
) -> None:
    raw = bytearray(encode(record))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IntegrityError):
        decode(bytes(raw), type(record), "it")


@given(st.binary(max_size=300) | st.sampled_from([b"[" * 100_000, b"{}", b"null", b'{"seal": 5}', b'{"a": 1e999}']))
def test_any_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode(raw, RecoveryPoint, "it")


def test_a_record_of_a_newer_format_says_so() -> None:
    record = ReplicaRecord(
        2, "11" * 16, "vm", "source", "22" * 8, 1, Role.REPLICA, datetime(2026, 1, 1, tzinfo=UTC), "replicad 9"
    )
    with pytest.raises(FormatVersionError, match="format 2"):
        decode(encode(record), ReplicaRecord, "replica.json")


def test_one_kind_of_record_does_not_pass_for_another() -> None:
    record = CycleRecord(1, "11" * 16, 1, None, datetime(2026, 1, 1, tzinfo=UTC), "host", ())
    with pytest.raises(IntegrityError):
        decode(encode(record), ReplicaRecord, "replica.json")


SENSE = DiskState(
    "22" * 16, "sub/web.vhdx", FileKind.DISK, 1 << 20, 1 << 16, Change.DELTA, Provenance.FULL_SCAN,
    ManifestReference(3, "33" * 32), UndoReference(1 << 19, 8192, 1, "44" * 32, "sub%2Fweb.vhdx.undo"), Statistics(),
)  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "../../etc/cron.d/x"}, {"path": "/etc/x"}, {"path": "a/../b"}, {"path": ""}, {"path": "a\\b"},
        {"path": "web.vhdx.updating"}, {"id": "../../x"}, {"id": "22"}, {"size_bytes": -1}, {"size_bytes": 1 << 80},
        {"chunk_bytes": 0}, {"chunk_bytes": 1 << 40}, {"manifest": ManifestReference(0, "33" * 32)},
        {"manifest": ManifestReference(3, "x")},
        {"undo": UndoReference(1 << 62, 8192, 1, "44" * 32, "sub%2Fweb.vhdx.undo")},
        {"undo": UndoReference(1, -1, 1, "44" * 32, "sub%2Fweb.vhdx.undo")},
        {"undo": UndoReference(1, 1, 1, "44" * 32, "../4/sub%2Fweb.vhdx.undo")},
        {"undo": UndoReference(1, 1, 1, "44" * 32, "web.vhdx.undo")},
        {"undo": UndoReference(1, 1, 1, "44" * 32, "sub%2Fweb.vhdx.0.merged")},
        {"trust": Trust(-1, 5)}, {"trust": Trust(6, 5)}, {"trust": Trust(0, 1 << 65)},
        {"trust": Trust(5, 5, Mistake(Provenance.EXTENTS, -1, 1, datetime(2026, 1, 1, tzinfo=UTC)))},
        {"trust": Trust(5, 5, Mistake(Provenance.EXTENTS, 1, 6, datetime(2026, 1, 1, tzinfo=UTC)))},
        {"trust": Trust(5, 5, Mistake(Provenance.EXTENTS, 1, 0, datetime(2026, 1, 1, tzinfo=UTC)))},
    ],
)  # fmt: skip
def test_a_sealed_record_that_can_not_be_true_is_refused(wrong: dict[str, Any]) -> None:
    def point(disk: DiskState) -> RecoveryPoint:
        return RecoveryPoint(
            FORMAT_VERSION, "11" * 16, "vm", 3, 2, datetime(2026, 1, 1, tzinfo=UTC), CycleKind.DELTA, Consistency.COLD,
            1, "host", (disk,), (), (), Statistics(),
        )  # fmt: skip

    assert decode(encode(point(SENSE)), RecoveryPoint, "it") == point(SENSE)
    with pytest.raises(IntegrityError, match="makes no sense"):
        decode(encode(point(replace(SENSE, **wrong))), RecoveryPoint, "it")


def test_what_older_versions_do_not_know_is_written_only_where_it_says_something() -> None:
    def keys(disk: DiskState) -> set[str]:
        point = RecoveryPoint(
            FORMAT_VERSION, "11" * 16, "vm", 3, 2, datetime(2026, 1, 1, tzinfo=UTC), CycleKind.DELTA, Consistency.COLD,
            1, "host", (disk,), (), (), Statistics(),
        )  # fmt: skip
        return set(json.loads(encode(point))["disks"][0])

    known = {
        "id", "path", "kind", "size_bytes", "chunk_bytes", "change", "provenance", "manifest", "undo", "statistics",
    }  # fmt: skip
    assert keys(SENSE) == known
    assert keys(replace(SENSE, trust=Trust(0, 0))) == {*known, "trust"}
    assert keys(replace(SENSE, note="왜")) == {*known, "note"}


@pytest.mark.parametrize(("since", "origin"), [(2, None), (5, None), (4, 2), (4, 4), (3, 5)])
def test_a_disk_that_went_outside_of_its_record_s_points_is_refused(since: int, origin: int | None) -> None:
    removed = RemovedDisk("55" * 16, "sub/web.vhdx", SENSE.manifest, since, origin)
    point = RecoveryPoint(
        FORMAT_VERSION, "11" * 16, "vm", 4, 2, datetime(2026, 1, 1, tzinfo=UTC), CycleKind.DELTA, Consistency.COLD,
        1, "host", (), (removed,), (), Statistics(),
    )  # fmt: skip
    sound = replace(point, removed=(replace(removed, since=3, origin=3),))
    assert decode(encode(sound), RecoveryPoint, "it") == sound
    with pytest.raises(IntegrityError, match="makes no sense"):
        decode(encode(point), RecoveryPoint, "it")
