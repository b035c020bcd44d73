"""The data channel against answers that a real server never gives, and buffers that are taken back."""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pytest
from smbprotocol.connection import SMB2Echo
from smbprotocol.exceptions import SMBResponseException

from replicad.storage.port import Buffer
from replicad.storage.smb import status
from replicad.storage.smb.data import frame, protect
from replicad.storage.smb.data.channel import Pending
from replicad.storage.smb.data.protect import Sealing, Signing
from replicad.storage.smb.failures import ConnectionLostError, NoAnswerError
from replicad.storage.smb.job import Job
from tests.support.smb_peer import (
    INTERIM_FLAGS,
    SESSION_ID,
    SmbPeer,
    answer_to,
    error_body,
    read_body,
    smb_peer,
    write_body,
)

DATA = bytes(range(256)) * 700
PROTECTIONS = [
    pytest.param(None, signing, id=signing.name) for signing in Signing
] + [pytest.param(sealing, Signing.AES_GMAC, id=sealing.name) for sealing in Sealing]  # fmt: skip
either = pytest.mark.parametrize("sealing", [None, Sealing.AES_128_GCM, Sealing.AES_128_CCM])


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def ask(peer: SmbPeer, view: bytearray, job: Job | None = None, offset: int = 0) -> Pending:
    return peer.connection.channel.send_read(peer.target, offset, memoryview(view), (job or Job()).lend())


def wait(peer: SmbPeer, pending: Pending) -> int:
    return peer.connection.channel.wait(pending)


# --- what goes well


@pytest.mark.parametrize(("sealing", "signing"), PROTECTIONS)
def test_data_pass_unchanged_both_ways(sealing: Sealing | None, signing: Signing) -> None:
    with smb_peer(sealing, signing=signing) as peer:
        job = Job()
        channel = peer.connection.channel
        view = bytearray(len(DATA))
        reading = ask(peer, view, job)
        peer.answer(peer.request(), read_body(DATA))
        assert wait(peer, reading) == len(DATA)
        assert view == DATA
        writing = channel.send_write(peer.target, 4096, memoryview(DATA), job.lend())
        request = peer.request()
        assert request[112:] == DATA
        assert struct.unpack_from("<IQ", request, 68) == (len(DATA), 4096)
        peer.answer(request, write_body(len(DATA)))
        assert wait(peer, writing) == len(DATA)


@either
def test_answers_may_come_in_any_order_between_those_of_smbprotocol(sealing: Sealing | None) -> None:
    with smb_peer(sealing) as peer:
        views = [bytearray(1000) for _ in range(5)]
        reads = [ask(peer, view, offset=index) for index, view in enumerate(views)]
        requests = [peer.request() for _ in reads]
        echo = peer.connection.send(SMB2Echo(), sid=SESSION_ID)
        echoed = peer.request()
        for request in reversed(requests[2:]):
            peer.answer(request, read_body(bytes([struct.unpack_from("<Q", request, 72)[0]]) * 1000))
        peer.answer(echoed, struct.pack("<HH", 4, 0))
        assert peer.connection.receive(echo)["status"].get_value() == status.SUCCESS
        for request in requests[:2]:
            peer.answer(request, read_body(bytes([struct.unpack_from("<Q", request, 72)[0]]) * 1000))
        assert [wait(peer, one) for one in reads] == [1000] * 5
        assert views == [bytes([index]) * 1000 for index in range(5)]


@either
def test_an_interim_answer_is_waited_over(sealing: Sealing | None) -> None:
    with smb_peer(sealing) as peer:
        view = bytearray(10)
        reading = ask(peer, view)
        request = peer.request()
        interim = answer_to(request, error_body(), status=status.PENDING, flags=INTERIM_FLAGS)
        # A signed session's interim answer comes unsigned (MS-SMB2 §3.3.4.1.1).
        peer.send(peer.protected(interim) if sealing else interim)
        assert not reading.answered.wait(0.05)
        peer.answer(request, read_body(b"0123456789"))
        assert wait(peer, reading) == 10
        assert view == b"0123456789"


@either
def test_data_may_begin_later_and_end_sooner_than_asked(sealing: Sealing | None) -> None:
    with smb_peer(sealing) as peer:
        view = bytearray(10)
        reading = ask(peer, view)
        peer.answer(peer.request(), read_body(b"0123", start=96) + bytes(4))
        assert wait(peer, reading) == 4
        assert view == b"0123" + bytes(6)


