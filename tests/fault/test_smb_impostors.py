"""Servers that only pretend, and somebody between us and a real one: they get no password and no data, and we believe
them nothing, keep little for them and wait no longer for them than for others."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from replicad.cli.demo.samba import PrivateSamba
from replicad.model.address import SmbAddress
from replicad.model.errors import ReplicadError, SignInError, TransientError, UnreachableError, UnsupportedError
from replicad.storage.smb import Endpoint, SmbPool
from tests.support.files import put
from tests.support.samba import PLAIN, SambaDirectory, closing_pool, open_share, running_samba
from tests.support.samba import samba as samba
from tests.support.samba import samba_server as samba_server
from tests.support.smb_impostor import (
    MORE_PROCESSING,
    NEGOTIATE,
    SESSION_SETUP,
    Answers,
    Impostor,
    answer,
    impostor,
    negotiated,
    ntlm_challenge,
    session,
)
from tests.support.smb_relay import smb_relay

PASSWORD = "잊을 수 없는 hunter2 🔑"
ADDRESS = SmbAddress("nas", "vms")
both = pytest.mark.parametrize("required", [True, False], ids=["encryption required", "encryption allowed"])


async def met(server: Impostor, *, required: bool = True, timeout_s: float = 5, **changes: Any) -> ReplicadError:
    """What a client says that was led to it. It never hears the password."""

    async def password() -> str:
        return PASSWORD

    fields: dict[str, Any] = {
        "username": "svc", "password": password, "encryption_required": required, "connect_timeout_s": timeout_s,
        "timeout_s": timeout_s, **changes,
    }  # fmt: skip

    async def use(pool: SmbPool) -> None:
        async with asyncio.timeout(30):
            await put(await pool.share(ADDRESS), "secret.vhdx", b"what the guest holds")

    async with closing_pool(SmbPool({"nas": Endpoint("nas", server.host, server.port, **fields)})) as pool:
        with pytest.raises(ReplicadError) as caught:
            await use(pool)
    for form in (
        PASSWORD.encode(),
        PASSWORD.encode("utf-16-le"),
        b"what the guest holds",
        "secret".encode("utf-16-le"),
    ):
        assert form not in server.received
    for secret in (PASSWORD, "hunter2"):
        assert secret not in str(caught.value) + repr(caught.value)
    return caught.value


def scripted(first: bytes, *rounds: Callable[[bytes], Sequence[bytes]]) -> Answers:
    """A server that negotiates with the body `first`, then answers one request after the other; the last for ever."""
    left = list(rounds)

    def answers(command: int, request: bytes) -> Sequence[bytes]:
        if command == NEGOTIATE:
            return [answer(request, first)]
        return (left.pop(0) if len(left) > 1 else left[0])(request)

    return answers


def saying(body: bytes, status: int = 0, **fields: Any) -> Callable[[bytes], Sequence[bytes]]:
    return lambda request: [answer(request, body, status=status, **fields)]


def nothing(request: bytes) -> Sequence[bytes]:
    return []


CHALLENGE = saying(session(ntlm_challenge()), MORE_PROCESSING)


@both
async def test_a_server_that_does_not_know_the_password_is_not_believed(required: bool) -> None:
    """It lets everybody in. What it lacks is the key that only the password leads to."""
    async with impostor(scripted(negotiated(), CHALLENGE, saying(session(b"")))) as server:
        error = await met(server, required=required)
    clause = (
        "came unencrypted|does not belong|can't be decrypted" if required else "the signature of an answer is wrong"
    )
    assert isinstance(error, SignInError if not required else ReplicadError)
    with pytest.raises(ReplicadError, match=clause):
        raise error


@both
@pytest.mark.parametrize("flag", [1, 2], ids=["guest", "anonymous"])
async def test_a_server_that_takes_us_for_a_guest_is_refused(required: bool, flag: int) -> None:
    async with impostor(scripted(negotiated(), CHALLENGE, saying(session(b"", flag)))) as server:
        error = await met(server, required=required)
        assert server.connections == 1
    with pytest.raises(SignInError, match="takes us for a guest, without signing or encryption"):
        raise error


async def test_a_server_that_forgets_the_encryption_that_it_promised_gets_none_of_the_data() -> None:
    async with impostor(scripted(negotiated(), CHALLENGE, saying(session(b"")), saying(bytes(60)))) as server:
        await met(server)
    assert b"\xfdSMB" in server.received  # we have begun to encrypt, whatever it said


@both
async def test_a_sign_in_that_never_ends_is_ended(required: bool) -> None:
    """Without a token spnego begins anew, as often as it is asked to; and smbprotocol keeps every answer."""
    padding = bytes(60_000)
    async with impostor(scripted(negotiated(), saying(session(b"") + padding, MORE_PROCESSING))) as server:
        error = await met(server, required=required)
    with pytest.raises(SignInError, match=r"does not come to an end with the sign-in\. Make sure that it is yours"):
        raise error


async def test_a_sign_in_that_was_never_made_gives_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Kerberos and NTLM to choose from, a server can make spnego call a sign-in complete of which nothing has been
    done. smbprotocol would take zeros for its key, which everybody knows."""

    class Hollow(SimpleNamespace):
        complete = False
        session_key = b""

        def step(self, token: bytes) -> bytes | None:
            self.complete = bool(token)
            return None if token else b"token"

    def client(*arguments: Any, **options: Any) -> Hollow:
        return Hollow()

    monkeypatch.setattr("smbprotocol.session.spnego.client", client)
    async with impostor(scripted(negotiated(), saying(session(b"done")))) as server:
        error = await met(server)
    with pytest.raises(SignInError, match="ended before the server had proven anything"):
        raise error


