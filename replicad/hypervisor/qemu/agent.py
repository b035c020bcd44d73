"""The agent inside the guest, which can have its file systems stand still (qemu-ga, over its own socket)."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from replicad.model.errors import BusyError, IntegrityError, TimedOutError, UnreachableError

from . import sockets

_SYNC_TIMEOUT_S = 5.0
"""An agent that runs answers at once; nobody else does."""
_MAX_ANSWER_BYTES = 1024 * 1024
_RESET = b"\xff"
"""Has the agent forget what an earlier client left half said, and stands before its answer."""


class Agent:
    """The agent at one socket. `timeout_s` is for each of its commands."""

    def __init__(self, executor: Executor, path: Path, timeout_s: float) -> None:
        self._executor = executor
        self.path = path
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AgentSession]:
        """A connection to an agent that was seen to answer.

        TimedOutError if none does; what `sockets.connect` raises.
        """
        subject = f"the guest agent {self.path}"
        connected = await sockets.connect(self._executor, self.path, "the guest agent")
        try:
            reader, writer = await asyncio.open_unix_connection(sock=connected, limit=_MAX_ANSWER_BYTES)
        except BaseException:
            connected.close()
            raise
        try:
            session = AgentSession(reader, writer, subject, self._timeout_s)
            await session.synchronise()
            yield session
        finally:
            writer.transport.abort()  # nothing is left to be sent that anybody should hear


class AgentSession:
    """Commands to the agent, in step with its answers. One that was not answered as it should be, or was cancelled,
    ends the connection: what comes later would be taken for the answer to something else. Then all fail."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, subject: str, timeout_s: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._subject = subject
        self._timeout_s = timeout_s
        self._in_step = True

    async def synchronise(self) -> None:
        """See that the agent answers, and pass over what it may still have to say to others."""
        number = secrets.randbelow(2**31)
        command = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        async with self._within(_SYNC_TIMEOUT_S, "reach"):
            await self._send(_RESET + json.dumps(command).encode())
            while True:
                await self._reader.readuntil(_RESET)
                if await self._answer("reach") == number:
                    return

    async def freeze(self) -> int:
        """Have all file systems of the guest written out and stand still: how many they are."""
        return await self._count("guest-fsfreeze-freeze", "freeze the file systems by")

    async def thaw(self) -> int:
        """Have them go on: how many they were. Fine if none stood still."""
        return await self._count("guest-fsfreeze-thaw", "thaw the file systems by")

    async def is_frozen(self) -> bool:
        """Whether they stand still."""
        return bool(await self._call("guest-fsfreeze-status", "ask") == "frozen")

    async def _count(self, command: str, op: str) -> int:
        answer = await self._call(command, op)
        if not isinstance(answer, int):
            raise IntegrityError(op, self._subject, f"its answer is no number: {answer!r:.100}")
        return answer

    async def _call(self, command: str, op: str) -> Any:
        if not self._in_step:
            raise UnreachableError(op, self._subject, "the connection was given up")
        async with self._within(self._timeout_s, op):
            await self._send(json.dumps({"execute": command}).encode())
            return await self._answer(op)

    async def _send(self, data: bytes) -> None:
        self._writer.write(data + b"\n")
        await self._writer.drain()

    async def _answer(self, op: str) -> Any:
        line = await self._reader.readuntil(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise IntegrityError(op, self._subject, f"its answer makes no sense: {line[:100]!r}")
        if isinstance(error := answer.get("error"), dict):
            self._in_step = True
            raise BusyError(op, self._subject, f"it says: {error.get('desc', '')!s:.300}")
        if "return" not in answer:
            raise IntegrityError(op, self._subject, f"its answer makes no sense: {line[:100]!r}")
        self._in_step = True
        return answer["return"]

    @asynccontextmanager
    async def _within(self, timeout_s: float, op: str) -> AsyncIterator[None]:
        self._in_step = False
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError as error:
            hint = "Is the agent (qemu-ga) installed and running in the guest?"
            raise TimedOutError(op, self._subject, f"no answer within {timeout_s:g} s", hint) from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise UnreachableError(op, self._subject, "the connection was lost") from error
        except asyncio.LimitOverrunError as error:
            raise IntegrityError(op, self._subject, f"its answer is longer than {_MAX_ANSWER_BYTES} bytes") from error
        finally:
            if not self._in_step:
                self._writer.transport.abort()  # its socket serves one client at a time
