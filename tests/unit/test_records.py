"""Reading many records."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter

import replicad.replica.records as records
from replicad.model.points import FORMAT_VERSION, ReplicaRecord, Role


def test_reading_many_records_prepares_their_checks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[type] = []

    def counted(kind: type) -> Any:
        made.append(kind)
        return TypeAdapter(kind)

    monkeypatch.setattr(records, "TypeAdapter", counted)
    monkeypatch.setattr(records, "_checkers", {})
    record = ReplicaRecord(
        FORMAT_VERSION, "ab" * 16, "웹", "/원본", "cd" * 8, 1, Role.REPLICA, datetime(2026, 1, 1, tzinfo=UTC), "시험"
    )
    raw = records.encode(record)
    assert all(records.decode(raw, ReplicaRecord, "replica.json") == record for _ in range(5))
    assert made == [ReplicaRecord]
