"""The cycle that somebody has asked for, from the waiting to its end, as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from pydantic import BaseModel

from replicad.model.errors import NotFoundError
from replicad.model.runs import Run
from replicad.service.control import Control
from replicad.service.supervisor import Glance

from .shapes import progress_shape, run_shape
from .streams import COMMENT, QUIET_S, Stop, event

T = TypeVar("T")

_EVERY_S = 0.25
LAST_WORD_S = 0.7
"""How long to wait for the end of a cycle that a stopping daemon breaks off."""


class Waiting(BaseModel):
    """`behind` is the phase of the cycle that is under way before it; None: it waits for a place."""

    behind: str | None


class Said(BaseModel):
    """A sentence."""

    text: str


async def follow(
    control: Control, vm: str, before: Run | None, asked: asyncio.Future[Run], stop: Stop
) -> AsyncGenerator[str, None]:
    """What becomes of the cycle `asked` for, at most four times a second, and last how it ended or why none will begin.

    `before` is the cycle that was under way when it was asked for. To leave does not stop the cycle.
    """
    teller = _Teller(before)
    try:
        quiet_s = 0.0
        while not asked.done() and not stop.is_set:
            pieces = teller.look(_look(control, vm))
            quiet_s = 0.0 if pieces else quiet_s + _EVERY_S
            if quiet_s >= QUIET_S:
                pieces, quiet_s = [COMMENT], 0.0
            for piece in pieces:
                yield piece
            await until(asked, stop, _EVERY_S)
        if not asked.done():
            await asyncio.wait({asked}, timeout=LAST_WORD_S)
        if not asked.done() or asked.cancelled():
            text = "the daemon is stopping" if stop.is_set else _why_none(_look(control, vm))
            yield event("cancelled", Said(text=f"{text}: the cycle does not begin now"))
            return
        run = asked.result()
        for warning in teller.warnings_not_told(_look(control, vm)):
            yield warning
        yield event("ended", run_shape(run))
    finally:
        asked.cancel()


class _Teller:
    """Tells what has become another since the last look."""

    def __init__(self, before: Run | None) -> None:
        self._before = before
        self._last = ""
        self._warnings: set[str] = set()
        self._begun = False

    def look(self, glance: Glance | None) -> list[str]:
        if glance is None:
            return []
        run, progress = glance.run, glance.progress
        self._begun = run is not None and (self._before is None or run.started_at != self._before.started_at)
        if not self._begun or progress is None:
            behind = progress.phase if run is not None and progress is not None else None
            return self._if_new(event("waiting", Waiting(behind=behind)))
        return [*self.warnings_not_told(glance), *self._if_new(event("progress", progress_shape(progress)))]

    def warnings_not_told(self, glance: Glance | None) -> list[str]:
        new = [text for text in glance.warnings if text not in self._warnings] if glance is not None else []
        self._warnings.update(new)
        return [event("warning", Said(text=text)) for text in new]

    def _if_new(self, piece: str) -> list[str]:
        if piece == self._last:
            return []
        self._last = piece
        return [piece]


def _look(control: Control, vm: str) -> Glance | None:
    try:
        return control.look(vm)
    except NotFoundError:
        return None


def _why_none(glance: Glance | None) -> str:
    if glance is None:
        return "the machine is not in the configuration any more"
    return "the machine was paused" if glance.agenda.paused_at is not None else "nobody runs cycles any more"


async def until(asked: asyncio.Future[T], stop: Stop, timeout_s: float) -> None:
    stopping = asyncio.ensure_future(stop.wait())
    either: set[asyncio.Future[Any]] = {asked, stopping}
    try:
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