@either
@pytest.mark.parametrize("code", [status.END_OF_FILE, status.ACCESS_DENIED, status.FILE_CLOSED, 0xC000007F, 0x80000005])
def test_every_error_status_is_the_one_that_came_and_harms_nobody_else(sealing: Sealing | None, code: int) -> None:
    with smb_peer(sealing) as peer:
        view = bytearray(10)
        reading = ask(peer, view)
        peer.answer(peer.request(), error_body(), status=code)
        with pytest.raises(SMBResponseException) as raised:
            wait(peer, reading)
        assert raised.value.status == code
        assert view == bytes(10)
        assert not peer.connection.condemned


@pytest.mark.parametrize("code", sorted(status.SESSION_IS_OVER - {status.USER_SESSION_DELETED}))
def test_a_session_that_is_over_ends_the_connection(code: int) -> None:
    with smb_peer() as peer:
        reading = ask(peer, bytearray(10))
        peer.answer(peer.request(), error_body(), status=code)
        with pytest.raises(SMBResponseException):
            wait(peer, reading)
        assert peer.connection.condemned == status.meaning_of(code).clause


# --- answers that nobody may believe


def _flip(message: bytes, at: int) -> bytes:
    changed = bytearray(message)
    changed[at] ^= 1
    return bytes(changed)


LIES: dict[str, Callable[[SmbPeer, bytes], bytes]] = {
    "of another command": lambda peer, request: peer.protected(answer_to(request, read_body(DATA), command=9)),
    "of a READ that is too long": lambda peer, request: peer.protected(answer_to(request, read_body(DATA + b"x"))),
    "with more data than it has": lambda peer, request: peer.protected(
        answer_to(request, read_body(DATA[:-1], claimed=len(DATA)))
    ),
    "with data inside its header": lambda peer, request: peer.protected(answer_to(request, read_body(DATA, start=64))),
    "cut short": lambda peer, request: peer.protected(answer_to(request, read_body(DATA)[:7])),
    "with an error's body": lambda peer, request: peer.protected(answer_to(request, error_body())),
    "of a client": lambda peer, request: peer.protected(answer_to(request, read_body(DATA), flags=frame.SIGNED)),
    "with another one behind it": lambda peer, request: peer.protected(
        answer_to(request, read_body(DATA), following=8)
    ),
    "of another session": lambda peer, request: peer.protected(answer_to(request, read_body(DATA), session_id=5)),
    "with its first bit of data flipped": lambda peer, request: _flip(
        peer.protected(answer_to(request, read_body(DATA))), -len(DATA)
    ),
    "with its last bit flipped": lambda peer, request: _flip(peer.protected(answer_to(request, read_body(DATA))), -1),
    "with another signature": lambda peer, request: _flip(
        peer.protected(answer_to(request, read_body(DATA))), 4 if peer.sealing else 48
    ),
    "unsigned and unencrypted": lambda peer, request: answer_to(request, read_body(DATA), flags=frame.FROM_SERVER),
    "unsigned, with an error": lambda peer, request: answer_to(
        request, error_body(), status=status.END_OF_FILE, flags=frame.FROM_SERVER
    ),
    "of an ended session, unsigned": lambda peer, request: answer_to(
        request, error_body(), status=status.USER_SESSION_DELETED, flags=frame.FROM_SERVER
    ),
    "to nobody": lambda peer, request: peer.protected(answer_to(request, read_body(DATA), message_id=12345)),
    "that is the request itself": lambda peer, request: peer.protected(request),
    "of no meaning": lambda peer, request: b"HTTP/1.1 400 Bad Request" * 9,
    "of nothing": lambda peer, request: b"\xfeSMB",
}


@either
@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_can_t_be_trusted_ends_the_connection(sealing: Sealing | None, lie: str) -> None:
    with smb_peer(sealing) as peer:
        reading, other = ask(peer, bytearray(len(DATA))), ask(peer, bytearray(10))
        request = peer.request()
        peer.send(LIES[lie](peer, request))
        for one in (reading, other):
            with pytest.raises(ConnectionLostError, match=r"an answer|can't be understood|ended our session"):
                wait(peer, one)
        with pytest.raises(ConnectionLostError):
            ask(peer, bytearray(10))


