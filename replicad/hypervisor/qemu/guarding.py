"""Having a watchdog beside us while a machine stands still (watchdog.py)."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from replicad.model.errors import BusyError, StuckError
from replicad.storage.blocking import run_blocking
from replicad.storage.programs import environment_for
from replicad.storage.undisturbed import undisturbed

from . import watchdog
from .orders import Orders
from .process import Process

_START_TIMEOUT_S = 20.0
_ANSWER_TIMEOUT_S = 5.0
_END_TIMEOUT_S = 5.0


class Watchdog:
    """A process that waits for our death. Without orders it does nothing."""

    def __init__(self, executor: Executor, process: subprocess.Popen[bytes], monitor: Path, machine: Process) -> None:
        self._executor = executor
        self._process = process
        self._monitor = monitor
        self._machine = machine
        self.is_needed = False
        """Whether the orders that it has stand: then it is left to them in the end."""

    async def order(self, orders: Orders) -> None:
        """What it is to do if we die from now on, in place of what it was told before. On return it knows.

        BusyError if it does not answer; what it goes by is then not known.
        """
        told = {"monitor": str(self._monitor.absolute()), "process": str(self._machine), "orders": orders.as_dict()}
        line = json.dumps(told).encode() + b"\n"
        try:
            answer = await run_blocking(
                self._executor, "tell", "the watchdog", lambda: _ask(self._process, line), _ANSWER_TIMEOUT_S
            )
        except StuckError:
            self._process.kill()  # which frees the thread that waits for it
            answer = b""
        if answer != watchdog.OK:
            raise _no_watchdog("it does not answer")
        self.is_needed = True


@asynccontextmanager
async def guarded(executor: Executor, monitor: Path, machine: Process) -> AsyncIterator[Watchdog]:
    """A watchdog that is ready, for the process at a monitor. It ends with the context, unless it `is_needed` then.

    BusyError if it can't be started.
    """
    started: list[subprocess.Popen[bytes]] = []
    dog: Watchdog | None = None

    def end() -> None:
        for process in started:
            _end(process, needed=dog is not None and dog.is_needed)

    try:
        try:
            await run_blocking(executor, "start", "the watchdog", lambda: _start(started), _START_TIMEOUT_S)
        except StuckError:
            raise _no_watchdog(f"it was not there within {_START_TIMEOUT_S:g} s") from None
        dog = Watchdog(executor, started[0], monitor, machine)
        yield dog
    finally:
        await undisturbed(run_blocking(executor, "end", "the watchdog", end, 3 * _END_TIMEOUT_S))


def _start(started: list[subprocess.Popen[bytes]]) -> None:
    # Alone in a session, so that what is typed at our terminal does not end it; and its file is run as it is, since
    # looking for a package takes longer than all of it.
    arguments = [sys.executable, "-I", "-S", str(Path(watchdog.__file__).absolute())]
    try:
        process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment_for({}), start_new_session=True
        )
    except OSError as error:
        raise _no_watchdog(f"it can't be started: {error.strerror}") from error
    started.append(process)  # so that it is ended, whatever becomes of the call
    if process.stdout is None or process.stdout.readline() != watchdog.READY:
        raise _no_watchdog("it ended at once")


def _ask(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    if process.stdin is None or process.stdout is None:
        return b""
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except OSError:
        return b""
    return process.stdout.readline()


def _end(process: subprocess.Popen[bytes], needed: bool) -> None:
    if process.stdin is not None:
        with suppress(OSError):  # it has ended before
            if not needed:
                process.stdin.write(watchdog.DONE)
                process.stdin.flush()
        with suppress(OSError):
            process.stdin.close()
    if process.stdout is not None:
        process.stdout.close()
    if needed:
        # It may have to wait for long; somebody has to take note of its end.
        threading.Thread(target=process.wait, name="qemu-watchdog", daemon=True).start()
        return
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_END_TIMEOUT_S)


def _no_watchdog(why: str) -> BusyError:
    answer = f"the process that would have it go on if replicad died is not there: {why}"
    return BusyError("stop", "the machine", answer, "Check what this host is short of (processes, memory).")
