"""Other processes that do something to a file, step by step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
