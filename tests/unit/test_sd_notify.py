"""What systemd hears, over real sockets."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from replicad.service.sd_notify import Notifier


@contextmanager
def _manager(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if address.startswith("@") else address)
        manager.settimeout(30)
        yield manager


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    # Not pytest's directory: the path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="알림 ") as directory:
        yield f"{directory}/notify 🙂" if request.param == "path" else f"@{directory}"


def test_every_state_is_told(address: str) -> None:
    with _manager(address) as manager:
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"})
        before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
        for tell in (notifier.ready, notifier.reloading, notifier.watchdog, notifier.stopping):
            tell()
        notifier.status("3 VMs, 웹 서버 🙂 is copied")
        notifier.close()
        notifier.ready()
        said = [manager.recv(4096).decode() for _ in range(5)]
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(4096)
    assert [said[0], *said[2:]] == ["READY=1", "WATCHDOG=1", "STOPPING=1", "STATUS=3 VMs, 웹 서버 🙂 is copied"]
    first, _, at_us = said[1].partition("\nMONOTONIC_USEC=")
    assert first == "RELOADING=1"
    assert before_us <= int(at_us) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000


def test_a_status_is_one_line_that_says_nothing_else(address: str) -> None:
    with _manager(address) as manager:
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
        notifier.status("web\nREADY=1\rSTOPPING=1\0\x1b[2J\u2028x\udcff")
        notifier.status("가" * 5_000)
        assert manager.recv(8192).decode() == "STATUS=web READY=1 STOPPING=1  [2J x "
        assert manager.recv(8192).decode() == "STATUS=" + "가" * 333
        notifier.close()


def test_without_a_manager_nothing_is_said_and_nothing_logged() -> None:
    for environ in ({}, {"NOTIFY_SOCKET": ""}):
        notifier = Notifier.from_environment(environ)
        with capture_logs() as logged:
            notifier.ready()
            notifier.status("x")
            notifier.watchdog()
        assert logged == []
        assert notifier.watchdog_interval_s() is None


@pytest.mark.parametrize("address", ["/no/such/socket", "vsock:2:1234", "@" + "x" * 200])
def test_a_manager_that_cannot_be_told_is_one_warning(address: str) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    with capture_logs() as logged:
        notifier.ready()
        notifier.watchdog()
    assert [event["event"] for event in logged] == ["cannot tell systemd how the service is"]


def test_a_manager_that_comes_back_is_told_again(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        address = f"{directory}/notify"
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
        with capture_logs() as logged:
            with _manager(address) as manager:
                notifier.ready()
                assert manager.recv(64) == b"READY=1"
            notifier.ready()
            Path(address).unlink()
            with _manager(address) as manager:
                notifier.stopping()
                assert manager.recv(64) == b"STOPPING=1"
        notifier.close()
    assert len(logged) == 1


def test_a_manager_that_does_not_read_holds_nobody_up() -> None:
    with tempfile.TemporaryDirectory() as directory, _manager(f"{directory}/notify"):
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": f"{directory}/notify"})
        with capture_logs() as logged:
            for _ in range(10_000):
                notifier.status("x" * 1_000)
        notifier.close()
    assert len(logged) == 1


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.25),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(environ: dict[str, str], interval_s: float | None) -> None:
    with capture_logs() as logged:
        assert Notifier.from_environment(environ).watchdog_interval_s() == interval_s
    assert logged == []


@pytest.mark.parametrize("typed", ["soon", "0", "-1", "1.5", "٣", "9" * 30])
def test_a_watchdog_time_that_is_none_is_one_warning(typed: str) -> None:
    with capture_logs() as logged:
        assert Notifier.from_environment({"WATCHDOG_USEC": typed}).watchdog_interval_s() is None
    assert len(logged) == 1
