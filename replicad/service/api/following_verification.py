"""A verification that somebody has asked for, until its end, as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime

from pydantic import BaseModel

from replicad.model.errors import NotFoundError
from replicad.model.verification import VerificationOutcome
from replicad.service.control import Control
from replicad.service.verifying import End
from replicad.service.watch import Progress
from replicad.workflows.damage import Damage

from .shapes import progress_shape
from .streams import Stop, event
from .waiting import Said, Told, Waiting, until_done


class DamageShape(BaseModel):
    """Something on the share that was not what it must be."""

    part: str
    file: str
    reason: str
    affects: str
    points: list[int]
    chunks: list[int]
    repaired: bool
    not_repaired: str | None


class ErrorFound(BaseModel):
    """Why it could not be done; `exit_code` as of the command line."""

    kind: str
    exit_code: int


class VerificationEndShape(BaseModel):
    """How it ended; `points` and what follows are of one that could be done."""

    vm: str
    at: datetime
    outcome: VerificationOutcome
    text: str | None
    error: ErrorFound | None
    points: list[int]
    damaged_points: list[int]
    read_bytes: int
    damages: list[DamageShape]
    leftovers: list[str]


async def follow_verification(
    control: Control, vm: str, asked: asyncio.Future[End], stop: Stop
) -> AsyncGenerator[str, None]:
    """What becomes of the verification, at most four times a second, and last how it ended or why it will not be done.

    To leave does not stop it.
    """
    told = Told()
    try:
        async with aclosing(until_done(asked, stop, lambda: _news(control, vm, told))) as pieces:
            async for piece in pieces:
                yield piece
        if not asked.done() or asked.cancelled():
            why = "the daemon is stopping" if stop.is_set else "the machine was paused, or is not configured any more"
            yield event("cancelled", Said(text=f"{why}: the verification does not come to its end now"))
            return
        for warning in told.new_warnings(_look(control, vm)[1]):
            yield warning
        yield event("ended", _end_shape(vm, asked.result()))
    finally:
        asked.cancel()


def _news(control: Control, vm: str, told: Told) -> list[str]:
    """What has become another since the last look."""
    progress, warnings = _look(control, vm)
    if progress is None:
        return told.if_new(event("waiting", Waiting(behind=None)))
    return [*told.new_warnings(warnings), *told.if_new(event("progress", progress_shape(progress)))]


def _look(control: Control, vm: str) -> tuple[Progress | None, tuple[str, ...]]:
    try:
        return control.look_at_verification(vm)
    except NotFoundError:
        return None, ()


def _end_shape(vm: str, end: End) -> VerificationEndShape:
    found, result, error = end.found, end.result, end.error
    return VerificationEndShape(
        vm=vm,
        at=result.at,
        outcome=result.outcome,
        text=result.text,
        error=ErrorFound(kind=type(error).__name__, exit_code=error.exit_code) if error is not None else None,
        points=found.points if found else [],
        damaged_points=found.damaged_points if found else [],
        read_bytes=result.read_bytes,
        damages=[_damage_shape(damage) for damage in found.damages] if found else [],
        leftovers=found.leftovers if found else [],
    )


def _damage_shape(damage: Damage) -> DamageShape:
    return DamageShape(
        part=damage.part.value,
        file=damage.file,
        reason=damage.reason,
        affects=damage.costs,
        points=list(damage.points),
        chunks=list(damage.chunks),
        repaired=damage.repaired,
        not_repaired=damage.not_repaired or None,
    )
