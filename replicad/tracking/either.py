"""Two ways to see a moment, of which the second is for where the first can't be had at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from replicad.model.errors import UnsupportedError

from .port import Instant, Request, Seen, SelectedFile, View


@dataclass(frozen=True, slots=True)
class EitherView:
    """A `View`: the first one, or, if that is unsupported, the second. They select the same files."""

    first: View
    second: View

    async def select(self) -> tuple[SelectedFile, ...]:
        return await self.first.select()

    @asynccontextmanager
    async def open(self, request: Request, instant: Instant) -> AsyncIterator[Seen]:
        once = _Once(instant)
        async with AsyncExitStack() as stack:
            try:
                seen = await stack.enter_async_context(self.first.open(request, once))
            except UnsupportedError:
                seen = await stack.enter_async_context(self.second.open(request, once))
            yield seen


class _Once:
    """An instant whose beginning is told once. It begins early enough for both views."""

    def __init__(self, inner: Instant) -> None:
        self._inner = inner
        self._told = False

    async def before(self, files: Sequence[SelectedFile]) -> None:
        if not self._told:
            self._told = True
            await self._inner.before(files)

    async def after(self) -> None:
        await self._inner.after()
