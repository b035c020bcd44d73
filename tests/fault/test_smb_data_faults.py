"""Large reads and writes on a real server, with a relay between that flips, reorders and cuts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest

from replicad.model.address import SmbAddress
from replicad.model.errors import TransientError, UnreachableError
from replicad.storage.port import OpenMode
from replicad.storage.smb.data import frame
from replicad.storage.smb.share import SmbShare
from tests.support.files import pattern
from tests.support.samba import PLAIN, SambaDirectory, open_share, running_samba
from tests.support.samba import samba as samba
from tests.support.samba import samba_server as samba_server
from tests.support.smb_relay import SmbRelay, smb_relay

pytestmark = pytest.mark.samba
MIB = 1 << 20
SMALL_PIECES = {"piece_bytes": 2 * MIB}
"""So that a call has several of them."""
both = pytest.mark.parametrize("encrypted", [False, True], ids=["signed", "encrypted"])


def is_large(message: bytes) -> bool:
    """The answer to a READ of a whole piece, encrypted or not."""
    return len(message) > 2 * MIB


async def test_answers_out_of_order_are_put_where_they_belong(samba: SambaDirectory) -> None:
    for encrypted in (False, True):
        held: list[bytes] = []
        turned: list[int] = []

        def reverse(message: bytes, held: list[bytes] = held, turned: list[int] = turned) -> list[bytes]:
            if not is_large(message):
                return [message]
            held.append(message)
            if len(held) < 4:
                return []
            turned.append(len(held))
            passed = held[::-1]
            held.clear()
            return passed

        data = pattern(16 * MIB, 3)
        (samba.path / "disk").write_bytes(data)
        async with (
            smb_relay(samba.server.host, samba.server.port, reverse) as relay,
            open_share(
                samba.server, samba.address(), port=relay.port, encryption_required=encrypted, **SMALL_PIECES
            ) as share,
            await share.open("disk", OpenMode.READ) as file,
        ):
            # One call has four pieces on its way, so each of these ends with none held back.
            for offset in (0, 8 * MIB):
                view = bytearray(8 * MIB)
                assert await file.read_into(view, offset) == len(view)
                assert view == data[offset : offset + len(view)]
        assert turned == [4, 4]


FLIPS: dict[str, tuple[int, bool]] = {
    "the protocol id": (0, True),
    "the tag": (4, True),
    "the nonce": (20, True),
    "the size": (36, True),
    "the flags of the transform header": (42, True),
    "the session id": (44, True),
    "the encrypted header": (52 + 24, True),
    "the encrypted data": (MIB // 2, True),
    "the end of the encrypted data": (-1, True),
    "the status": (8, False),
    "the credits": (14, False),
    "the message id": (24, False),
    "the signature": (48, False),
    "the offset of the data": (66, False),
    "the length of the data": (68, False),
    "the first byte of the data": (80, False),
    "the data": (MIB // 2, False),
    "the end of the data": (-1, False),
}


@pytest.mark.parametrize("what", FLIPS)
async def test_a_bit_flipped_on_the_way_is_never_read_as_data(samba: SambaDirectory, what: str) -> None:
    at, encrypted = FLIPS[what]
    number = count()

    def flip(message: bytes) -> bytes:
        if not is_large(message) or next(number) != 2:
            return message
        changed = bytearray(message)
        changed[at] ^= 1
        return bytes(changed)

    data = pattern(8 * MIB, 4)
    (samba.path / "disk").write_bytes(data)
    async with (
        smb_relay(samba.server.host, samba.server.port, flip) as relay,
        open_share(
            samba.server, samba.address(), port=relay.port, encryption_required=encrypted, **SMALL_PIECES
        ) as share,
    ):
        async with await share.open("disk", OpenMode.READ) as file:
            with pytest.raises(UnreachableError, match=r"an answer|can't be understood"):
                await file.read_into(bytearray(len(data)), 0)
        async with await share.open("disk", OpenMode.READ) as file:
            again = bytearray(len(data))
            assert await file.read_into(again, 0) == len(data)
            assert again == data
        assert relay.connections == 2


@asynccontextmanager
async def relayed_share(
    samba: SambaDirectory, encrypted: bool, cut_at: int, connections: int
) -> AsyncIterator[tuple[SmbRelay, SmbShare]]:
    """A share of which a connection is reset when the server sends its `cut_at`th message after the sign-in there."""
    seen = count()
    armed = False

    def cut(message: bytes) -> bytes:
        if armed and next(seen) == cut_at:
            relay.cut(relay.passing)
        return message

    async with (
        smb_relay(samba.server.host, samba.server.port, cut) as relay,
        open_share(
            samba.server,
            samba.address(),
            port=relay.port,
            encryption_required=encrypted,
            connections=connections,
            **SMALL_PIECES,
        ) as share,
    ):
        await share.list("")
        armed = True
        yield relay, share


RESETS = [(1, encrypted, cut_at) for cut_at in range(24) for encrypted in (False, True)] + [
    # The second connection is made in the middle of this. Each message is the last one either signed or encrypted.
    (2, bool(cut_at % 2), cut_at)
    for cut_at in range(36)
]


@pytest.mark.parametrize(("connections", "encrypted", "cut_at"), RESETS)
async def test_a_transfer_that_is_reset_at_any_message_is_done_right_when_it_is_repeated(
    samba: SambaDirectory, connections: int, encrypted: bool, cut_at: int
) -> None:
    data = pattern(16 * MIB, cut_at)
    async with relayed_share(samba, encrypted, cut_at, connections) as (relay, share):
        failures = 0

        async def once() -> bytearray:
            mode = OpenMode.WRITE if (samba.path / "disk").exists() else OpenMode.CREATE
            async with await share.open("disk", mode) as file:
                await asyncio.gather(file.write(data[: 10 * MIB], 0), file.write(data[10 * MIB :], 10 * MIB))
                await file.flush()
                view = bytearray(len(data))
                half = len(data) // 2
                reads = (file.read_into(memoryview(view)[start : start + half], start) for start in (0, half))
                assert sum(await asyncio.gather(*reads)) == len(data)
                return view

        while True:
            try:
                view = await once()
                break
            except UnreachableError:
                failures += 1
                assert failures < 3
        assert view == data
        assert (samba.path / "disk").read_bytes() == data
        if connections == 1:
            assert relay.connections == 1 + failures
            assert failures == (1 if cut_at < 18 else failures)
        else:
            # What befalls a second connection while it is made is no failure: then the first one does it all.
            assert failures <= 1
            assert relay.connections >= 2 + failures


@both
@pytest.mark.parametrize("connections", [1, 2])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("op", ["write", "read"])
async def test_a_server_that_dies_or_stalls_in_the_middle_ends_the_call_in_time(
    encrypted: bool, how: signal.Signals, op: str, connections: int
) -> None:
    """Of two connections, the process that serves the second one."""
    number = count()
    children: list[int] = []

    def stop(message: bytes) -> bytes:
        if children and relay.passing == connections - 1 and next(number) == 3:
            for pid in children:
                os.kill(pid, how)
        return message

    with running_samba() as server:
        disk = server.share_directory(PLAIN) / "disk"
        disk.write_bytes(bytes(32 * MIB))
        async with (
            smb_relay(server.host, server.port, stop) as relay,
            open_share(
                server, SmbAddress("nas", PLAIN), port=relay.port, encryption_required=encrypted, timeout_s=1,
                connections=connections, **SMALL_PIECES,
            ) as share,
            await share.open("disk", OpenMode.WRITE) as file,
        ):  # fmt: skip
            before = server.pids()[1:] if connections == 2 else []
            await (await share.bundle()).settle()
            children[:] = set(server.pids()[1:]).difference(before)  # those that serve connections
            length = 32 * MIB // connections
            async with asyncio.timeout(10):
                results = await asyncio.gather(
                    *(
                        file.write(pattern(length), index * length)
                        if op == "write"
                        else file.read_into(bytearray(length), index * length)
                        for index in range(connections)
                    ),
                    return_exceptions=True,
                )
                failed = [one for one in results if isinstance(one, BaseException)]
                assert failed
                for error in failed:
                    with pytest.raises(TransientError, match=r"closed|reset|no answer|took nothing"):
                        raise error
                with pytest.raises(UnreachableError):
                    await file.flush()
        if how is signal.SIGSTOP:
            for pid in children:
                with contextlib.suppress(ProcessLookupError):  # it may have been the last one to notice
                    os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("connections", [1, 3])
async def test_no_nonce_is_used_twice_by_whatever_a_connection_sends(samba: SambaDirectory, connections: int) -> None:
    sent: dict[int, bytearray] = {}

    def listen(data: bytes) -> None:
        sent.setdefault(relay.passing, bytearray()).extend(data)

    async with (
        smb_relay(samba.server.host, samba.server.port, listen=listen) as relay,
        open_share(samba.server, samba.address(), port=relay.port, connections=connections, **SMALL_PIECES) as share,
    ):
        bundle = await share.bundle()
        await bundle.settle()

        async def one(index: int) -> None:
            async with await share.open(f"{index}", OpenMode.CREATE) as file:
                await file.write(bytes(3 * MIB + index), 0)
                await file.read_into(bytearray(MIB), 0)
                await file.identity()

        await asyncio.gather(*(one(index) for index in range(8)))
        sessions = [link.session for link in bundle.links]
        # Each session has keys of its own; so what the connections count need not differ.
        assert len({session.encryption_key for session in sessions}) == connections
        assert len({session.signing_key for session in sessions}) == connections
    assert sorted(sent) == list(range(connections))
    for data in sent.values():
        nonces = [transform.nonce for transform in _transforms(bytes(data))]
        assert len(nonces) > 12
        assert len(set(nonces)) == len(nonces)
        numbers = sorted(int.from_bytes(nonce[4:12], "little") for nonce in nonces)
        assert len({nonce[:4] for nonce in nonces}) == 1
        assert numbers[-1] - numbers[0] == len(numbers) - 1  # one counter


def _transforms(sent: bytes) -> list[frame.Transform]:
    found: list[frame.Transform] = []
    position = 0
    while position < len(sent):
        (length,) = struct.unpack_from(">I", sent, position)
        transform = frame.parse_transform(sent[position + 4 : position + 4 + frame.TRANSFORM_BYTES])
        if transform is not None:
            found.append(transform)
        position += 4 + length
    return found
