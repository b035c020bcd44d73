"""The statistics of a VM, counted by SQLite: what `replicad.model.statistics.summarise` says of the runs that are kept,
without a run being read into Python. Blocking.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from sqlite3 import Connection
from typing import Any

from replicad.model.runs import Outcome
from replicad.model.statistics import Statistics

from .rows import to_microseconds

_KNOWN = """
    WITH known AS MATERIALIZED (
        SELECT started_at, ended_at, outcome, missed, sent_bytes FROM run
        WHERE vm_id = (SELECT id FROM vm WHERE name = :vm) AND started_at >= :known_from
    ),
"""
_COUNTS = f"""
    {_KNOWN}
    ended AS (
        SELECT *, max(0, ended_at - started_at) AS took FROM known WHERE ended_at > :since AND ended_at <= :until
    ),
    done AS (SELECT * FROM ended WHERE outcome = '{Outcome.DONE}')
    SELECT
        (SELECT count(*) FROM done),
        (SELECT count(*) FROM ended WHERE outcome NOT IN ('{Outcome.DONE}', '{Outcome.INTERRUPTED}')),
        (SELECT count(*) FROM ended WHERE outcome = '{Outcome.INTERRUPTED}'),
        (SELECT coalesce(sum(missed), 0) FROM known WHERE started_at > :since AND started_at <= :until),
        (SELECT coalesce(sum(sent_bytes), 0) FROM done),
        (SELECT coalesce(max(sent_bytes), 0) FROM done),
        (SELECT coalesce(sum(took), 0) FROM done),
        (SELECT coalesce(max(took), 0) FROM done),
        (SELECT min(started_at) FROM known)
"""  # noqa: S608 - our own words
_KEPT = f"""
    {_KNOWN}
    committed AS (
        SELECT ended_at AS at, started_at AS shows,
            lead(ended_at, 1, :until) OVER (ORDER BY ended_at, started_at) AS superseded_at
        FROM known WHERE outcome = '{Outcome.DONE}' AND ended_at IS NOT NULL
    )
    SELECT coalesce(sum(max(0, min(superseded_at, shows + :objective, :until) - max(at, :begin))), 0) FROM committed
"""  # noqa: S608 - our own words


def statistics(connection: Connection, vm: str, rpo_s: int | None, since: datetime, until: datetime) -> Statistics:
    """Those of `summarise`, of the VM's runs that began so long before `since` as `until` is after it, or later."""
    begin, end = to_microseconds(since), to_microseconds(until)
    values: dict[str, str | int] = {"vm": vm, "known_from": begin - (end - begin), "since": begin, "until": end}
    row: tuple[Any, ...] = connection.execute(_COUNTS, values).fetchone()
    done, failed, interrupted, missed, sent_bytes, largest_sent_bytes, took, longest, first = row
    judged, kept = 0, 0
    if rpo_s is not None and first is not None and max(begin, first) < end:
        judged = end - max(begin, first)
        objective = {"begin": max(begin, first), "objective": rpo_s * 1_000_000}
        ((kept,),) = connection.execute(_KEPT, {**values, **objective})
    return Statistics(
        since, until, done, failed, interrupted, missed, sent_bytes, largest_sent_bytes, _span(took), _span(longest),
        _span(judged), _span(kept),
    )  # fmt: skip


def _span(microseconds: int) -> timedelta:
    return timedelta(microseconds=microseconds)