@pytest.mark.parametrize("sealing", list(Sealing))
@pytest.mark.parametrize("at", [*range(0, 52, 3), 52, 52 + 63, 52 + 80])
def test_a_bit_flipped_in_an_encrypted_answer_ends_the_connection(sealing: Sealing, at: int) -> None:
    with smb_peer(sealing) as peer:
        reading = ask(peer, bytearray(len(DATA)))
        peer.send(_flip(peer.protected(answer_to(peer.request(), read_body(DATA))), at))
        with pytest.raises(ConnectionLostError, match=r"an answer|can't be understood"):
            wait(peer, reading)


@pytest.mark.parametrize("signing", list(Signing))
@pytest.mark.parametrize("at", [*range(0, 80, 3), 80, -1])
def test_a_bit_flipped_in_a_signed_answer_ends_the_connection(signing: Signing, at: int) -> None:
    with smb_peer(signing=signing) as peer:
        reading = ask(peer, bytearray(len(DATA)))
        peer.send(_flip(peer.protected(answer_to(peer.request(), read_body(DATA))), at))
        with pytest.raises(ConnectionLostError, match=r"an answer|can't be understood"):
            wait(peer, reading)


def test_a_signed_answer_to_an_encrypted_request_is_refused() -> None:
    with smb_peer(Sealing.AES_128_GCM) as peer:
        reading = ask(peer, bytearray(len(DATA)))
        peer.send(peer.signed(answer_to(peer.request(), read_body(DATA))))
        with pytest.raises(ConnectionLostError, match="an answer came unencrypted"):
            wait(peer, reading)


def test_a_write_that_claims_to_have_written_too_much_is_not_believed() -> None:
    with smb_peer() as peer:
        writing = peer.connection.channel.send_write(peer.target, 0, memoryview(DATA), Job().lend())
        peer.answer(peer.request(), write_body(len(DATA) + 1))
        with pytest.raises(ConnectionLostError, match="does not belong"):
            wait(peer, writing)


@either
def test_an_answer_that_comes_twice_ends_the_connection_and_leaves_the_buffer(sealing: Sealing | None) -> None:
    with smb_peer(sealing) as peer:
        view = bytearray(4)
        reading = ask(peer, view)
        request = peer.request()
        peer.answer(request, read_body(b"good"))
        assert wait(peer, reading) == 4
        other = ask(peer, bytearray(4))
        peer.answer(request, read_body(b"evil"))
        with pytest.raises(ConnectionLostError):
            wait(peer, other)
        assert view == b"good"


# --- silence, credits, and an end


