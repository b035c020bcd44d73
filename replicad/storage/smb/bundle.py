"""The connections to one server: the main link, and extra ones beside it that carry nothing but bulk data.

A server that serves each connection with a process of its own, as Samba does, so gets to use several processors. Each
link has its own session: the channels of one session (MS-SMB2 §3.2.4.1.7) would all end up in one process of Samba's.

The links stand or fall together. The writes of a process must all be over once its lock is another's, whichever link
they went over, and that can only be told of all links at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from replicad.model.errors import ReplicadError, UnreachableError

from .link import Link
from .transport import SocketAddress

Dial = Callable[[SocketAddress], Awaitable[Link]]
"""Connects to that address of the server, and signs in."""


class Bundle:
    """The links to one server. The extra ones are made when `settle` is first called, and never again."""

    def __init__(self, main: Link, dial: Dial, warn: Callable[[str], None] = lambda text: None) -> None:
        self.main = main
        self.links: tuple[Link, ...] = (main,)
        """The main one first."""
        self._dial = dial
        self._warn = warn
        self._settling = asyncio.Lock()
        self._settled = False
        self._closed = False

    @property
    def condemned(self) -> str:
        """Why they are of no more use; empty while they are."""
        return self.main.condemned

    @property
    def session_ids(self) -> tuple[int, ...]:
        """The server's numbers of all sessions, that of the main link, whose locks are to go last, at the end."""
        return tuple(link.session_id for link in reversed(self.links))

    @property
    def may_grow(self) -> bool:
        """Whether nobody has called `settle` yet."""
        return not self._settled and not self._settling.locked()

    async def settle(self) -> None:
        """Make the extra links, one after the other, if that was not tried before: after that `links` stay the same.

        The first failure leaves it at those that there are: a sign-in that was refused must not be tried again, and a
        server may take one connection only.
        """
        async with self._settling:
            try:
                while not self._settled and len(self.links) < self.main.endpoint.connections:
                    await self._grow()
            except ReplicadError as error:
                if not self.condemned:
                    count = f"{len(self.links)} of {self.main.endpoint.connections}"
                    self._warn(f"Only {count} connections to {self.main.server} could be made: {error.answer}.")
            except asyncio.CancelledError:
                raise  # which is no answer of the server's: whoever calls next goes on
            except BaseException:
                self._settled = True
                raise
            self._settled = True

    async def _grow(self) -> None:
        main, op = self.main, "connect once more to"
        try:
            address = main.connection.address
        except OSError:
            raise UnreachableError(op, main.server, "the first connection to it was lost") from None
        link = await self._dial(address)
        try:
            if link.connection.server_guid != main.connection.server_guid:
                raise UnreachableError(op, main.server, "another server answers there")
            if self._closed:
                raise UnreachableError(op, main.server, "it was closed")
        except ReplicadError:
            await link.close()
            raise
        link.connection.stand_or_fall_with(main.connection)
        self.links = (*self.links, link)

    async def close(self) -> None:
        """Sign out everywhere at once, so that on return the server has closed our files and freed our locks; then
        disconnect. Bounded, and never raises because of a lost connection."""
        self._closed = True
        try:
            async with asyncio.TaskGroup() as tasks:
                for link in self.links:
                    tasks.create_task(link.sign_out())
        finally:
            self.discard()

    def discard(self) -> None:
        """Disconnect, and give back what the links hold here. Can be called again."""
        self._closed = True
        for link in self.links:
            link.discard()