@both
async def test_a_server_that_is_always_about_to_answer_is_given_up(required: bool) -> None:
    interim = struct.pack("<HBxIx", 9, 0, 0)

    def answers(command: int, request: bytes) -> Iterator[bytes]:
        while True:
            yield answer(request, interim, status=0x103, flags=3)

    async with impostor(answers, pause_s=0.02) as server:
        began_s = time.monotonic()
        error = await met(server, required=required, timeout_s=0.1)
        assert time.monotonic() - began_s < 15
    with pytest.raises(TransientError, match="gave no answer"):
        raise error


DEEP = b"\x60\x84\x00\x00\xff\xf0" + b"\x30\x84\x00\x00\xff\x00" * 5000
TOKENS = {
    "random": Random(1).randbytes(300),
    "deep": DEEP,
    "a length of gigabytes": b"\x60\x84\xff\xff\xff\xff\x06\x06+\x06\x01\x05\x05\x02",
    "no end": b"\x60\x80\x06\x06+\x06\x01\x05\x05\x02\xa0\x80",
    "a long number": b"\xa1\x82\x01\x00\x30\x82\x00\xfc\xa0\x81\xf9\x0a\x81\xf6" + b"\xff" * 246,
    "an unknown way": b"\x60\x28\x06\x06+\x06\x01\x05\x05\x02\xa0\x1e\x30\x1c\xa0\x1a\x30\x18\x06\x16" + b"\x7f" * 22,
    "a challenge cut off": ntlm_challenge()[:20],
    "a challenge that lies": ntlm_challenge()[:12] + b"\xff" * 44,
    "an NTLM message of another kind": b"NTLMSSP\0" + struct.pack("<I", 9) + bytes(60),
    "rejected": b"\xa1\x07\x30\x05\xa0\x03\x0a\x01\x02",
    "done": b"\xa1\x07\x30\x05\xa0\x03\x0a\x01\x00",
    "done, by another way": b"\xa1\x14\x30\x12\xa0\x03\x0a\x01\x00\xa1\x0b\x06\x09*\x86H\x86\xf7\x12\x01\x02\x02",
}


@pytest.mark.parametrize("status", [0, MORE_PROCESSING], ids=["success", "more"])
@pytest.mark.parametrize("what", TOKENS)
async def test_a_token_that_makes_no_sense_ends_the_sign_in(what: str, status: int) -> None:
    token = TOKENS[what]
    for first, later in ((token, token), (b"", token)):
        async with impostor(scripted(negotiated(token=first), saying(session(later), status))) as server:
            error = await met(server)
            assert server.connections == 1
        # That one can be understood: it only can't be the right one, which shows at the next answer.
        assert isinstance(error, UnreachableError if what == "a challenge that lies" else SignInError)


