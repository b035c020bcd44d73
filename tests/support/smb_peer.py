"""The far end of a signed-in connection, on a socket pair: it answers READ and WRITE as a test tells it to.

Real servers answer well; this one is for answers that they never give.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from smbprotocol import Dialects

from replicad.storage.smb import Endpoint
from replicad.storage.smb.connection import Connection
from replicad.storage.smb.data import frame, protect
from replicad.storage.smb.data.channel import Target
from replicad.storage.smb.data.protect import Sealing, Signing

SESSION_ID, TREE_ID, FILE_ID = 0x1122334455667788, 7, bytes(range(16))
SIGNING_KEY, TO_SERVER, TO_CLIENT = b"s" * 16, b"c" * 32, b"d" * 32
INTERIM_FLAGS = frame.FROM_SERVER | frame.ASYNC


class SmbPeer:
    """One connection and its far end. Use `smb_peer`."""

    def __init__(self, sealing: Sealing | None, signing: Signing, credits_: int, timeout_s: float) -> None:
        near, self._sock = socket.socketpair()
        self._sock.settimeout(10)
        self.sealing = sealing
        self.signing = signing
        self._nonces = 0
        endpoint = Endpoint("nas", "127.0.0.1", timeout_s=timeout_s)
        self.connection = Connection(endpoint, near)
        self.connection.timeout_s = timeout_s
        self.connection.dialect = Dialects.SMB_3_1_1
        self.connection.supports_multi_credit = True
        self.connection.supports_encryption = sealing is not None
        self.connection.signing_algorithm_id = signing
        self.connection.cipher_id = sealing
        length = 32 if sealing in (Sealing.AES_256_CCM, Sealing.AES_256_GCM) else 16
        self.to_server, self.to_client = TO_SERVER[:length], TO_CLIENT[:length]
        self.connection.session_table[SESSION_ID] = SimpleNamespace(
            session_id=SESSION_ID, signing_key=SIGNING_KEY, signing_required=True, encrypt_data=sealing is not None,
            encryption_key=self.to_server, decryption_key=self.to_client, tree_connect_table={},
        )  # fmt: skip
        self.connection.sequence_window["high"] = credits_
        self.target = Target(SESSION_ID, TREE_ID, FILE_ID, sealed=sealing is not None)
        worker = threading.Thread(target=self.connection._process_message_thread, daemon=True)
        self.connection._t_worker = worker
        worker.start()

    def request(self) -> bytes:
        """The next request, decrypted; its signature or tag has been checked."""
        (length,) = struct.unpack(">I", self._exactly(4))
        message = bytearray(self._exactly(length))
        transform = frame.parse_transform(message)
        if transform is None:
            header = frame.parse_answer(message)
            assert header is not None
            frame.put_signature(message, frame.UNSIGNED)
            due = protect.sign(self.signing, SIGNING_KEY, [message], header.message_id, from_server=False)
            assert header.signature == due
            return bytes(message[:48]) + due + bytes(message[64:])
        assert self.sealing is not None
        view = memoryview(message)
        ciphertext = view[frame.TRANSFORM_BYTES :]
        opening = protect.open_sealed(self.sealing, self.to_server, view, transform, ciphertext)
        plain = bytearray(len(ciphertext))
        opening.take(memoryview(plain))
        opening.finish()
        return bytes(plain)

    def _exactly(self, length: int) -> bytes:
        parts: list[bytes] = []
        while length:
            part = self._sock.recv(length)
            assert part, "the connection has ended"
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def answer(self, request: bytes, body: bytes, **fields: Any) -> None:
        """Answer a request, protected as is due."""
        self.send(self.protected(answer_to(request, body, **fields)))

    def protected(self, message: bytes) -> bytes:
        """A message as it travels."""
        if self.sealing is not None:
            sealer = protect.Sealer(self.sealing, self.to_client, SESSION_ID, os.urandom(12))
            return bytes(sealer.seal([message], bytearray(frame.TRANSFORM_BYTES + len(message))))
        return self.signed(message)

    def signed(self, message: bytes) -> bytes:
        """A message with a right signature."""
        header = frame.parse_answer(message)
        assert header is not None
        signature = protect.sign(self.signing, SIGNING_KEY, [message], header.message_id, from_server=True)
        return message[:48] + signature + message[64:]

    def send(self, message: bytes) -> None:
        """Send a message as it is."""
        self._sock.sendall(struct.pack(">I", len(message)) + message)

    def send_bytes(self, data: bytes) -> None:
        """Send bytes, without a frame."""
        self._sock.sendall(data)

    def close(self) -> None:
        """End the connection on this side."""
        self._sock.close()


def answer_to(
    request: bytes, body: bytes, *, status: int = 0, credits_: int = 1, command: int | None = None,
    flags: int = frame.FROM_SERVER | frame.SIGNED, following: int = 0, session_id: int = SESSION_ID,
    message_id: int | None = None,
) -> bytes:  # fmt: skip
    """An answer to a request, not signed yet."""
    asked, asked_id = struct.unpack_from("<H", request, 12)[0], struct.unpack_from("<Q", request, 24)[0]
    header = struct.pack(
        "<4sHHIHHIIQIIQ16s", b"\xfeSMB", 64, 1, status, asked if command is None else command, credits_, flags,
        following, asked_id if message_id is None else message_id, 0, TREE_ID, session_id, bytes(16),
    )  # fmt: skip
    return header + body


def read_body(data: bytes, *, start: int = 80, claimed: int | None = None) -> bytes:
    """The body of an answer to a READ."""
    count = len(data) if claimed is None else claimed
    return struct.pack("<HBxI8x", 17, start, count) + bytes(max(0, start - 80)) + data


def write_body(count: int) -> bytes:
    """The body of an answer to a WRITE."""
    return struct.pack("<HxxI8xx", 17, count)


def error_body() -> bytes:
    """The body of an answer with an error status (MS-SMB2 §2.2.2)."""
    return struct.pack("<HBxIx", 9, 0, 0)


@contextmanager
def smb_peer(
    sealing: Sealing | None = None,
    *,
    signing: Signing = Signing.AES_GMAC,
    credits_: int = 512,
    timeout_s: float = 10,
) -> Iterator[SmbPeer]:
    """A connection with a far end in the test's hands, ended afterwards."""
    peer = SmbPeer(sealing, signing, credits_, timeout_s)
    try:
        yield peer
    finally:
        peer.close()
        peer.connection.discard()
