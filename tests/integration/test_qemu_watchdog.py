"""The process that has a stopped machine go on when replicad dies."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from replicad.hypervisor.qemu import watchdog
from replicad.hypervisor.qemu.guarding import guarded
from replicad.hypervisor.qemu.monitor import Monitor
from replicad.hypervisor.qemu.orders import Command, Orders
from replicad.hypervisor.qemu.process import Process, identify
from replicad.model.errors import BusyError
from tests.support.qemu import Qemu, connected, running_qemu


@contextmanager
def started() -> Iterator[subprocess.Popen[bytes]]:
    arguments = [sys.executable, "-I", "-S", str(Path(watchdog.__file__))]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == watchdog.READY
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[bytes], monitor: Path, machine: str, orders: Orders) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    line = {"monitor": str(monitor), "process": machine, "orders": orders.as_dict()}
    process.stdin.write(json.dumps(line).encode() + b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == watchdog.OK


def ended(process: subprocess.Popen[bytes], last: bytes = b"") -> int:
    """Its status, when its input has ended."""
    assert process.stdin is not None
    process.stdin.write(last)
    process.stdin.close()
    return process.wait(30)


@asynccontextmanager
async def stopped() -> AsyncIterator[tuple[Qemu, str]]:
    async with running_qemu([]) as qemu:
        await qemu.own.execute("stop")
        yield qemu, str(identify(qemu.process.pid))


async def test_it_has_the_machine_go_on_when_its_input_ends_and_ends_itself() -> None:
    async with stopped() as (qemu, machine):
        null = {"driver": "null-co", "node-name": "one"}
        before = (
            Command("no-such-command", {}),
            Command("blockdev-add", null),
            Command("blockdev-add", {**null, "node-name": "two"}, if_there="nothing"),
            Command("blockdev-add", {**null, "node-name": "three"}, if_used="one"),
        )
        with started() as process:
            told(process, qemu.monitor, machine, Orders())
            told(process, qemu.monitor, machine, Orders(before, True, (Command("blockdev-del", {"node-name": "one"}),)))
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                process.send_signal(number)
            assert await qemu.own.status() == "paused"
            began_s = time.monotonic()
            assert ended(process) == 0
            assert time.monotonic() - began_s < 5
        assert await qemu.own.status() == "running"
        assert await qemu.own.names() == set()


@pytest.mark.parametrize("how", ["told that it is done", "told nothing", "of another process", "cut", "not to resume"])
async def test_else_it_leaves_the_machine_alone(how: str) -> None:
    async with stopped() as (qemu, machine):
        with started() as process:
            last = b""
            if how == "told that it is done":
                told(process, qemu.monitor, machine, Orders())
                last = watchdog.DONE
            elif how == "of another process":
                told(process, qemu.monitor, f"{qemu.process.pid}:1", Orders())
            elif how == "cut":
                line = {"monitor": str(qemu.monitor), "process": machine, "orders": Orders().as_dict()}
                last = json.dumps(line).encode()
            elif how == "not to resume":
                told(process, qemu.monitor, machine, Orders(resume=False))
            assert ended(process, last) == 0
        assert await qemu.own.status() == "paused"


async def test_a_machine_that_runs_is_only_cleared_up_after() -> None:
    async with running_qemu([]) as qemu:
        null = {"driver": "null-co", "node-name": "one"}
        await qemu.own.execute("blockdev-add", driver="null-co", node_name="left")
        with started() as process:
            after = (Command("blockdev-del", {"node-name": "left"}),)
            machine = str(identify(qemu.process.pid))
            told(process, qemu.monitor, machine, Orders((Command("blockdev-add", null),), True, after))
            assert ended(process) == 0
        assert await qemu.own.names() == set()
        assert await qemu.own.status() == "running"


async def test_it_waits_until_another_client_has_left_the_monitor() -> None:
    async with stopped() as (qemu, machine):
        with started() as process:
            told(process, qemu.monitor, machine, Orders())
            assert process.stdin is not None
            async with connected(qemu.monitor):
                process.stdin.close()
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.3)
                assert await qemu.own.status() == "paused"
            assert await asyncio.to_thread(process.wait, 30) == 0
        assert await qemu.own.status() == "running"


async def test_a_machine_that_is_off_needs_nothing(tmp_path: Path) -> None:
    with started() as process:
        told(process, tmp_path / ("긴 이름 " * 20) / "qmp", "1:1", Orders())
        assert ended(process) == 0


async def test_without_it_nothing_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = Monitor(tmp_path / "qmp", 1)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(BusyError, match="can't be started"):
        async with guarded(monitor.executor, monitor.path, Process(1, "1")):
            pytest.fail("there is no watchdog")
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(BusyError, match="ended at once"):
        async with guarded(monitor.executor, monitor.path, Process(1, "1")):
            pytest.fail("there is no watchdog")
    monkeypatch.undo()
    async with guarded(monitor.executor, monitor.path, Process(1, "1")) as dog:
        await dog.order(Orders())
        dog._process.kill()
        with pytest.raises(BusyError, match="does not answer"):
            await dog.order(Orders())
        dog.is_needed = False
