"""Server-sent events (WHATWG HTML, 9.2), for as long as somebody listens and the daemon lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

QUIET_S = 15.0
"""After so long without an event a comment shows that the stream still lives."""
COMMENT = ":\n\n"


def event(name: str, data: BaseModel) -> str:
    """One event; JSON has no line ends in it."""
    return f"event: {name}\ndata: {data.model_dump_json()}\n\n"


class EventStream(Response):
    """What a generator gives, each piece as soon as the one before is out: who reads slowly makes it wait. It is closed
    at the end, and when the listener leaves."""

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[str, None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
        del self.headers["content-length"]
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def tell() -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        async def leave() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        telling, leaving = asyncio.create_task(tell()), asyncio.create_task(leave())
        try:
            await asyncio.wait({telling, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (telling, leaving):
                task.cancel()
            await asyncio.wait({telling, leaving})
            # The generator may not have been begun.
            await self._pieces.aclose()
        if not telling.cancelled():
            telling.result()


class Stop:
    """Whether the daemon is stopping, for all streams to see."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def is_set(self) -> bool:
        """Whether it is."""
        return self._event.is_set()

    def set(self) -> None:
        """From now on it is."""
        self._event.set()

    async def wait(self) -> None:
        """Until it is."""
        await self._event.wait()
