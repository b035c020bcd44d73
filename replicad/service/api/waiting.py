"""Work that somebody has asked for and waits for: what streams tell of it until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, TypeVar

from pydantic import BaseModel

from .streams import COMMENT, QUIET_S, Stop, event

T = TypeVar("T")

_EVERY_S = 0.25
_LAST_WORD_S = 0.7
"""How long to wait for the end of work that a stopping daemon breaks off."""


class Waiting(BaseModel):
    """`behind` is the phase of the cycle that is under way before it; None: it waits for a place."""

    behind: str | None


class Said(BaseModel):
    """A sentence."""

    text: str


class Told:
    """What a stream has told already."""

    def __init__(self) -> None:
        self._last = ""
        self._warnings: set[str] = set()

    def if_new(self, piece: str) -> list[str]:
        """The piece, unless it is as the last one was."""
        if piece == self._last:
            return []
        self._last = piece
        return [piece]

    def new_warnings(self, warnings: Iterable[str]) -> list[str]:
        """Events for those that were not told yet."""
        new = [text for text in warnings if text not in self._warnings]
        self._warnings.update(new)
        return [event("warning", Said(text=text)) for text in new]


async def until_done(
    asked: asyncio.Future[Any], stop: Stop, look: Callable[[], list[str]]
) -> AsyncGenerator[str, None]:
    """What `look` finds to tell, at most four times a second, until the work is done, or the daemon stops and it had
    the time for its last word; now and then a comment where there is nothing to tell."""
    quiet_s = 0.0
    while not asked.done() and not stop.is_set:
        pieces = look()
        quiet_s = 0.0 if pieces else quiet_s + _EVERY_S
        if quiet_s >= QUIET_S:
            pieces, quiet_s = [COMMENT], 0.0
        for piece in pieces:
            yield piece
        await _until(asked, stop, _EVERY_S)
    if not asked.done():
        await asyncio.wait({asked}, timeout=_LAST_WORD_S)


async def _until(asked: asyncio.Future[T], stop: Stop, timeout_s: float) -> None:
    stopping = asyncio.ensure_future(stop.wait())
    either: set[asyncio.Future[Any]] = {asked, stopping}
    try:
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