@pytest.mark.parametrize("seed", range(40))
async def test_random_changes_of_a_sign_in_end_it(seed: int) -> None:
    random = Random(seed)

    def changed(message: bytes) -> bytes:
        altered = bytearray(message)
        for _ in range(random.randint(1, 8)):
            altered[random.randrange(len(altered))] = random.randrange(256)
        return bytes(altered[: random.choice([len(altered), random.randrange(len(altered))])])

    def answers(command: int, request: bytes) -> Sequence[bytes]:
        if command == NEGOTIATE:
            good = answer(request, negotiated())
            return [good if random.random() < 0.7 else changed(good)]
        if command == SESSION_SETUP:
            return [changed(answer(request, session(ntlm_challenge()), status=MORE_PROCESSING))]
        return []

    async with impostor(answers) as server:
        await met(server, timeout_s=0.3)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "SMB 2.1": ({"dialect": 0x210}, "SMB 3.0.2 or later is needed"),
    "a wildcard": ({"dialect": 0x2FF}, "SMB 3.0.2 or later is needed|can't be understood"),
    "a dialect that nobody offered": ({"dialect": 0x312}, "can't be understood"),
    "no cipher": ({"cipher": 0}, "does not offer encryption"),
    "no encryption with SMB 3.0.2": ({"dialect": 0x302, "capabilities": 0x3F}, "does not offer encryption"),
    "a context without a cipher": ({"contexts": [(2, struct.pack("<H", 0))]}, "can't be understood"),
    "a context cut off": ({"contexts": [(2, b"\x05")]}, "can't be understood"),
    "no way to read or write": ({"most_bytes": 0}, "can't be understood"),
    "a byte at a time": ({"most_bytes": 1}, "can't be understood"),
}


@pytest.mark.parametrize("what", OTHERS)
async def test_a_server_that_offers_too_little_is_refused_before_the_sign_in(what: str) -> None:
    fields, clause = OTHERS[what]
    async with impostor(scripted(negotiated(**fields), nothing)) as server:
        error = await met(server)
        assert b"NTLMSSP" not in server.received
    with pytest.raises((UnsupportedError, UnreachableError), match=clause):
        raise error


async def test_a_negotiation_that_is_cut_off_anywhere_is_refused() -> None:
    whole = negotiated()
    for length in range(0, len(whole), 7):
        async with impostor(scripted(whole[:length], nothing)) as server:
            error = await met(server, timeout_s=0.3)
        assert isinstance(error, ReplicadError)
        assert b"NTLMSSP" not in server.received or length >= 64


# --- between us and a real server -------------------------------------------------------------------------------------


Change = Callable[[bytes], bytes]


def as_it_is(message: bytes) -> bytes:
    return message


@asynccontextmanager
async def between(
    server: PrivateSamba, *, upward: Change = as_it_is, downward: Change = as_it_is
) -> AsyncIterator[int]:
    """A port at which somebody changes what goes to the server and what comes from it."""
    async with smb_relay(server.host, server.port, downward, alter=upward) as relay:
        yield relay.port


def _command(message: bytes) -> int:
    return struct.unpack_from("<H", message, 12)[0] if message[:4] == b"\xfeSMB" else -1


def _is_answer(message: bytes) -> bool:
    return bool(message[16] & 1)


def in_negotiation(change: Callable[[bytearray], None]) -> Change:
    def apply(message: bytes) -> bytes:
        if _command(message) != NEGOTIATE:
            return message
        altered = bytearray(message)
        change(altered)
        return bytes(altered)

    return apply


def older_dialect_only(message: bytearray) -> None:
    """Let the client seem to know nothing newer than SMB 3.0.2."""
    (count,) = struct.unpack_from("<H", message, 66)
    for at in range(100, 100 + 2 * count, 2):
        if struct.unpack_from("<H", message, at)[0] == 0x311:
            struct.pack_into("<H", message, at, 0x302)


def _in_context(message: bytearray, kind: int, number: int) -> None:
    """Put a number in place of the first one that a context names (MS-SMB2 §2.2.3.1, §2.2.4)."""
    at, count = struct.unpack_from("<IH", message, 92) if not _is_answer(bytes(message)) else (
        struct.unpack_from("<I", message, 124)[0], struct.unpack_from("<H", message, 70)[0]
    )  # fmt: skip
    for _ in range(count):
        found, length = struct.unpack_from("<HH", message, at)
        if found == kind:
            struct.pack_into("<H", message, at + 8 + 2, number)
        at += 8 + length + -length % 8


