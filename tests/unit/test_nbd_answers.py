"""What an NBD server says is held against what was asked for; nothing of it is believed further than that."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicad.hypervisor.qemu import nbd
from replicad.hypervisor.qemu.nbd_client import NbdExport
from replicad.model.errors import BusyError, IntegrityError, ReplicadError, UnreachableError
from replicad.model.extents import Extent

SIZE = 1 << 20
GREETING = b"NBDMAGICIHAVEOPT\0\3"
Answer = Callable[[int, int, int, int], bytes]


def option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data


def chunk(cookie: int, kind: int, data: bytes, *, last: bool = True) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, int(last), kind, cookie, len(data)) + data


NEGOTIATION = (
    option_reply(8, 1)
    + option_reply(10, 4, struct.pack(">I", 7) + b"base:allocation")
    + option_reply(10, 1)
    + option_reply(7, 3, struct.pack(">HQH", 0, SIZE, 1))
    + option_reply(7, 1)
)


@asynccontextmanager
async def server(path: Path, answer: Answer, hello: bytes = GREETING + NEGOTIATION) -> AsyncIterator[NbdExport]:
    """An export whose server says `hello` and answers each request with (kind, cookie, offset, length)."""

    def serve(connected: socket.socket) -> None:
        with connected, connected.makefile("rb") as asked, contextlib.suppress(OSError, struct.error):
            connected.sendall(hello)
            asked.read(4 + len(nbd.option(nbd.STRUCTURED_REPLY)))
            asked.read(len(nbd.contexts_option("e", ["base:allocation"])) + len(nbd.go_option("e")))
            while True:
                _, _, kind, cookie, offset, length = struct.unpack(">IHHQQI", asked.read(28))
                connected.sendall(answer(kind, cookie, offset, length))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = listening.accept()
                serving.submit(serve, connected)

    with ThreadPoolExecutor(1) as executor, ThreadPoolExecutor(8) as serving:
        listening = socket.socket(socket.AF_UNIX)
        with listening:
            listening.bind(str(path / "nbd"))
            listening.listen()
            serving.submit(accept)
            export = NbdExport(executor, path / "nbd", "e", ["base:allocation"])
            try:
                yield export
            finally:
                await export.close()
                listening.shutdown(socket.SHUT_RDWR)


def data(cookie: int, offset: int, content: bytes, *, last: bool = True) -> bytes:
    return chunk(cookie, 1, struct.pack(">Q", offset) + content, last=last)


async def test_data_and_holes_in_any_order_make_the_bytes(tmp_path: Path) -> None:
    def answer(kind: int, cookie: int, offset: int, length: int) -> bytes:
        hole = chunk(cookie, 2, struct.pack(">QI", offset + 8, length - 8), last=False)
        return hole + data(cookie, offset, b"abcdefgh")

    async with server(tmp_path, answer) as export:
        buffer = bytearray(b"x" * 24)
        assert await export.read_into(buffer, 40) == 24
        assert buffer == b"abcdefgh" + bytes(16)
        assert await export.read_into(bytearray(64), SIZE - 32) == 32
        assert await export.read_into(bytearray(64), SIZE) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda c, o, n: data(c, o, bytes(n - 1)),
        lambda c, o, n: data(c, o + 1, bytes(n)),
        lambda c, o, n: data(c, o, bytes(n), last=False) + data(c, o, bytes(n)),
        lambda c, o, n: data(c, o, bytes(n // 2), last=False) + data(c, o, bytes(n // 2)),
        lambda c, o, n: data(c + 1, o, bytes(n)),
        lambda c, o, n: chunk(c, 0, b""),
        lambda c, o, n: chunk(c, 5, struct.pack(">III", 7, n, 0)),
        lambda c, o, n: chunk(c, 2, struct.pack(">QI", 0, 2**32 - 1)),
        lambda c, o, n: chunk(c, 1, b"\0" * 4),
        lambda c, o, n: struct.pack(">IHHQI", 0x668E33EF, 1, 1, c, 2**31),
        lambda c, o, n: struct.pack(">IHHQI", 0x668E33EF, 1, 77, c, 0),
        lambda c, o, n: chunk(c, 0x8001, b"\0"),
        lambda c, o, n: b"HTTP/1.1 400",
        lambda c, o, n: struct.pack(">IIQ", 0x67446698, 0, c + 5),
        lambda c, o, n: struct.pack(">IIQ", 0x67446698, 0, c),
        lambda c, o, n: data(c, o, b"", last=False) * 10_000,
    ],
)
async def test_what_was_not_asked_for_is_refused(tmp_path: Path, wrong: Callable[[int, int, int], bytes]) -> None:
    async with server(tmp_path, lambda kind, cookie, offset, length: wrong(cookie, offset, length)) as export:
        with pytest.raises(IntegrityError):
            await export.read_into(bytearray(64), 128)


@pytest.mark.parametrize(
    "error",
    [
        lambda c: chunk(c, 0x8001, struct.pack(">IH", 5, 3) + "가".encode()),
        lambda c: struct.pack(">IIQ", 0x67446698, 5, c),
    ],
)
async def test_a_failed_read_is_told_and_the_next_one_goes_on(tmp_path: Path, error: Callable[[int], bytes]) -> None:
    failing = True

    def answer(kind: int, cookie: int, offset: int, length: int) -> bytes:
        return error(cookie) if failing else data(cookie, offset, b"y" * length)

    async with server(tmp_path, answer) as export:
        with pytest.raises(BusyError, match="Input/output error"):
            await export.read_into(bytearray(64), 0)
        failing = False
        buffer = bytearray(64)
        await export.read_into(buffer, 0)
        assert buffer == b"y" * 64


async def test_a_read_that_is_cancelled_spoils_no_other(tmp_path: Path) -> None:
    slow = threading.Event()

    def answer(kind: int, cookie: int, offset: int, length: int) -> bytes:
        slow.wait(10)
        return data(cookie, offset, b"z" * length)

    async with server(tmp_path, answer) as export:
        reading = asyncio.ensure_future(export.read_into(bytearray(64), 0))
        for _ in range(50):
            await asyncio.sleep(0.001)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        slow.set()
        buffer = bytearray(64)
        assert await export.read_into(buffer, 64) == 64
        assert buffer == b"z" * 64


async def test_block_status_is_put_together_from_many_answers(tmp_path: Path) -> None:
    def answer(kind: int, cookie: int, offset: int, length: int) -> bytes:
        extents = [(4096, 1), (8192, 0)] if offset + 12288 <= SIZE else [(2**30, 3)]
        packed = b"".join(struct.pack(">II", *extent) for extent in extents)
        return chunk(cookie, 5, struct.pack(">I", 7) + packed)

    async with server(tmp_path, answer) as export:
        found = await export.extents("base:allocation", 1)
    assert found[:2] == [Extent(0, 4096), Extent(12288, 4096)]
    assert found[-1].end_bytes == SIZE
    assert len(found) == SIZE // 12288 + 1


@pytest.mark.parametrize("status", [b"", struct.pack(">III", 7, 0, 1), struct.pack(">III", 9, 4096, 1), b"\0" * 9])
async def test_a_block_status_of_nothing_does_not_go_on_for_ever(tmp_path: Path, status: bytes) -> None:
    async with server(tmp_path, lambda kind, cookie, offset, length: chunk(cookie, 5, status)) as export:
        with pytest.raises(IntegrityError):
            await export.extents("base:allocation", 1)


@settings(max_examples=60)
@given(st.binary(max_size=200), st.integers(0, 60))
def test_no_greeting_and_no_answer_whatever_does_more_than_fail(noise: bytes, kept: int) -> None:
    async def read() -> None:
        hello = (GREETING + NEGOTIATION)[:kept] + noise
        with tempfile.TemporaryDirectory() as directory:
            async with server(Path(directory), lambda *request: noise, hello) as export:
                async with asyncio.timeout(0.05):
                    await export.read_into(bytearray(64), 0)

    with contextlib.suppress(ReplicadError, TimeoutError, UnreachableError):
        asyncio.run(read())
