"""A TCP relay in front of an SMB server: it counts what is on the wire, and can cut it at an exact place."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

_HOST = "127.0.0.1"
_BUFFER_BYTES = 256 * 1024
_CONNECT_TIMEOUT_S = 10.0
_END_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went through since the last `reset`: TCP payload, the 4 bytes before each SMB message included."""

    messages: int
    to_server_bytes: int
    to_client_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both directions."""
        return self.to_server_bytes + self.to_client_bytes


Judge = Callable[[Traffic, int], int | None]
"""Asked before each message from the client, given what went through until then and the message's length: None to
let it pass, or how many of its bytes shall still reach the server before the connection is cut."""


def after_messages(count: int) -> Judge:
    """Cut before message number `count` (from 0)."""
    return lambda traffic, length: 0 if traffic.messages >= count else None


def after_bytes(count: int) -> Judge:
    """Cut after so many bytes to the server, in the middle of a message if need be."""
    return lambda traffic, length: count - traffic.to_server_bytes if traffic.to_server_bytes + length > count else None


class Relay:
    """Listens on `port` of 127.0.0.1; its own threads carry everything to the server and back."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server((_HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._guard = threading.Lock()
        self._traffic = Traffic(0, 0, 0)
        self._judge: Judge | None = None
        self._then: Callable[[], None] | None = None
        self._ended: threading.Event | None = None
        self._done: Future[None] = Future()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    @property
    def traffic(self) -> Traffic:
        """What went through until now."""
        with self._guard:
            return self._traffic

    def reset(self) -> None:
        """Count from 0 again."""
        with self._guard:
            self._traffic = Traffic(0, 0, 0)

    def cut(self, judge: Judge, then: Callable[[], None]) -> None:
        """Count from 0 again, and cut every connection where `judge` says so: nothing more reaches the server, then
        `then` is called (on a thread of the relay), then both ends are closed. It happens once."""
        with self._guard:
            self._traffic = Traffic(0, 0, 0)
            self._judge, self._then, self._done = judge, then, Future()

    def was_cut(self) -> bool:
        """Whether there was a cut, all of it; if not, there will be none any more. Raises what `then` raised."""
        with self._guard:
            armed = self._judge is not None
            self._judge = self._then = None
        if not armed:
            self._done.result(_END_TIMEOUT_S)
        return not armed

    def server_sides(self) -> list[int]:
        """The local ports of the connections to the server."""
        with self._guard:
            open_sockets = list(self._sockets)
        ports = []
        for one in open_sockets:
            with contextlib.suppress(OSError):
                if one.getpeername()[1] == self._server_port:
                    ports.append(one.getsockname()[1])
        return ports

    def close(self) -> None:
        """Close every connection and end the threads."""
        self._shut(self._listener)
        with self._guard:
            open_sockets = list(self._sockets)
        for one in open_sockets:
            self._shut(one)
        for thread in self._threads:
            thread.join(_END_TIMEOUT_S)
            assert not thread.is_alive(), "the relay does not end"
        self._listener.close()

    def _run(self, target: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments, name="relay", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                server = socket.create_connection((_HOST, self._server_port), _CONNECT_TIMEOUT_S)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._guard:
                self._sockets |= {client, server}
            self._run(self._to_server, client, server)
            self._run(self._to_client, client, server)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        with self._both(client, server):
            while count := server.recv_into(buffer):
                with self._guard:
                    old = self._traffic
                    self._traffic = Traffic(old.messages, old.to_server_bytes, old.to_client_bytes + count)
                client.sendall(buffer[:count])

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        buffer = bytearray(_BUFFER_BYTES)
        with self._both(client, server):
            while _fill(client, memoryview(buffer)[:4]):
                length = 4 + int.from_bytes(buffer[1:4], "big")
                if length > len(buffer):
                    buffer.extend(bytes(length - len(buffer)))
                if not _fill(client, memoryview(buffer)[4:length]):
                    return
                allowed, then, ended = self._judged(length)
                if ended is not None:  # a cut is being made on another connection
                    ended.wait(_END_TIMEOUT_S)
                    return
                server.sendall(memoryview(buffer)[:allowed])
                if then is not None:
                    self._end(then)
                    return

    def _judged(self, length: int) -> tuple[int, Callable[[], None] | None, threading.Event | None]:
        with self._guard:
            if self._ended is not None:
                return 0, None, self._ended
            old, then, allowed = self._traffic, None, length
            verdict = self._judge(old, length) if self._judge is not None else None
            if verdict is not None:
                allowed, then = verdict, self._then
                self._judge = self._then = None
                self._ended = threading.Event()
            self._traffic = Traffic(old.messages + (then is None), old.to_server_bytes + allowed, old.to_client_bytes)
        return allowed, then, None

    def _end(self, then: Callable[[], None]) -> None:
        done = self._done
        try:
            then()
        except BaseException as error:  # noqa: BLE001 - it is raised where the cut is asked for
            done.set_exception(error)
        else:
            done.set_result(None)
        with self._guard:
            open_sockets = list(self._sockets)
        for one in open_sockets:
            self._shut(one)
        with self._guard:
            ended, self._ended = self._ended, None
        if ended is not None:
            ended.set()

    @contextmanager
    def _both(self, client: socket.socket, server: socket.socket) -> Iterator[None]:
        """When one direction ends, both end; the last one to leave closes the sockets."""
        try:
            with contextlib.suppress(OSError):
                yield
        finally:
            self._shut(client)
            self._shut(server)
            with self._guard:
                last = client not in self._sockets
                self._sockets -= {client, server}
            if last:
                client.close()
                server.close()

    @staticmethod
    def _shut(one: socket.socket) -> None:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def _fill(source: socket.socket, view: memoryview) -> bool:
    """Receive until `view` is full; False if the other side ends before."""
    done = 0
    while done < len(view):
        count = source.recv_into(view[done:])
        if count == 0:
            return False
        done += count
    return True


@contextmanager
def relay_to(server_port: int) -> Iterator[Relay]:
    """A relay to a server on this machine, closed in the end."""
    relay = Relay(server_port)
    try:
        yield relay
    finally:
        relay.close()
