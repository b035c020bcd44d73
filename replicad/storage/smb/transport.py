"""The TCP connection below SMB: dialling, framing (MS-SMB2 §2.1), and noticing that the peer is gone."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from replicad.model.errors import ReplicadError, TimedOutError, UnreachableError
from replicad.storage.port import Buffer

from .endpoint import Endpoint

MAX_MESSAGE_BYTES = 0xFF_FFFF
_STALLED_S = 60.0
"""How long no byte more of a message may arrive once its beginning has."""
_NOT_LENT = nullcontext()
# `poll` takes any number of open files; where there is none, `select` does not count files.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)
_resolver = ThreadPoolExecutor(4, thread_name_prefix="smb-resolve")

SocketAddress = tuple[socket.AddressFamily, tuple[str | int, ...]]


async def resolve(endpoint: Endpoint) -> list[SocketAddress]:
    """The addresses of the server, in the order to try. UnreachableError, TimedOutError."""
    subject = f"server {endpoint.host}"
    try:
        async with asyncio.timeout(endpoint.connect_timeout_s):
            found = await asyncio.get_running_loop().run_in_executor(
                _resolver, lambda: socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
            )
    except TimeoutError:
        raise TimedOutError(
            "find", subject, f"the name was not resolved within {endpoint.connect_timeout_s:g} s",
            "Check the DNS servers of this machine.",
        ) from None  # fmt: skip
    except (socket.gaierror, UnicodeError):
        raise UnreachableError(
            "find", subject, "its name does not resolve to an address", "Check the name, and DNS or /etc/hosts."
        ) from None
    return [(family, tuple(_plain(part) for part in address)) for family, _, _, _, address in found]


def _plain(part: str | int | bytes) -> str | int:
    return part.decode() if isinstance(part, bytes) else part


async def dial(endpoint: Endpoint) -> socket.socket:
    """A TCP connection to the server. UnreachableError and TimedOutError say which way it failed."""
    failures: list[ReplicadError] = []
    for family, address in await resolve(endpoint):
        try:
            return await connect_to(endpoint, family, address)
        except (UnreachableError, TimedOutError) as failure:
            failures.append(failure)
    # The first address is the one the system prefers, so its failure is the one to tell.
    raise failures[0] if failures else UnreachableError("find", f"server {endpoint.host}", "it has no address")


async def connect_to(endpoint: Endpoint, family: socket.AddressFamily, address: tuple[str | int, ...]) -> socket.socket:
    """A TCP connection to one address of the server. UnreachableError, TimedOutError."""
    subject = f"server {endpoint.where}"
    if str(address[0]) != endpoint.host:
        subject += f" ({address[0]})"
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(endpoint.connect_timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, address)
        _prepare(sock, endpoint)
    except BaseException as error:
        sock.close()
        if isinstance(error, TimeoutError):
            raise TimedOutError(
                "connect to", subject, f"no answer within {endpoint.connect_timeout_s:g} s",
                "Check that the server is up, and that no firewall drops what is sent to this port.",
            ) from None  # fmt: skip
        if isinstance(error, ConnectionRefusedError):
            raise UnreachableError(
                "connect to", subject, "the port is closed", "Check the port, and that the server's SMB service runs."
            ) from None
        if isinstance(error, OSError):
            raise UnreachableError(
                "connect to", subject, (error.strerror or type(error).__name__).lower(), "Check the network."
            ) from None
        raise
    return sock


def _prepare(sock: socket.socket, endpoint: Endpoint) -> None:
    """No delay for small requests, and a peer that vanished is noticed after `lost_after_s`."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle_s = max(1, round(endpoint.lost_after_s / 2))
    interval_s = max(1, round(endpoint.lost_after_s / 6))
    options = {
        "TCP_KEEPIDLE": idle_s,
        "TCP_KEEPALIVE": idle_s,  # what macOS calls it
        "TCP_KEEPINTVL": interval_s,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": round(endpoint.lost_after_s * 1000),
    }
    for name, value in options.items():
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Packable(Protocol):
    """How smbprotocol passes an encrypted message."""

    def pack(self) -> bytes:
        """Its bytes."""


