"""Whatever an agenda or a run holds, the catalog gives it back; and what it can't have written is found out."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.catalog import agendas, runs
from replicad.catalog.rows import (
    AGENDA_COLUMNS,
    MOST_TEXT,
    RUN_COLUMNS,
    SenselessRowError,
    agenda_of,
    agenda_values,
    run_of,
    run_values,
)
from replicad.catalog.schema import migrate, transaction
from replicad.model.agenda import Agenda, LatestPoint
from replicad.model.points import Consistency, CycleKind
from replicad.model.runs import Failure, Outcome, Run, Severity, Trigger

ZONES = st.just(UTC) | st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIME = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=ZONES)  # noqa: DTZ001 - st adds the zone
COUNT = st.integers(0, (1 << 63) - 1)
NAME = st.text("가 🖥é%'\"\0.-x", min_size=1, max_size=20)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=MOST_TEXT)
FAILURE = st.none() | st.builds(Failure, TEXT, NAME, st.sampled_from(Severity), TIME)
LATEST = st.none() | st.builds(LatestPoint, COUNT, TIME, st.sampled_from(Consistency))
AGENDA = st.builds(
    Agenda, NAME, st.none() | TIME, st.none() | TIME, st.none() | TIME, st.booleans(), COUNT, FAILURE,
    st.none() | TIME, LATEST, st.none() | TIME,
)  # fmt: skip
RUN = st.builds(
    Run, NAME, st.sampled_from(Trigger), TIME, TIME, COUNT, st.none() | TIME, st.none() | st.sampled_from(Outcome),
    st.none() | st.sampled_from(CycleKind), st.none() | COUNT, COUNT, COUNT, COUNT, FAILURE, undo_bytes=COUNT,
    consistency=st.none() | st.sampled_from(Consistency), point_time=st.none() | TIME, provenance=st.none() | NAME,
    resumed=st.booleans(), attempts=st.none() | COUNT,
)  # fmt: skip


def _database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    return connection


@given(st.lists(AGENDA, max_size=4))
def test_agendas_read_back_as_they_were_last_saved(saved: list[Agenda]) -> None:
    connection = _database()
    with transaction(connection):
        for agenda in saved:
            agendas.save(connection, agenda)
    assert agendas.read_agendas(connection) == {agenda.vm: agenda for agenda in saved}
    connection.close()


@given(st.lists(RUN, max_size=4))
def test_runs_read_back_the_newest_first(noted: list[Run]) -> None:
    connection = _database()
    with transaction(connection):
        numbered = [replace(run, number=runs.begin(connection, run)) for run in noted]
    assert runs.read_runs(connection, None, None, 10, None) == tuple(reversed(numbered))
    connection.close()


@given(st.text(max_size=2 * MOST_TEXT))
def test_any_sentence_can_be_kept_up_to_its_bound(text: str) -> None:
    now = datetime(2026, 1, 31, tzinfo=UTC)
    connection = _database()
    with transaction(connection):
        agendas.save(connection, Agenda("웹", failure=Failure(text, "BusyError", Severity.TRANSIENT, now)))
    failure = agendas.read_agendas(connection)["웹"].failure
    assert failure is not None
    assert len(failure.text) <= MOST_TEXT
    assert text.encode(errors="backslashreplace").decode().startswith(failure.text[: MOST_TEXT - 1])
    connection.close()


_NOW = datetime(2026, 1, 31, tzinfo=UTC)
_FAILURE = Failure("문장", "BusyError", Severity.TRANSIENT, _NOW)
_RUN = Run("웹", Trigger.RETRY, _NOW, _NOW, 1, _NOW, Outcome.DONE, "delta", 3, 1, 2, 3, _FAILURE, 9)
_AGENDA = Agenda("웹", _NOW, _NOW, _NOW, True, 2, _FAILURE, _NOW, LatestPoint(3, _NOW, Consistency.COLD))


def test_words_of_a_later_version_are_read_as_those_that_claim_least() -> None:
    row = dict(zip(RUN_COLUMNS, run_values(_RUN), strict=True))
    row |= {"triggered_by": "moon", "outcome": "splendid", "failure_severity": "odd"}
    run = run_of(9, "웹", tuple(row.values()))
    assert run == replace(
        _RUN,
        trigger=Trigger.SCHEDULE,
        outcome=Outcome.FAILED,
        failure=replace(_FAILURE, severity=Severity.LASTING),
    )
    row = dict(zip(AGENDA_COLUMNS, agenda_values(_AGENDA), strict=True)) | {"latest_consistency": "better"}
    latest = agenda_of("웹", tuple(row.values())).latest
    assert latest == LatestPoint(3, _NOW, Consistency.FUZZY)


@pytest.mark.parametrize("wrong", [1 << 62, -(1 << 63), b"bytes", 1.5])
@pytest.mark.parametrize("column", ["due_at", "failure_at", "latest_time", "failure_error", "failures"])
def test_senseless_rows_are_found_out(column: str, wrong: object) -> None:
    if column == "failures" and isinstance(wrong, int):
        return
    row = dict(zip(AGENDA_COLUMNS, agenda_values(_AGENDA), strict=True)) | {column: wrong}
    with pytest.raises(SenselessRowError):
        agenda_of("웹", tuple(row.values()))


def test_times_without_a_zone_are_refused() -> None:
    with pytest.raises(TypeError):
        agenda_values(replace(_AGENDA, due_at=datetime(2026, 1, 31)))  # noqa: DTZ001 - what is to be refused
