"""A server that knows no password: it negotiates, and answers a sign-in and what comes after as a test tells it to."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from replicad.storage.smb.data import frame

NEGOTIATE, SESSION_SETUP = 0, 1
MORE_PROCESSING = 0xC0000016
SESSION_ID = 0x55AA
SHA_512, GCM_128, GMAC = 1, 2, 2
ALL_CAPABILITIES = 0x7F

Answers = Callable[[int, bytes], Iterable[bytes]]
"""Given a command (-1: it is encrypted) and the request, the messages to send."""


def answer(request: bytes, body: bytes, *, status: int = 0, session_id: int = SESSION_ID, flags: int = 1) -> bytes:
    """An answer to a request, unsigned."""
    command, message_id = struct.unpack_from("<H", request, 12)[0], struct.unpack_from("<Q", request, 24)[0]
    return struct.pack(
        "<4sHHIHHIIQIIQ16s", b"\xfeSMB", 64, 1, status, command, 64, flags, 0, message_id, 0, 0,
        session_id if command else 0, bytes(16),
    ) + body  # fmt: skip


def negotiated(
    *,
    dialect: int = 0x311,
    cipher: int = GCM_128,
    signing: int = GMAC,
    security_mode: int = 3,
    capabilities: int = ALL_CAPABILITIES,
    most_bytes: int = 8 << 20,
    token: bytes = b"",
    contexts: Sequence[tuple[int, bytes]] | None = None,
) -> bytes:
    """The body of an answer to NEGOTIATE (MS-SMB2 §2.2.4)."""
    if contexts is None:
        contexts = [
            (1, struct.pack("<HHH", 1, 32, SHA_512) + bytes(32)),
            (2, struct.pack("<HH", 1, cipher)),
            (8, struct.pack("<HH", 1, signing)),
        ]
    packed = b""
    for kind, data in contexts if dialect == 0x311 else ():
        packed += bytes(-len(packed) % 8) + struct.pack("<HHI", kind, len(data), 0) + data
    gap = bytes(-len(token) % 8)
    return struct.pack(
        "<HHHH16sIIIIQQHHI", 65, security_mode, dialect, len(contexts) if packed else 0, b"impostor--------",
        capabilities, most_bytes, most_bytes, most_bytes, 0, 0, 128, len(token),
        128 + len(token + gap) if packed else 0,
    ) + token + gap + packed  # fmt: skip


def session(token: bytes, flags: int = 0) -> bytes:
    """The body of an answer to SESSION_SETUP (MS-SMB2 §2.2.6)."""
    return struct.pack("<HHHH", 9, flags, 72, len(token)) + token


def ntlm_challenge() -> bytes:
    """A challenge of NTLM as whoever wants our answer to it would send (MS-NLMP §2.2.1.2)."""
    flags = 0x0000_0001 | 0x10 | 0x200 | 0x80000 | 0x800000 | 0x2000_0000 | 0x4000_0000
    return (
        b"NTLMSSP\0" + struct.pack("<IHHII8s8sHHIQ", 2, 0, 0, 56, flags, b"\x11" * 8, bytes(8), 4, 4, 56, 0) + bytes(4)
    )


class Impostor:
    """What it was sent. Use `impostor`."""

    def __init__(self, answers: Answers, pause_s: float) -> None:
        self._answers = answers
        self._pause_s = pause_s
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.host, self.port = "127.0.0.1", 0
        self.received = bytearray()
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it goes."""
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        self.connections += 1
        try:
            while True:
                (length,) = struct.unpack(">I", await reader.readexactly(4))
                request = await reader.readexactly(length)
                self.received += request
                command = -1 if request[:4] == frame.TRANSFORM else struct.unpack_from("<H", request, 12)[0]
                for message in self._answers(command, request):
                    writer.write(struct.pack(">I", len(message)) + message)
                    await writer.drain()
                    await asyncio.sleep(self._pause_s)
        except (asyncio.IncompleteReadError, OSError):
            pass  # it has gone
        finally:
            writer.close()
            del self._serving[task]

    async def close(self) -> None:
        """End all connections."""
        serving = dict(self._serving)
        for writer in serving.values():
            writer.transport.abort()
        await asyncio.gather(*serving, return_exceptions=True)


@asynccontextmanager
async def impostor(answers: Answers, pause_s: float = 0) -> AsyncIterator[Impostor]:
    """A server on a free port of loopback, that pauses after each message."""
    made = Impostor(answers, pause_s)
    server = await asyncio.start_server(made.serve, made.host, 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.close()
