"""The TCP connection below SMB: dialling, framing (MS-SMB2 §2.1), and noticing that the peer is gone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from replicad.model.errors import ReplicadError, TimedOutError, UnreachableError

from .endpoint import Endpoint

MAX_MESSAGE_BYTES = 0xFF_FFFF
_STALLED_S = 60.0
"""How long the rest of a message may take once its beginning has arrived."""
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
    be shut down by any thread at any moment. It counts the bytes that passed.
    """

    def __init__(self, sock: socket.socket, send_timeout_s: float) -> None:
        sock.settimeout(send_timeout_s)
        self._sock = sock
        self._send_timeout_s = send_timeout_s
        self._sending = threading.Lock()
        self.connected = True
        self.sent_bytes = 0
        self.received_bytes = 0

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
        body = message if isinstance(message, bytes) else message.pack()
        if len(body) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {len(body)} bytes does not fit into one frame")
        parts = [memoryview(struct.pack(">I", len(body))), memoryview(body)]
        with self._sending:
            deadline = time.monotonic() + self._send_timeout_s
            while parts:
                sent = self._sock.sendmsg(parts) if hasattr(self._sock, "sendmsg") else self._sock.send(parts[0])
                self.sent_bytes += sent
                while parts and sent >= len(parts[0]):
                    sent -= len(parts.pop(0))
                if parts:
                    parts[0] = parts[0][sent:]
                    if time.monotonic() > deadline:
                        raise TimeoutError

    def recv(self, timeout: float) -> bytes:
        """The next message; empty if the connection has ended; TimeoutError if none begins within `timeout`."""
        header = bytearray(4)
        if not self._fill(header, timeout, may_be_idle=True):
            return b""
        (length,) = struct.unpack(">I", header)
        if length > MAX_MESSAGE_BYTES:
            raise ConnectionError("what arrives is not SMB")
        body = bytearray(length)
        return bytes(body) if self._fill(body, _STALLED_S, may_be_idle=False) else b""

    def _fill(self, buffer: bytearray, timeout_s: float, *, may_be_idle: bool) -> bool:
        view, deadline = memoryview(buffer), time.monotonic() + timeout_s
        while view and self._is_up():
            try:
                count = self._sock.recv_into(view)
            except TimeoutError:
                if time.monotonic() < deadline:
                    continue
                if may_be_idle and len(view) == len(buffer):
                    raise
                # A pause within a message must not be taken for idleness: the framing would be lost.
                raise ConnectionError("the server stopped in the middle of a message") from None
            except OSError:
                if self._is_up():
                    raise
                count = 0
            if count == 0:
                self.connected = False
                return False
            self.received_bytes += count
            view = view[count:]
        return self._is_up()

    def _is_up(self) -> bool:
        return self.connected  # may be changed by another thread between two looks
