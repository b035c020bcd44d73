"""QEMU's monitor and the guest's agent, asked by the tests themselves."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TIMEOUT_S = 60


class RefusedError(Exception):
    """The other side answered with an error."""


@dataclass(frozen=True, slots=True)
class Monitor:
    """A connection to a monitor or an agent; events are passed over."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def execute(self, command: str, **arguments: Any) -> Any:
        """What it returns; raises `RefusedError`."""
        request = {"execute": command, "arguments": {name.replace("_", "-"): it for name, it in arguments.items()}}
        self.writer.write(json.dumps(request).encode() + b"\n")
        async with asyncio.timeout(_TIMEOUT_S):
            await self.writer.drain()
            while True:
                answer = await self.answer()
                if "error" in answer:
                    raise RefusedError(f"{command}: {answer['error']['desc']}")
                if "return" in answer:
                    return answer["return"]

    async def answer(self) -> dict[str, Any]:
        """The next that it says."""
        line = await self.reader.readline()
        if not line:
            raise ConnectionError("the monitor has gone away")
        answer: dict[str, Any] = json.loads(line.lstrip(b"\xff"))
        return answer


@asynccontextmanager
async def monitor(path: Path) -> AsyncIterator[Monitor]:
    """A connection to a monitor's socket, which takes one at a time."""
    async with _connected(path) as connection:
        async with asyncio.timeout(_TIMEOUT_S):
            await connection.answer()  # the greeting
        await connection.execute("qmp_capabilities")
        yield connection


@asynccontextmanager
async def agent(path: Path) -> AsyncIterator[Monitor]:
    """A connection to the guest's agent, which takes one at a time; it waits until the agent has started."""
    async with _connected(path) as connection:
        # What an earlier client asked for may still be answered: that ends with the answer to this.
        connection.writer.write(b'\xff{"execute": "guest-sync-delimited", "arguments": {"id": 20260523}}\n')
        async with asyncio.timeout(_TIMEOUT_S):
            while (await connection.answer()).get("return") != 20260523:
                pass
        yield connection


@asynccontextmanager
async def _connected(path: Path) -> AsyncIterator[Monitor]:
    reader, writer = await asyncio.open_unix_connection(path, limit=16 * 1024 * 1024)
    try:
        yield Monitor(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):  # it is gone already
            await writer.wait_closed()
