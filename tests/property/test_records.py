"""The sealed JSON records: what is written reads back, and nothing else reads."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.model.errors import FormatVersionError, IntegrityError
from replicad.model.points import (
    FORMAT_VERSION,
    Change,
    Consistency,
    CycleKind,
    CycleRecord,
    DiskState,
    FileKind,
    ManifestReference,
    PendingDisk,
    Provenance,
    RecoveryPoint,
    RemovedDisk,
    ReplicaRecord,
    Role,
    Statistics,
    UndoReference,
)
from replicad.replica.records import decode, encode

ID = st.binary(min_size=16, max_size=16).map(bytes.hex)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TIME = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - st adds the zone
COUNT = st.integers(0, 1 << 63)
MANIFEST = st.builds(ManifestReference, COUNT, ID)
DISK = st.builds(
    DiskState, ID, TEXT, st.sampled_from(FileKind), COUNT, COUNT, st.sampled_from(Change), st.sampled_from(Provenance),
    MANIFEST, st.none() | st.builds(UndoReference, COUNT, COUNT, COUNT, ID),
    st.builds(Statistics, COUNT, COUNT, COUNT, COUNT, COUNT),
)  # fmt: skip
POINT = st.builds(
    RecoveryPoint, st.just(FORMAT_VERSION), ID, TEXT, COUNT, st.none() | COUNT, TIME, st.sampled_from(CycleKind),
    st.sampled_from(Consistency), COUNT, TEXT, st.lists(DISK, max_size=3).map(tuple),
    st.lists(st.builds(RemovedDisk, ID, TEXT, MANIFEST), max_size=2).map(tuple), st.lists(TEXT, max_size=2).map(tuple),
    st.builds(Statistics),
)  # fmt: skip
REPLICA = st.builds(
    ReplicaRecord, st.just(FORMAT_VERSION), ID, TEXT, TEXT, ID, COUNT, st.sampled_from(Role), TIME, TEXT
)
CYCLE = st.builds(
    CycleRecord, st.just(FORMAT_VERSION), ID, COUNT, st.none() | COUNT, TIME, TEXT,
    st.lists(st.builds(PendingDisk, ID, TEXT, COUNT), max_size=3).map(tuple),
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
