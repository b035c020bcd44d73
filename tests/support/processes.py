"""Other processes that do something to a file, step by step; and the ends of those that others have started."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True)
class Other:
    """Another process that runs a script: the script prints lines to be awaited, and reads lines to go on."""

    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def line(self) -> str:
        """The next line that it prints; blocks until then."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def go_on(self) -> None:
        """Let it read a line."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)


@contextmanager
def other_process(script: str, *arguments: str) -> Iterator[Other]:
    """Run a Python script beside us; it is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_ENVIRONMENT,
    )
    with process:
        try:
            yield Other(process)
        finally:
            process.kill()
            process.wait(30)


async def file_made(file: Path) -> None:
    """Wait until another process has made a file. Fails after 30 seconds."""
    async with asyncio.timeout(30):
        while not file.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)


def wait_until_dead(*files: Path) -> None:
    """Wait for the deaths of the processes whose numbers these files hold, whoever has started them and reaps them.

    One that was killed may run on for a moment before it dies. Fails after 30 seconds.
    """
    for file in files:
        number = file.read_text().strip()
        try:
            process = os.pidfd_open(int(number))
        except ProcessLookupError:
            continue  # dead and reaped
        try:
            death = select.poll()
            death.register(process, select.POLLIN)
            assert death.poll(30_000), f"process {number} ({file.name}) lives"
        finally:
            os.close(process)