CHANGES: dict[str, tuple[Change, Change]] = {
    "an older dialect is asked for": (in_negotiation(older_dialect_only), as_it_is),
    "an older dialect is answered": (as_it_is, in_negotiation(lambda m: struct.pack_into("<H", m, 68, 0x302))),
    "another cipher is asked for": (in_negotiation(lambda m: _in_context(m, 2, 1)), as_it_is),
    "another cipher is answered": (as_it_is, in_negotiation(lambda m: _in_context(m, 2, 1))),
    "another signature is asked for": (in_negotiation(lambda m: _in_context(m, 8, 0)), as_it_is),
    "another signature is answered": (as_it_is, in_negotiation(lambda m: _in_context(m, 8, 0))),
    "signing is not required": (in_negotiation(lambda m: struct.pack_into("<H", m, 68, 1)), as_it_is),
    "signing is not offered": (as_it_is, in_negotiation(lambda m: struct.pack_into("<H", m, 66, 0))),
    "another identity": (as_it_is, in_negotiation(lambda m: struct.pack_into("<Q", m, 72, 7))),
}


@pytest.mark.samba
@both
@pytest.mark.parametrize("what", CHANGES)
async def test_a_negotiation_that_is_changed_on_the_way_comes_to_nothing(
    samba: SambaDirectory, what: str, required: bool
) -> None:
    upward, downward = CHANGES[what]
    before = sorted(samba.path.iterdir())
    async with between(samba.server, upward=upward, downward=downward) as port:
        with pytest.raises(ReplicadError):
            async with open_share(samba.server, samba.address(), port=port, encryption_required=required) as share:
                await put(share, "disk", b"abc")
    assert sorted(samba.path.iterdir()) == before
    async with (
        between(samba.server) as port,
        open_share(samba.server, samba.address(), port=port, encryption_required=required) as share,
    ):
        await put(share, "disk", b"abc")


def _session_flags(number: int) -> Change:
    def change(message: bytes) -> bytes:
        if _command(message) != SESSION_SETUP or struct.unpack_from("<I", message, 8)[0] != 0:
            return message
        return message[:66] + struct.pack("<H", number) + message[68:]

    return change


@pytest.mark.samba
@both
@pytest.mark.parametrize("number", [1, 2, 3])
async def test_nobody_on_the_way_makes_guests_of_us(samba: SambaDirectory, number: int, required: bool) -> None:
    async with between(samba.server, downward=_session_flags(number)) as port:
        with pytest.raises(SignInError, match="guest"):
            async with open_share(samba.server, samba.address(), port=port, encryption_required=required):
                pass


@pytest.mark.samba
async def test_an_encryption_that_a_server_demands_is_not_stripped_on_the_way(samba: SambaDirectory) -> None:
    with running_samba(settings={"server smb encrypt": "required"}) as server:
        async with between(server, downward=_session_flags(0)) as port:
            with pytest.raises(SignInError, match="the signature of an answer is wrong"):
                async with open_share(server, SmbAddress("nas", PLAIN), port=port, encryption_required=False):
                    pass


@pytest.mark.samba
@pytest.mark.parametrize("command", [3, 5, 7, 11, 14, 16], ids=["tree", "create", "flush", "ioctl", "list", "query"])
async def test_a_request_that_is_thrown_back_to_us_does_nothing(samba: SambaDirectory, command: int) -> None:
    """On a signed connection, by somebody who has none of its keys."""
    thrown: list[bytes] = []

    def upward(message: bytes) -> bytes:
        if _command(message) == command:
            thrown.append(message)
        return message

    def downward(message: bytes) -> bytes:
        return thrown[-1] if thrown and _command(message) == command else message

    async def use(port: int) -> None:
        async with open_share(samba.server, samba.address(), port=port, encryption_required=False) as share:
            await put(share, "disk", b"abc")
            await share.list("")
            await share.capabilities()

    async with between(samba.server, upward=upward, downward=downward) as port:
        with pytest.raises(UnreachableError, match="does not come from the server"):
            await use(port)
    assert thrown
