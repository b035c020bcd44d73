"""A QEMU with disks and no guest: whatever a guest would write, tests write through the same nodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicad.hypervisor.thawing import FreezeJournal
from replicad.model.clock import Clock
from replicad.model.progress import Observer
from replicad.storage.port import Share
from tests.support.files import HOLDER

_START_TIMEOUT_S = 30


def make_vhdx(path: Path, size: str = "64M", block_size: str = "1M") -> Path:
    """A new dynamic disk."""
    options = f"block_size={block_size}"
    command = ["qemu-img", "create", "-q", "-f", "vhdx", "-o", options, str(path), size]
    subprocess.run(command, check=True, timeout=60)
    return path


@dataclass(frozen=True, slots=True)
class TestMonitor:
    """A monitor of the test's own."""

    __test__ = False

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def execute(self, command: str, **arguments: Any) -> Any:
        """What it returns; an error of QEMU's is a RuntimeError."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.writer.write(json.dumps({"execute": command, "arguments": named}).encode() + b"\n")
        async with asyncio.timeout(60):
            while True:
                answer = json.loads(await self.reader.readline())
                if "error" in answer:
                    raise RuntimeError(f"{command}: {answer['error']['desc']}")
                if "return" in answer:
                    return answer["return"]

    async def io(self, node: str, command: str) -> None:
        """Have `qemu-io` do something with a node or device. What fails is told on QEMU's own output, if at all."""
        line = f'qemu-io {node} "{command}"'
        said = str(await self.execute("human-monitor-command", **{"command-line": line}))
        assert not said, said

    async def names(self) -> set[str]:
        """The names of all block nodes."""
        return {node["node-name"] for node in await self.execute("query-named-block-nodes", flat=True)}

    async def bitmaps(self) -> set[str]:
        """The names of all dirty bitmaps."""
        nodes = await self.execute("query-named-block-nodes", flat=True)
        return {bitmap["name"] for node in nodes for bitmap in node.get("dirty-bitmaps", ())}

    async def status(self) -> str:
        return str((await self.execute("query-status"))["status"])


@dataclass
class Qemu:
    """One that runs. Disk i is the device or node `disk<i>`."""

    process: asyncio.subprocess.Process
    directory: Path
    own: TestMonitor
    monitor: Path
    """The socket for what is tested."""

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await asyncio.shield(self.process.wait())


@asynccontextmanager
async def connected(socket: Path, process: asyncio.subprocess.Process | None = None) -> AsyncIterator[TestMonitor]:
    """A connection to a monitor; `process`, which may still be starting, is waited for."""
    async with asyncio.timeout(_START_TIMEOUT_S):
        while (greeted := await _greeted(socket)) is None:
            assert process is not None, f"{socket} is not served"
            assert process.returncode is None, "QEMU ended"
            await asyncio.sleep(0.01)
    reader, writer = greeted
    try:
        monitor = TestMonitor(reader, writer)
        await monitor.execute("qmp_capabilities")
        yield monitor
    finally:
        writer.transport.abort()


async def _greeted(socket: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    """A connection on which QEMU has greeted; None while it does not get there: it makes the socket early, and may drop
    a connection that comes before it serves any."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket), limit=2**24)
    except OSError:
        return None
    try:
        if await reader.readline():
            return reader, writer
    except BaseException as error:
        writer.transport.abort()
        if not isinstance(error, ConnectionError):
            raise
        return None
    writer.transport.abort()
    return None


@asynccontextmanager
async def running_qemu(
    disks: Sequence[Path],
    *,
    named: bool = True,
    paused: bool = False,
    more: Sequence[str] = (),
    cwd: Path | None = None,
    machine: str = "none",
) -> AsyncIterator[Qemu]:
    """QEMU with these VHDX files, given by `-blockdev`, or by `-drive` with names that QEMU makes up. A `machine` that
    is one can have devices, by `more`."""
    arguments: list[str] = ["-S"] if paused else []
    for number, path in enumerate(disks):
        if named:
            file = {"driver": "file", "filename": str(path), "node-name": f"disk{number}-file"}
            disk = {"driver": "vhdx", "node-name": f"disk{number}", "file": file["node-name"]}
            arguments += ["-blockdev", json.dumps(file)]
            arguments += ["-blockdev", json.dumps(disk)]
        else:
            arguments += ["-drive", f"if=none,id=disk{number},format=vhdx,file={str(path).replace(',', ',,')}"]
    with tempfile.TemporaryDirectory(prefix="replicad-qemu-", dir="/tmp") as name:
        directory = Path(name)
        for socket in ("모니터 qmp", "own"):
            arguments += ["-qmp", f"unix:{directory / socket},server=on,wait=off"]
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", "--", "qemu-system-x86_64"),
            *("-M", machine, "-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none"),
            *arguments, *more, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=cwd,
        )  # fmt: skip
        try:
            async with connected(directory / "own", process) as own:
                yield Qemu(process, directory, own, directory / "모니터 qmp")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())


def journal_in(share: Share | None, clock: Clock, observe: Observer) -> FreezeJournal:
    """A freeze journal that knows nobody who could undo what was left."""
    return FreezeJournal(share, lambda: HOLDER, clock, {}, observe)
