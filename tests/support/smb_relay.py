"""A TCP relay on the event loop between an SMB client and its server, that counts, freezes, cuts and tampers."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

Tamper = Callable[[bytes], bytes | list[bytes]]
Alter = Callable[[bytes], bytes]
Listen = Callable[[bytes], None]


def _open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


class SmbRelay:
    """What passes between the two. Use `smb_relay`."""

    def __init__(self, host: str, port: int, tamper: Tamper | None, listen: Listen | None, alter: Alter | None) -> None:
        self._host = host
        self._port = port
        self._tamper = tamper
        self._listen = listen
        self._alter = alter
        self._flowing = _open_gate()
        self._frozen: list[asyncio.Event] = []
        self._answers_flow = False
        self._holding_ends = False
        self._clients: list[asyncio.StreamWriter] = []
        self._writers: dict[int, list[asyncio.StreamWriter]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.host = "127.0.0.1"
        self.port = 0
        self.to_server_bytes = 0
        self.to_client_bytes = 0
        self.connections = 0
        self.ended = 0
        self.passing = 0
        """The number, from 0, of the connection whose bytes `tamper` or `listen` is given."""
        self.carried_bytes: Counter[int] = Counter()
        """Both ways, by the number of the connection."""
        self.held_bytes: Counter[int] = Counter()
        """What clients sent that frozen connections have not passed on yet, by the number of the connection."""
        self.most_connections = 1 << 30
        """Any more are closed as soon as they are made."""

    def freeze(self, *, answers: bool = True) -> None:
        """Let nothing through any more, not even the end of a connection: what a cut cable does. Without `answers`
        those of the server still come, so that clients go on until what they send is stuck."""
        self._flowing.clear()
        self._answers_flow = not answers

    def thaw(self) -> None:
        """Let everything through again, what was held back first."""
        self._flowing.set()
        for gate in self._frozen:
            gate.set()

    def thaw_new_connections(self) -> None:
        """Let connections through that are made from now on; those of before stay frozen until `thaw`."""
        self._frozen.append(self._flowing)
        self._flowing = _open_gate()

    def hold_ends(self) -> None:
        """Don't tell the server any more when a client ends its connection."""
        self._holding_ends = True

    def lead_to(self, host: str, port: int) -> None:
        """Lead connections that are made from now on to another server."""
        self._host, self._port = host, port

    async def inject(self, message: bytes) -> None:
        """Send a message to the client of the latest connection, as if it came from the server."""
        self._clients[-1].write(struct.pack(">I", len(message)) + message)
        await self._clients[-1].drain()

    def cut(self, connection: int | None = None) -> None:
        """Reset one connection, or all, on both sides."""
        for number in list(self._writers) if connection is None else [connection]:
            for writer in self._writers.pop(number, []):
                # One that has ended on its own is closed for good, and asyncio can't reset it any more.
                if not writer.is_closing() or writer.transport.get_write_buffer_size():
                    writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number, self.connections = self.connections, self.connections + 1
        self._writers[number] = [writer]
        self._clients.append(writer)
        try:
            if number < self.most_connections:
                await self._relay(number, reader, writer, self._flowing)
        except* OSError:
            pass  # one side ended it; the other one is told by closing
        except* asyncio.CancelledError:
            pass  # by `close`; Python 3.11 complains in its callback if this task is cancelled
        finally:
            writer.close()
            self._tasks.discard(task)
            self.ended += 1

    async def _relay(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        await gate.wait()
        server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        self._writers.get(number, []).append(server_writer)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._upstream(number, reader, server_writer, gate))
            group.create_task(self._downstream(number, server_reader, writer, gate))

    async def _upstream(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        while data := await self._next(reader):
            self.held_bytes[number] += len(data)
            await gate.wait()
            self.held_bytes[number] -= len(data)
            self.to_server_bytes += len(data)
            self.carried_bytes[number] += len(data)
            if self._listen is not None:
                self.passing = number
                self._listen(data)
            writer.write(data)
            await writer.drain()
        await gate.wait()
        if not self._holding_ends:
            writer.close()

    async def _next(self, reader: asyncio.StreamReader) -> bytes:
        """What the client sends next; empty at the end."""
        if self._alter is None:
            return await reader.read(1 << 18)
        with suppress(asyncio.IncompleteReadError):
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            message = self._alter(await reader.readexactly(length))
            return struct.pack(">I", len(message)) + message
        return b""

    async def _downstream(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(4)
                message = await reader.readexactly(struct.unpack(">I", head)[0])
                if not self._answers_flow:
                    await gate.wait()
                self.passing = number
                passed = message if self._tamper is None else self._tamper(message)
                for one in [passed] if isinstance(passed, bytes) else passed:
                    self.to_client_bytes += 4 + len(one)
                    self.carried_bytes[number] += 4 + len(one)
                    writer.write(struct.pack(">I", len(one)) + one)
                    await writer.drain()
        await gate.wait()
        writer.close()

    async def close(self) -> None:
        """End all that is under way."""
        self.cut()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def smb_relay(
    host: str,
    port: int,
    tamper: Tamper | None = None,
    listen: Listen | None = None,
    *,
    alter: Alter | None = None,
) -> AsyncIterator[SmbRelay]:
    """A relay on a free port of loopback.

    `tamper` is given each SMB message of the server and returns another, or those to pass on now, in their order.
    `listen` is given what the client sends, as it comes; `alter` each of its SMB messages, and returns another.
    """
    relay = SmbRelay(host, port, tamper, listen, alter)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        await relay.close()