@either
def test_silence_in_the_middle_of_an_answer_ends_with_the_time_for_it(sealing: Sealing | None) -> None:
    with smb_peer(sealing, timeout_s=0.3) as peer:
        reading = ask(peer, bytearray(len(DATA)))
        message = peer.protected(answer_to(peer.request(), read_body(DATA)))
        peer.send_bytes(struct.pack(">I", len(message)) + message[: len(message) // 2])
        with pytest.raises(NoAnswerError):
            wait(peer, reading)
        assert re.fullmatch(r"the server gave no answer for [0-9.]+ s", peer.connection.condemned)


@either
def test_a_server_that_takes_nothing_ends_with_the_time_for_it(sealing: Sealing | None) -> None:
    with smb_peer(sealing, timeout_s=0.3) as peer:
        data = memoryview(bytes(8 << 20))
        with pytest.raises(NoAnswerError):
            peer.connection.channel.send_write(peer.target, 0, data, Job().lend())
        assert peer.connection.condemned == "the server took nothing for 0.3 s"


def test_two_messages_at_a_time_take_memory_for_their_encryption_and_all_end_with_the_connection(
    threads: ThreadPoolExecutor,
) -> None:
    with smb_peer(Sealing.AES_128_GCM) as peer:
        data = memoryview(bytes(8 << 20))  # more than the socket takes
        sealed: list[int] = []
        two = threading.Barrier(3)
        real = protect.Sealer.seal

        def seal(sealer: protect.Sealer, parts: Sequence[Buffer], into: bytearray) -> memoryview:
            sealed.append(id(into))
            two.wait(10)
            return real(sealer, parts, into)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(protect.Sealer, "seal", seal)
            writes = [
                threads.submit(peer.connection.channel.send_write, peer.target, 0, data, Job().lend()) for _ in range(4)
            ]
            two.wait(10)  # with both that may, while the others have not begun
            assert len(set(sealed)) == len(sealed) == 2
        peer.connection.condemn("the test has seen enough")
        for write in writes:
            with pytest.raises(ConnectionLostError):
                write.result(10)


@pytest.mark.parametrize("at", ["before", "header", "data"])
def test_a_connection_that_ends_wakes_everybody(at: str) -> None:
    with smb_peer() as peer:
        reads = [ask(peer, bytearray(len(DATA))) for _ in range(3)]
        message = peer.protected(answer_to(peer.request(), read_body(DATA)))
        kept = {"before": 0, "header": 40, "data": 1000}[at]
        if kept:
            peer.send_bytes(struct.pack(">I", len(message)) + message[:kept])
        peer.close()
        for one in reads:
            with pytest.raises(ConnectionLostError, match=r"the server (closed|reset) the connection"):
                wait(peer, one)
        with pytest.raises(ConnectionLostError):
            ask(peer, bytearray(4))


def test_credits_that_are_granted_one_at_a_time_are_enough(threads: ThreadPoolExecutor) -> None:
    with smb_peer(credits_=1) as peer:
        views = [bytearray(4) for _ in range(6)]

        def one(view: bytearray) -> int:
            return wait(peer, ask(peer, view))

        calls: list[Future[int]] = [threads.submit(one, view) for view in views]
        for index in range(6):
            request = peer.request()
            assert struct.unpack_from("<Q", request, 24)[0] == index
            peer.answer(request, read_body(b"good"), credits_=1)
        assert [call.result(10) for call in calls] == [4] * 6
        assert views == [b"good"] * 6


def test_credits_that_never_come_end_the_connection() -> None:
    with smb_peer(credits_=16, timeout_s=0.3) as peer:
        reading = ask(peer, bytearray(16 * 65536))
        with pytest.raises(ConnectionLostError, match=r"granted no credits for 0\.3 s"):
            ask(peer, bytearray(1))
        with pytest.raises(ConnectionLostError):
            wait(peer, reading)


def test_a_large_request_uses_as_many_message_ids_as_credits() -> None:
    with smb_peer() as peer:
        for size, charge in ((1, 1), (65536, 1), (65537, 2), (1 << 20, 16)):
            before = peer.connection.sequence_window["low"]
            ask(peer, bytearray(size))
            assert struct.unpack_from("<H", peer.request(), 6)[0] == charge
            assert peer.connection.sequence_window["low"] == before + charge


# --- whose buffer it is


@either
def test_a_buffer_that_was_taken_back_is_never_touched(sealing: Sealing | None) -> None:
    with smb_peer(sealing) as peer:
        job, view = Job(), bytearray(len(DATA))
        ask(peer, view, job)
        request = peer.request()
        job.abandon()
        peer.connection.condemn("a call was given up")
        job.take_back()
        with suppress(ConnectionError):  # the socket was shut down
            peer.answer(request, read_body(DATA))
        peer.connection.discard()  # waits for the receiving thread
        assert view == bytes(len(DATA))


@either
def test_a_buffer_that_is_taken_back_in_the_middle_of_an_answer_keeps_what_the_caller_puts_there(
    sealing: Sealing | None,
) -> None:
    with smb_peer(sealing) as peer:
        job, view = Job(), bytearray(len(DATA))
        reading = ask(peer, view, job)
        message = peer.protected(answer_to(peer.request(), read_body(DATA)))
        peer.send_bytes(struct.pack(">I", len(message)) + message[: len(message) // 2])
        job.take_back()
        view[:] = b"\xaa" * len(view)
        with suppress(ConnectionError):  # the receiver may have noticed
            peer.send_bytes(message[len(message) // 2 :])
        with pytest.raises(ConnectionLostError):
            wait(peer, reading)
        assert view == b"\xaa" * len(view)


def test_a_buffer_that_is_being_sent_to_a_server_that_stalls_is_taken_back_at_once(
    threads: ThreadPoolExecutor,
) -> None:
    with smb_peer() as peer:
        job = Job()
        writing = threads.submit(
            peer.connection.channel.send_write, peer.target, 0, memoryview(bytes(8 << 20)), job.lend()
        )
        peer._exactly(100)  # it is under way, and too large for the socket's buffers
        threads.submit(job.take_back).result(2)
        peer.connection.condemn("a call was given up")
        with pytest.raises(ConnectionLostError, match=r"a call was given up|given back"):
            writing.result(10)
