"""A TCP relay in front of an SMB server: it counts what is on the wire, and can cut it at an exact place."""

from __future__ import annotations

import contextlib
import ctypes
import os
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


class Deed:
    """A judge that lets everything pass, and does something once, where another judge would cut; meanwhile no message
    reaches the server, and none is taken from it."""

    def __init__(self, where: Judge, do: Callable[[], object]) -> None:
        self._where = where
        self._do = do
        self._done = False
        self._error: Exception | None = None

    def __call__(self, traffic: Traffic, length: int) -> int | None:
        if not self._done and self._where(traffic, length) is not None:
            self._done = True
            try:
                self._do()
            except Exception as error:  # noqa: BLE001 - on a thread of the relay; raised where it is asked for
                self._error = error
        return None

    def was_done(self) -> bool:
        """Whether it came to that. Raises what was raised."""
        if self._error is not None:
            raise self._error
        return self._done


class Relay:
    """Listens on `port` of 127.0.0.1; its own threads carry everything to the server and back."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server((_HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._guard = threading.RLock()
        self._flowing = _open_gate()
        self._frozen: list[threading.Event] = []
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

    @contextmanager
    def watched(self, deed: Deed) -> Iterator[None]:
        """Count from 0 again, and have the deed look at each message meanwhile."""
        with self._guard:
            self._traffic = Traffic(0, 0, 0)
            self._judge, self._then = deed, None
        try:
            yield
        finally:
            with self._guard:
                self._judge = None

    def freeze(self) -> None:
        """Let nothing through any more on the connections that there are, not even their end: what a cable does that is
        cut. New ones pass. May be called by a judge."""
        with self._guard:
            self._flowing.clear()
            self._frozen.append(self._flowing)
            self._flowing = _open_gate()

    def thaw(self) -> None:
        """Let everything through again, what was held back first."""
        with self._guard:
            frozen, self._frozen = self._frozen, []
        for gate in frozen:
            gate.set()

    def reset_connections(self) -> None:
        """Have both sides of every connection told by a TCP reset, in the middle of whatever is on its way."""
        with self._guard:
            open_sockets = list(self._sockets)
        for one in open_sockets:
            _reset(one)

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
        self.thaw()
        self._shut(self._listener)
        with self._guard:
            open_sockets = list(self._sockets)
        for one in open_sockets:
            self._shut(one)
        for thread in self._threads:
            thread.join(_END_TIMEOUT_S)
            assert not thread.is_alive(), "the relay does not end"
        self._listener.close()

    def _run(self, target: Callable[..., None], *arguments: object) -> None:
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
                gate = self._flowing
            self._run(self._to_server, client, server, gate)
            self._run(self._to_client, client, server, gate)

    def _to_client(self, client: socket.socket, server: socket.socket, gate: threading.Event) -> None:
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        with self._both(client, server, gate):
            while count := server.recv_into(buffer):
                with self._guard:
                    old = self._traffic
                    self._traffic = Traffic(old.messages, old.to_server_bytes, old.to_client_bytes + count)
                gate.wait()
                client.sendall(buffer[:count])

    def _to_server(self, client: socket.socket, server: socket.socket, gate: threading.Event) -> None:
        buffer = bytearray(_BUFFER_BYTES)
        with self._both(client, server, gate):
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
                gate.wait()
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
    def _both(self, client: socket.socket, server: socket.socket, gate: threading.Event) -> Iterator[None]:
        """When one direction ends, both end; the last one to leave closes the sockets."""
        try:
            with contextlib.suppress(OSError):
                yield
        finally:
            gate.wait()
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


def _open_gate() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


def _reset(one: socket.socket) -> None:
    """connect(2): an address of the family AF_UNSPEC ends the association, which TCP does by a reset."""
    unspecified = ctypes.create_string_buffer(16)
    with contextlib.suppress(OSError):
        if ctypes.CDLL(None, use_errno=True).connect(one.fileno(), unspecified, len(unspecified)) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


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
