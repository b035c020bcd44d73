"""uvicorn, as a part of the daemon: no signals, no logging of its own, and an end within two seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import h11
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from replicad.service.control import Control
from replicad.service.metrics import Figures

from .application import application
from .doors import Door
from .guard import Guard
from .sessions import Sessions
from .streams import Stop

MOST_CONNECTIONS = 250
"""By one door: whoever may come by TCP can't use up the descriptors that replication needs, nor shut the other door."""
_GRACE_S = 1.2
_GRACE_BEYOND_S = 5
"""uvicorn's own, which never comes to pass."""
_KEEP_ALIVE_S = 30
_HEADER_BYTES = 32 << 10
WHOLE_REQUEST_S = 30
"""From its connection, or its first byte where others went before, to its last: who has no token may connect, too."""


async def serve(control: Control, figures: Figures, doors: Sequence[Door]) -> None:
    """Answer whoever comes by the doors, until cancelled.

    Then streams end, what is under way is answered, and after 1.2 s whoever is still connected is cut off.
    """
    stop = Stop()
    sessions = Sessions(control.steady_s)
    url = next((door.url for door in doors if door.url is not None), None)
    app = application(control, figures, stop, sessions, url)
    servers = [(_Server(_config(Guard(app, door.needs, lambda: stop.is_set, sessions))), door) for door in doors]
    tasks = [asyncio.create_task(server.serve([door.socket]), name="api server") for server, door in servers]
    try:
        # One that ends by itself has failed.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        for server, _ in servers:
            server.should_exit = True
        await _end(tasks, [server for server, _ in servers])
    for task in tasks:
        task.result()


class _Connection(H11Protocol):
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Taken, if there are not too many."""
        if len(self.connections) < MOST_CONNECTIONS:
            super().connection_made(transport)
            self._expect_the_rest()
        else:
            self.transport = transport
            transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_the_rest()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def _expect_the_rest(self) -> None:
        """Of a request: so long, however slowly it comes."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._expect_nothing()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(WHOLE_REQUEST_S, self.transport.abort)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Server(Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The daemon has handlers of its own."""
        yield

    def cut_off(self) -> None:
        """Whoever is connected."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()


def _config(app: Guard) -> Config:
    return Config(
        app,
        loop="none",
        http=_Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_BEYOND_S,
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )


async def _end(tasks: Sequence[asyncio.Task[None]], servers: Sequence[_Server]) -> None:
    """Wait for all, for so long; then there is nothing left to wait for."""
    _, late = await asyncio.wait(tasks, timeout=_GRACE_S)
    while late:
        for server in servers:
            server.cut_off()
        _, late = await asyncio.wait(late, timeout=0.1)
