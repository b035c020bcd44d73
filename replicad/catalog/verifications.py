"""What is known of the verifications of each VM's replica, in the catalog. Blocking, each within the caller's
transaction."""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection

from replicad.model.verification import VerificationOutcome, VerificationPlan, VerificationResult

from .rows import (
    SenselessRowError,
    Value,
    as_integer,
    as_optional_time,
    as_text,
    as_time,
    as_word,
    optional_microseconds,
    storable,
    to_microseconds,
)

_LAST = ("last_at", "last_outcome", "last_text", "last_damaged_chunks", "last_read_bytes", "last_duration_us")
_DAMAGE = ("damage_at", "damage_text", "damage_chunks", "damage_read_bytes", "damage_duration_us")
COLUMNS = ("vm", "due_at", "retry_at", "requested_at", "repair_requested", "failures", "sound_at", *_LAST, *_DAMAGE)
_READ = f"SELECT {', '.join(COLUMNS)} FROM verification"  # noqa: S608 - our own columns
_SAVE = f"INSERT OR REPLACE INTO verification ({', '.join(COLUMNS)}) VALUES (?{', ?' * (len(COLUMNS) - 1)})"  # noqa: S608 - as above


def read_plans(connection: Connection) -> dict[str, VerificationPlan]:
    """All of them, by VM. SenselessRowError."""
    plans = (plan_of(row) for row in connection.execute(_READ))
    return {plan.vm: plan for plan in plans}


def save(connection: Connection, plan: VerificationPlan) -> None:
    """Put it in the place of the one there was."""
    connection.execute(_SAVE, plan_values(plan))


def remove(connection: Connection, vm: str) -> None:
    """Fine if there is none."""
    connection.execute("DELETE FROM verification WHERE vm = ?", (vm,))


def plan_values(plan: VerificationPlan) -> tuple[Value, ...]:
    """What `COLUMNS` hold."""
    last = _result_values(plan.last)
    damage = _result_values(plan.damage)
    return (
        plan.vm, optional_microseconds(plan.due_at), optional_microseconds(plan.retry_at),
        optional_microseconds(plan.requested_at), int(plan.repair_requested), plan.failures,
        optional_microseconds(plan.sound_at), *last, damage[0], *damage[2:],
    )  # fmt: skip


def plan_of(row: Sequence[object]) -> VerificationPlan:
    """The plan in a row of `COLUMNS`. SenselessRowError."""
    vm, due_at, retry_at, requested_at, repair_requested, failures, sound_at, *rest = row
    last, (at, *damage) = rest[: len(_LAST)], rest[len(_LAST) :]
    return VerificationPlan(
        vm=as_text(vm),
        due_at=as_optional_time(due_at),
        retry_at=as_optional_time(retry_at),
        requested_at=as_optional_time(requested_at),
        repair_requested=bool(as_integer(repair_requested)),
        failures=as_integer(failures),
        last=_result_of(last),
        damage=_result_of([at, VerificationOutcome.DAMAGED, *damage]),
        sound_at=as_optional_time(sound_at),
    )


def _result_values(result: VerificationResult | None) -> tuple[Value, ...]:
    if result is None:
        return (None,) * len(_LAST)
    text = None if result.text is None else storable(result.text)
    return (
        to_microseconds(result.at), result.outcome, text, result.damaged_chunks, result.read_bytes,
        round(result.duration_s * 1e6),
    )  # fmt: skip


def _result_of(row: Sequence[object]) -> VerificationResult | None:
    at, outcome, text, damaged_chunks, read_bytes, duration_us = row
    if at is None:
        return None
    if (duration := as_integer(duration_us)) < 0:
        raise SenselessRowError(f"{duration} is no duration")
    return VerificationResult(
        at=as_time(at),
        outcome=as_word(VerificationOutcome, outcome, VerificationOutcome.FAILED),
        text=None if text is None else as_text(text),
        damaged_chunks=as_integer(damaged_chunks),
        read_bytes=as_integer(read_bytes),
        duration_s=duration / 1e6,
    )
