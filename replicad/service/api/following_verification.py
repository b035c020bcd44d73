"""A verification that somebody has asked for, until its end, as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime

from pydantic import BaseModel

from replicad.model.errors import NotFoundError
from replicad.model.verification import VerificationOutcome
from replicad.service.control import Control
from replicad.service.verifying import End
from replicad.workflows.damage import Damage

from .following import LAST_WORD_S, Said, Waiting, until
from .shapes import progress_shape
from .streams import COMMENT, QUIET_S, Stop, event

_EVERY_S = 0.25


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
    last, told, quiet_s = "", set[str](), 0.0
    try:
        while not asked.done() and not stop.is_set:
            pieces = _look(control, vm, told)
            pieces, last = [piece for piece in pieces if piece != last], pieces[-1]
            quiet_s = 0.0 if pieces else quiet_s + _EVERY_S
            if quiet_s >= QUIET_S:
                pieces, quiet_s = [COMMENT], 0.0
            for piece in pieces:
                yield piece
            await until(asked, stop, _EVERY_S)
        if not asked.done():
            await asyncio.wait({asked}, timeout=LAST_WORD_S)
        if not asked.done() or asked.cancelled():
            why = "the daemon is stopping" if stop.is_set else "the machine was paused, or is not configured any more"
            yield event("cancelled", Said(text=f"{why}: the verification does not come to its end now"))
            return
        for piece in _look(control, vm, told)[:-1]:
            yield piece
        yield event("ended", _end_shape(vm, asked.result()))
    finally:
        asked.cancel()


def _look(control: Control, vm: str, told: set[str]) -> list[str]:
    """New warnings, and last how far it is."""
    try:
        progress, warnings = control.look_at_verification(vm)
    except NotFoundError:
        return [COMMENT]
    if progress is None:
        return [event("waiting", Waiting(behind=None))]
    new = [text for text in warnings if text not in told]
    told.update(new)
    return [*(event("warning", Said(text=text)) for text in new), event("progress", progress_shape(progress))]


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
