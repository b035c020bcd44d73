"""Reading one of QEMU's exports over a Unix socket."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from pathlib import Path

from replicad.model.errors import BusyError, ReplicadError, TimedOutError, UnreachableError
from replicad.model.extents import Extent, clip, gaps, normalise

from . import nbd, sockets

_TIMEOUT_S = 60.0
"""For one request: what QEMU reads for it comes from a disk of this host."""
_CONNECTIONS = 3
"""As many as readers read at a time."""
_SERVER = "QEMU's NBD server"


class NbdExport:
    """One export, over a few connections, each with one request under way. Close it in the end."""

    def __init__(self, executor: Executor, path: Path, name: str, contexts: Sequence[str]) -> None:
        self._executor = executor
        self._path = path
        self._name = name
        self._contexts = tuple(contexts)
        self._room = asyncio.Semaphore(_CONNECTIONS)
        self._idle: list[_Connection] = []
        self._closed = False

    async def size_bytes(self) -> int:
        """How large it is."""
        async with self._connection() as connection:
            return connection.size_bytes

    async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; how many bytes there were, fewer only at the end.

        BusyError if the server could not read them; the connection's errors.
        """
        view = memoryview(buffer).cast("B")
        async with self._connection() as connection:
            length = max(0, min(len(view), connection.size_bytes - offset))
            for start in range(0, length, nbd.MAX_READ_BYTES):
                await connection.read(view[start : min(length, start + nbd.MAX_READ_BYTES)], offset + start)
            return length

    async def extents(self, context: str, flag: int, below_bytes: int | None = None) -> list[Extent]:
        """The normal sequence of extents whose flags in a context have this bit. What lies beyond `below_bytes` is not
        asked for."""
        found: list[Extent] = []
        async with self._connection() as connection:
            end = min(connection.size_bytes, connection.size_bytes if below_bytes is None else below_bytes)
            position = 0
            while position < end:
                length = min(nbd.MAX_STATUS_BYTES, end - position)
                told = await connection.status(context, position, length)
                found += [extent for extent, flags in told if flags & flag]
                position = told[-1][0].end_bytes
            return clip(normalise(found), end)

    async def close(self) -> None:
        """End all connections."""
        self._closed = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        async with self._room:
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    yield connection
            except TimeoutError as error:
                connection.close()
                raise TimedOutError("read from", _SERVER, f"no answer within {_TIMEOUT_S:g} s") from error
            except BaseException:
                connection.close()  # an answer may be half read
                raise
            if self._closed:
                connection.close()
            else:
                self._idle.append(connection)

    async def _connect(self) -> _Connection:
        connection = _Connection(await sockets.connect(self._executor, self._path, _SERVER))
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await connection.negotiate(self._name, self._contexts)
        except TimeoutError as error:
            connection.close()
            raise TimedOutError("connect to", _SERVER, f"no answer within {_TIMEOUT_S:g} s") from error
        except BaseException:
            connection.close()
            raise
        return connection


