"""The cycle that somebody has asked for, from the waiting to its end, as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from replicad.model.errors import NotFoundError
from replicad.model.runs import Run
from replicad.service.control import Control
from replicad.service.supervisor import Glance

from .shapes import progress_shape, run_shape
from .streams import Stop, event
from .waiting import Said, Told, Waiting, until_done


async def follow(
    control: Control, vm: str, before: Run | None, asked: asyncio.Future[Run], stop: Stop
) -> AsyncGenerator[str, None]:
    """What becomes of the cycle `asked` for, at most four times a second, and last how it ended or why none will begin.

    `before` is the cycle that was under way when it was asked for. To leave does not stop the cycle.
    """
    told = Told()
    try:
        async with aclosing(until_done(asked, stop, lambda: _news(_look(control, vm), before, told))) as pieces:
            async for piece in pieces:
                yield piece
        glance = _look(control, vm)
        if not asked.done() or asked.cancelled():
            text = "the daemon is stopping" if stop.is_set else _why_none(glance)
            yield event("cancelled", Said(text=f"{text}: the cycle does not begin now"))
            return
        for warning in told.new_warnings(glance.warnings if glance is not None else ()):
            yield warning
        yield event("ended", run_shape(asked.result()))
    finally:
        asked.cancel()


def _news(glance: Glance | None, before: Run | None, told: Told) -> list[str]:
    """What has become another since the last look."""
    if glance is None:
        return []
    run, progress = glance.run, glance.progress
    has_begun = run is not None and (before is None or run.started_at != before.started_at)
    if not has_begun or progress is None:
        behind = progress.phase if run is not None and progress is not None else None
        return told.if_new(event("waiting", Waiting(behind=behind)))
    return [*told.new_warnings(glance.warnings), *told.if_new(event("progress", progress_shape(progress)))]


def _look(control: Control, vm: str) -> Glance | None:
    try:
        return control.look(vm)
    except NotFoundError:
        return None


def _why_none(glance: Glance | None) -> str:
    if glance is None:
        return "the machine is not in the configuration any more"
    return "the machine was paused" if glance.agenda.paused_at is not None else "nobody runs cycles any more"