class Transport:
    """A connected socket with the interface that smbprotocol's `Connection` expects of its own.

    Unlike that one it waits with `poll` (any number of open files), gives up a send that does not get on, and can
    be shut down by any thread at any moment. It counts the bytes that passed. One thread receives; any may send.
    """

    def __init__(self, sock: socket.socket, send_timeout_s: float) -> None:
        # Never a wait inside the socket itself: whoever holds a loan of a caller's buffer must not wait.
        sock.setblocking(False)
        self._sock = sock
        self._send_timeout_s = send_timeout_s
        self._sending = threading.Lock()
        self.receiver: Callable[[int], bytes | None] = self.rest_of_message
        """Takes one message off the wire, whose length it is given. What it returns is for smbprotocol."""
        self.connected = True
        self.sent_bytes = 0
        self.received_bytes = 0
        self.passed_s = time.monotonic()
        """When the last byte got through, on the steady clock."""

    @property
    def address(self) -> SocketAddress:
        """The other end. OSError if the connection has ended."""
        return self._sock.family, self._sock.getpeername()

    def outwait(self, wait: Callable[[float], bool], timeout_s: float, longest_s: float) -> bool:
        """Call `wait` with some seconds until it is true. False once no byte has passed for `timeout_s`, in either
        direction, or when it has taken `longest_s`.

        Over a slow link an answer waits for many megabytes that are under way before it.
        """
        began_s = time.monotonic()
        while (left_s := min(max(began_s, self.passed_s) + timeout_s, began_s + longest_s) - time.monotonic()) > 0:
            if wait(left_s):
                return True
            if not self.connected:
                break
        return False

    def connect(self) -> None:
        """Nothing: it is connected already."""

    def shut_down(self) -> None:
        """Wake whoever waits on the socket and let nobody wait on it again. Never blocks."""
        self.connected = False
        with contextlib.suppress(OSError):  # it was closed, or the peer was quicker
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """What smbprotocol calls. The socket itself is kept: the receiving thread may still be waiting on it."""
        self.shut_down()

    def release(self) -> None:
        """Give the socket back, once nobody receives any more."""
        self.shut_down()
        with self._sending:
            self._sock.close()

    def send(self, message: bytes | Packable) -> None:
        """Send one message whole. TimeoutError if it does not get on, OSError if the connection is lost."""
        self.send_parts([message if isinstance(message, bytes) else message.pack()])

    def send_parts(self, parts: Sequence[Buffer], loan: AbstractContextManager[None] = _NOT_LENT) -> None:
        """Send one message that consists of `parts`, without joining them. Errors as for `send`.

        The parts are read only inside `with loan`; what that raises leaves a part of the message unsent, after
        which the connection is of no more use.
        """
        views = [memoryview(part).cast("B") for part in parts]
        length = sum(map(len, views))
        if length > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {length} bytes does not fit into one frame")
        views.insert(0, memoryview(struct.pack(">I", length)))
        with self._sending:
            # Of any byte that gets through: over a slow link a large message takes long, and is none the worse for it.
            deadline = time.monotonic() + self._send_timeout_s
            while views:
                try:
                    with loan:
                        sent = (
                            self._sock.sendmsg(views) if hasattr(self._sock, "sendmsg") else self._sock.send(views[0])
                        )
                except BlockingIOError:
                    self._wait(selectors.EVENT_WRITE, deadline)
                    continue
                self.sent_bytes += sent
                self.passed_s = time.monotonic()
                deadline = self.passed_s + self._send_timeout_s
                while views and sent >= len(views[0]):
                    sent -= len(views.pop(0))
                if views:
                    views[0] = views[0][sent:]

    def recv(self, timeout: float) -> bytes:
        """The next message for smbprotocol; empty if the connection has ended; TimeoutError if none begins within
        `timeout`."""
        try:
            while True:
                header = bytearray(4)
                self._fill(memoryview(header), timeout, may_be_idle=True)
                (length,) = struct.unpack(">I", header)
                if not 0 < length <= MAX_MESSAGE_BYTES:
                    raise ConnectionError("what arrives is not SMB")
                message = self.receiver(length)
                if message is not None:
                    return message
        except _EndedError:
            return b""

    def rest_of_message(self, length: int) -> bytes:
        """The `length` bytes that come next. Only for the receiver, as is `fill`."""
        body = bytearray(length)
        self.fill(memoryview(body))
        return bytes(body)

    def fill(self, view: memoryview, loan: AbstractContextManager[None] = _NOT_LENT) -> None:
        """Receive the next bytes of a message that has begun into `view`, touching it only inside `with loan`."""
        self._fill(view, _STALLED_S, may_be_idle=False, loan=loan)

    def _fill(
        self,
        view: memoryview,
        timeout_s: float,
        *,
        may_be_idle: bool,
        loan: AbstractContextManager[None] = _NOT_LENT,
    ) -> None:
        whole, deadline = len(view), time.monotonic() + timeout_s
        while view:
            if not self._is_up():
                raise _EndedError
            try:
                with loan:
                    count = self._sock.recv_into(view)
            except BlockingIOError:
                try:
                    self._wait(selectors.EVENT_READ, deadline)
                except TimeoutError:
                    if may_be_idle and len(view) == whole:
                        raise
                    # A pause within a message must not be taken for idleness: the framing would be lost.
                    raise ConnectionError("the server stopped in the middle of a message") from None
                continue
            except OSError:
                if self._is_up():
                    raise
                count = 0
            if count == 0:
                self.connected = False
                raise _EndedError
            self.received_bytes += count
            view = view[count:]
            self.passed_s = time.monotonic()
            deadline = self.passed_s + timeout_s
        if not self._is_up():
            raise _EndedError

    def _wait(self, event: int, deadline: float) -> None:
        """Until the socket is ready or was shut down; TimeoutError."""
        with _Selector() as selector:
            selector.register(self._sock, event)
            if not selector.select(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                raise TimeoutError

    def _is_up(self) -> bool:
        return self.connected  # may be changed by another thread between two looks


class _EndedError(Exception):
    """The connection has ended, on our side or the other."""