class _Connection:
    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._cookies = itertools.count(1)
        self._contexts: dict[str, int] = {}
        self.size_bytes = 0

    def close(self) -> None:
        self._socket.close()

    async def negotiate(self, export: str, contexts: Sequence[str]) -> None:
        await self._send(nbd.check_greeting(await self._receive(nbd.GREETING.size)))
        await self._send(nbd.option(nbd.STRUCTURED_REPLY))
        await self._answers(nbd.STRUCTURED_REPLY)
        if contexts:
            await self._send(nbd.contexts_option(export, contexts))
            told = [
                nbd.parse_context(data) for reply, data in await self._answers(nbd.SET_META_CONTEXT) if reply.is_context
            ]
            self._contexts = dict(told)
            if missing := [context for context in contexts if context not in self._contexts]:
                raise nbd.refuse(f"it does not tell of {missing[0]}")
        await self._send(nbd.go_option(export))
        sizes = [nbd.parse_size(data) for reply, data in await self._answers(nbd.GO) if reply.is_info]
        size = next((size for size in sizes if size is not None), None)
        if size is None:
            raise nbd.refuse("it does not tell how large the export is")
        self.size_bytes = size

    async def _answers(self, asked: int) -> list[tuple[nbd.OptionReply, bytes]]:
        found: list[tuple[nbd.OptionReply, bytes]] = []
        for _ in range(64):
            reply = nbd.parse_option_reply(await self._receive(nbd.OPTION_REPLY.size), asked)
            found.append((reply, await self._receive(reply.length_bytes)))
            if reply.over:
                return found
        raise nbd.refuse("its answer in the negotiation has no end")

    async def read(self, view: memoryview, offset: int) -> None:
        cookie = next(self._cookies)
        await self._send(nbd.request(nbd.READ, cookie, offset, len(view)))
        covered: list[Extent] = []
        pieces = 0
        while True:
            chunk = await self._chunk(cookie, len(view))
            if chunk.kind == nbd.CHUNK_DATA:
                covered.append(await self._take_data(chunk, view, offset))
            elif chunk.kind == nbd.CHUNK_HOLE:
                covered.append(await self._take_hole(view, offset))
            elif chunk.kind != nbd.CHUNK_NONE:
                raise nbd.refuse(f"a piece of kind {chunk.kind} in place of data")
            pieces += 1
            if chunk.is_last:
                break
            if pieces > len(view) + 1:
                raise nbd.refuse("its answer has no end")
        moved = [Extent(extent.offset_bytes - offset, extent.length_bytes) for extent in covered]
        if gaps(normalise(moved), len(view)) or sum(extent.length_bytes for extent in moved) != len(view):
            raise nbd.refuse("its answer is not what was asked for")

    async def _take_data(self, chunk: nbd.Chunk, view: memoryview, offset: int) -> Extent:
        if chunk.length_bytes <= nbd.DATA_PREFIX.size:
            raise nbd.refuse("data without bytes")
        (start,) = nbd.DATA_PREFIX.unpack(await self._receive(nbd.DATA_PREFIX.size))
        extent = Extent(start, chunk.length_bytes - nbd.DATA_PREFIX.size)
        await self._receive_into(_part(view, offset, extent))
        return extent

    async def _take_hole(self, view: memoryview, offset: int) -> Extent:
        extent = Extent(*nbd.HOLE.unpack(await self._receive(nbd.HOLE.size)))
        part = _part(view, offset, extent)
        part[:] = bytes(len(part))
        return extent

    async def status(self, context: str, offset: int, length: int) -> list[tuple[Extent, int]]:
        cookie = next(self._cookies)
        await self._send(nbd.request(nbd.BLOCK_STATUS, cookie, offset, length))
        found: list[tuple[Extent, int]] = []
        while True:
            chunk = await self._chunk(cookie, length)
            if chunk.kind == nbd.CHUNK_STATUS:
                data = await self._receive(chunk.length_bytes)
                if int.from_bytes(data[:4], "big") == self._contexts[context]:
                    if found:
                        raise nbd.refuse("it tells the same twice")
                    found = nbd.parse_status(data, self._contexts[context], offset, length)
            elif chunk.kind != nbd.CHUNK_NONE:
                raise nbd.refuse(f"a piece of kind {chunk.kind} in place of a block status")
            if chunk.is_last:
                break
        if not found:
            raise nbd.refuse("it told no block status")
        return found

    async def _chunk(self, cookie: int, asked_bytes: int) -> nbd.Chunk:
        """The head of the next piece of an answer; a failure is raised."""
        magic = await self._receive(nbd.CHUNK_MAGIC_BYTES)
        if nbd.is_simple(magic):
            number, of = nbd.SIMPLE_REST.unpack(await self._receive(nbd.SIMPLE_REST.size))
            if of != cookie:
                raise nbd.refuse("an answer to something that was not asked")
            if number:
                raise _failed(number, "")
            return nbd.Chunk(nbd.CHUNK_NONE, 0, is_last=True, is_error=False)
        chunk = nbd.parse_chunk(magic + await self._receive(nbd.CHUNK.size - len(magic)), cookie, asked_bytes)
        if chunk.is_error:
            raise _failed(*nbd.parse_error(await self._receive(chunk.length_bytes)))
        return chunk

    async def _send(self, data: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError as error:
            raise _lost() from error

    async def _receive(self, count: int) -> bytes:
        buffer = bytearray(count)
        await self._receive_into(memoryview(buffer))
        return bytes(buffer)

    async def _receive_into(self, view: memoryview) -> None:
        loop, done = asyncio.get_running_loop(), 0
        while done < len(view):
            try:
                count = await loop.sock_recv_into(self._socket, view[done:])
            except OSError as error:
                raise _lost() from error
            if not count:
                raise _lost()
            done += count


def _part(view: memoryview, offset: int, extent: Extent) -> memoryview:
    start = extent.offset_bytes - offset
    if start < 0 or start + extent.length_bytes > len(view):
        raise nbd.refuse("bytes that were not asked for")
    return view[start : start + extent.length_bytes]


def _failed(number: int, says: str) -> ReplicadError:
    answer = f"it failed with '{os.strerror(number)}'" + (f": {says:.200}" if says else "")
    return BusyError("read from", _SERVER, answer, "Try again later.")


def _lost() -> UnreachableError:
    return UnreachableError("read from", _SERVER, "the connection was lost", "Was the virtual machine shut down?")
