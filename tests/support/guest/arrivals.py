"""What a guest says, each piece stamped with this host's monotonic clock at the moment it arrived.

Heartbeats come as datagrams that the kernel stamps, so it does not matter when we get to read them. The lines of the
report are stamped by a thread of their own, which a busy event loop does not hold up.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import struct
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_DATAGRAMS_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the report, and when it came."""

    text: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Gaps:
    """The time from one event to the next, in seconds."""

    count: int
    p50_s: float
    p99_s: float
    max_s: float

    def __str__(self) -> str:
        return f"p50 {self.p50_s * 1e3:.1f}, p99 {self.p99_s * 1e3:.1f}, max {self.max_s * 1e3:.1f} ms of {self.count}"


def longest_gap(times_s: list[float], since_s: float, until_s: float) -> float:
    """The longest time without an event in a span, its two ends counted as events."""
    within = times_s[bisect_left(times_s, since_s) : bisect_right(times_s, until_s)]
    ends = [since_s, *within, until_s]
    return max(later - earlier for earlier, later in pairwise(ends))


def gaps(times_s: list[float], since_s: float, until_s: float) -> Gaps:
    """The times between the events in a span; at least two events must be in it."""
    within = times_s[bisect_left(times_s, since_s) : bisect_right(times_s, until_s)]
    found = sorted(later - earlier for earlier, later in pairwise(within))
    assert found, f"{len(within)} events from {since_s} to {until_s}"
    return Gaps(len(found), found[len(found) // 2], found[len(found) * 99 // 100], found[-1])


class Arrivals:
    """The host's ends of the guest's two ports, read by a thread from the moment that QEMU connects."""

    def __init__(self, report_path: Path, changed: Callable[[], None]) -> None:
        self.lines: list[Line] = []
        self.beats_s: list[float] = []
        self.lost_beats = 0
        self.closed = False
        self.waiting_for_beats = 0
        """How many want to be told of each heartbeat; else the event loop is left alone."""
        self._loop = asyncio.get_running_loop()
        self._changed = changed
        self._last_beat = 0
        self._waker, self._wakes = socket.socketpair()
        self._report: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(report_path))
        self._listener.listen(1)
        self._pulse = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # As root a larger buffer than others get: heartbeats wait there while this process stands still.
        force = getattr(socket, "SO_RCVBUFFORCE", 33)
        try:
            self._pulse.setsockopt(socket.SOL_SOCKET, force, _DATAGRAMS_BYTES)
        except PermissionError:
            self._pulse.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _DATAGRAMS_BYTES)
        self._pulse.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._pulse.bind(("127.0.0.1", 0))
        self.pulse_port: int = self._pulse.getsockname()[1]
        self._thread = threading.Thread(target=self._read, name="guest-arrivals", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether QEMU has ever connected."""
        return self._report is not None

    def send(self, order: str) -> None:
        """Send the guest a line."""
        assert self._report is not None, "the guest is not connected"
        self._report.sendall(order.encode() + b"\n")

    def close(self) -> None:
        """Stop reading. What came is kept."""
        self._waker.close()
        self._thread.join(10)
        for end in (self._listener, self._pulse, self._wakes, self._report):
            if end is not None:
                end.close()

    def _read(self) -> None:
        rest = b""
        with selectors.DefaultSelector() as selector:
            for end in (self._listener, self._pulse, self._wakes):
                selector.register(end, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._wakes:
                        return
                    if key.fileobj is self._pulse:
                        self._take_beat()
                    elif key.fileobj is self._listener:
                        self._report, _ = self._listener.accept()
                        # An order is a few bytes: it waits for nobody, or the guest has stopped reading.
                        self._report.settimeout(10)
                        selector.register(self._report, selectors.EVENT_READ)
                    elif self._report is not None:
                        rest = self._take_lines(rest, selector)

    def _take_lines(self, rest: bytes, selector: selectors.BaseSelector) -> bytes:
        assert self._report is not None
        try:
            data = self._report.recv(65536)
        except OSError:
            data = b""
        now_s = time.monotonic()
        if not data:
            selector.unregister(self._report)
            self.closed = True
        *whole, rest = (rest + data).split(b"\n")
        self.lines.extend(Line(text.decode(), now_s) for text in whole)
        self._loop.call_soon_threadsafe(self._changed)
        return rest

    def _take_beat(self) -> None:
        data, ancillary, _, _ = self._pulse.recvmsg(256, 64)
        since_s = 0.0
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
                seconds, nanoseconds = _TIMESPEC.unpack(content[: _TIMESPEC.size])
                since_s = (time.time_ns() - seconds * 1_000_000_000 - nanoseconds) / 1e9
        # A byte each, which counts.
        for number in data:
            self.lost_beats += (number - self._last_beat - 1) % 256
            self._last_beat = number
            self.beats_s.append(time.monotonic() - since_s)
        if self.waiting_for_beats:
            self._loop.call_soon_threadsafe(self._changed)
