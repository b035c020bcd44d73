"""A connection against a server, or somebody on the way, that sends what it likes: nothing untrue is believed, nothing
is kept that nobody asked for, and every wait ends."""

from __future__ import annotations

import contextlib
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from smbprotocol.connection import SMB2Echo
from smbprotocol.exceptions import SMBException
from smbprotocol.open import SMB2CloseRequest, SMB2FlushRequest

from replicad.model.errors import ReplicadError, UnsupportedError
from replicad.storage.port import CopyRange
from replicad.storage.smb import Endpoint, calls, status
from replicad.storage.smb.allocation import allocated
from replicad.storage.smb.calls import Access, Facts, Handle
from replicad.storage.smb.data import frame
from replicad.storage.smb.data.protect import Sealing, Signing
from replicad.storage.smb.failures import ConnectionLostError, MalformedAnswerError, NoAnswerError
from replicad.storage.smb.job import Job
from replicad.storage.smb.link import CopyLimits
from replicad.storage.smb.server_copy import copy_chunks, resume_key
from replicad.storage.smb.vetting import UNSOLICITED
from tests.support.smb_peer import (
    FILE_ID,
    INTERIM_FLAGS,
    SESSION_ID,
    TREE_ID,
    SmbPeer,
    answer_to,
    error_body,
    read_body,
    smb_peer,
)

KIB, MIB = 1 << 10, 1 << 20
NEGOTIATE = 0
either = pytest.mark.parametrize("sealing", [None, Sealing.AES_128_GCM], ids=["signed", "encrypted"])


def ended(peer: SmbPeer) -> str:
    """Why the connection was given up, once the receiving thread has ended."""
    peer.connection._t_worker.join(10)
    assert not peer.connection._t_worker.is_alive()
    return peer.connection.condemned


def tree_on(peer: SmbPeer) -> Any:
    """An open share, as far as calls look at it."""
    session = peer.connection.session_table[SESSION_ID]
    session.tree_connect_table[TREE_ID] = SimpleNamespace(is_dfs_share=False, encrypt_data=False)
    peer.connection.max_transact_size = MIB
    link = SimpleNamespace(
        connection=peer.connection, session_id=SESSION_ID, endpoint=Endpoint("nas", "127.0.0.1"), piece_bytes=MIB
    )
    return SimpleNamespace(link=link, tree_id=TREE_ID, can_tell_ranges=True, copy_limits=CopyLimits(), encrypted=False)


HANDLE = Handle(FILE_ID, Facts(0, 0, 0, 0, calls.Attribute(0)))


# --- what is believed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signing", list(Signing), ids=lambda one: one.name)
@pytest.mark.parametrize("kind", [SMB2FlushRequest, SMB2CloseRequest])
def test_a_request_that_is_thrown_back_is_not_taken_for_its_own_success(signing: Signing, kind: Any) -> None:
    """Both sides sign with one key, and where an answer has its status a request has zeros."""
    with smb_peer(signing=signing) as peer:
        message = kind()
        message["file_id"] = FILE_ID
        request = peer.connection.send(message, sid=SESSION_ID)
        peer.send(peer.request())
        with pytest.raises(ConnectionLostError, match="does not come from the server"):
            peer.connection.receive(request)


@either
@pytest.mark.parametrize("command", [NEGOTIATE, 1, frame.READ])
def test_nothing_comes_unasked_but_a_broken_oplock(sealing: Sealing | None, command: int) -> None:
    """smbprotocol keeps every answer to a negotiation for ever."""
    with smb_peer(sealing) as peer:
        junk = answer_to(bytes(64), bytes(60 * KIB), command=command, message_id=UNSOLICITED)
        with contextlib.suppress(OSError):  # it is ended after the first one
            for _ in range(100):
                peer.send(peer.protected(junk))
        assert "does not belong" in ended(peer)
        assert sum(map(len, peer.connection.preauth_integrity_hash_value)) == 0


@either
def test_a_broken_oplock_is_nothing_to_end_a_connection_for(sealing: Sealing | None) -> None:
    with smb_peer(sealing) as peer:
        peer.send(peer.protected(answer_to(bytes(64), bytes(24), command=0x12, message_id=UNSOLICITED)))
        echo = peer.connection.send(SMB2Echo(), sid=SESSION_ID)
        peer.answer(peer.request(), struct.pack("<HH", 4, 0))
        assert peer.connection.receive(echo)["status"].get_value() == status.SUCCESS


@either
def test_many_answers_in_one_message_are_not_taken_apart(sealing: Sealing | None) -> None:
    """Going through 64 Ki of them, smbprotocol would copy a hundred gigabytes."""
    with smb_peer(sealing) as peer:
        one = answer_to(bytes(64), b"", command=0x12, message_id=UNSOLICITED, following=64)
        with contextlib.suppress(OSError):
            peer.send(peer.protected(one * (4 * MIB // 64)))
        assert "more than was asked for" in ended(peer)


@either
def test_an_answer_to_a_request_that_was_never_made_ends_the_connection(sealing: Sealing | None) -> None:
    with smb_peer(sealing) as peer:
        peer.send(peer.protected(answer_to(bytes(64), error_body(), command=8, message_id=77)))
        assert "does not belong" in ended(peer)


@pytest.mark.parametrize("code", [status.SUCCESS, status.PENDING])
def test_an_answer_that_is_only_signed_is_none_on_an_encrypted_connection(code: int) -> None:
    with smb_peer(Sealing.AES_128_GCM) as peer:
        peer.connection.send(SMB2Echo(), sid=SESSION_ID)
        peer.send(peer.signed(answer_to(peer.request(), struct.pack("<HH", 4, 0), status=code)))
        assert "came unencrypted" in ended(peer)


@either
def test_an_answer_that_came_before_does_not_come_again(sealing: Sealing | None) -> None:
    with smb_peer(sealing) as peer:
        echo = peer.connection.send(SMB2Echo(), sid=SESSION_ID)
        answer = peer.protected(answer_to(peer.request(), struct.pack("<HH", 4, 0)))
        peer.send(answer)
        peer.connection.receive(echo)
        peer.send(answer)
        assert "does not belong" in ended(peer)


@pytest.mark.parametrize(
    ("message", "clause"),
    [
        (b"\xfcSMB" + bytes(60), "can't be understood"),  # compressed, which nobody offered
        (b"\xffSMB" + bytes(60), "can't be understood"),  # SMB 1
        (b"\xfeSMB" + bytes(4), "can't be understood"),
        (b"\xfdSMB" + bytes(100), "can't be decrypted"),
        (b"\xfdSMB", "can't be decrypted|can't be understood"),
    ],
)
@either
def test_what_is_no_message_of_smb_2_ends_the_connection(sealing: Sealing | None, message: bytes, clause: str) -> None:
    with smb_peer(sealing) as peer:
        peer.send(message)
        assert re.search(clause, ended(peer))


# --- memory and time -------------------------------------------------------------------------------------------------


def test_no_room_is_made_for_long_messages_before_the_sign_in() -> None:
    with smb_peer() as peer:
        peer.connection.session_table.clear()
        peer.send_bytes(struct.pack(">I", 1 * MIB))  # and not a byte of it
        assert "before the sign-in" in ended(peer)


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a connection on which bytes pass all the while."""
    for module in ("connection", "data.channel"):
        monkeypatch.setattr(f"replicad.storage.smb.{module}.LONGEST_WAIT_S", 1)


@contextmanager
def repeating(send: Callable[[], None], pause_s: float = 0.02) -> Iterator[None]:
    """Send something again and again from another thread."""
    over = threading.Event()

    def repeat() -> None:
        with contextlib.suppress(OSError):
            while not over.wait(pause_s):
                send()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)


@either
def test_a_server_that_is_always_about_to_answer_is_given_up(sealing: Sealing | None, short_patience: None) -> None:
    with smb_peer(sealing, timeout_s=0.1) as peer:
        echo = peer.connection.send(SMB2Echo(), sid=SESSION_ID)
        interim = answer_to(peer.request(), error_body(), status=status.PENDING, flags=INTERIM_FLAGS)
        began_s = time.monotonic()
        with repeating(lambda: peer.send(peer.protected(interim))), pytest.raises(NoAnswerError):
            peer.connection.receive(echo)
        assert time.monotonic() - began_s < 10


@either
def test_a_read_that_is_always_about_to_be_answered_is_given_up(sealing: Sealing | None, short_patience: None) -> None:
    with smb_peer(sealing, timeout_s=0.1) as peer:
        loan = Job().lend()
        pending = peer.connection.channel.send_read(peer.target, 0, memoryview(bytearray(4096)), loan)
        interim = answer_to(peer.request(), error_body(), status=status.PENDING, flags=INTERIM_FLAGS)
        began_s = time.monotonic()
        with repeating(lambda: peer.send(peer.protected(interim))), pytest.raises(NoAnswerError):
            peer.connection.channel.wait(pending)
        assert time.monotonic() - began_s < 10


def test_a_message_of_which_a_byte_comes_now_and_then_is_given_up(short_patience: None) -> None:
    with smb_peer(timeout_s=0.1) as peer:
        echo = peer.connection.send(SMB2Echo(), sid=SESSION_ID)
        peer.request()
        peer.send_bytes(struct.pack(">I", 8 * MIB) + b"\xfeSMB")
        began_s = time.monotonic()
        with repeating(lambda: peer.send_bytes(b"\0")), pytest.raises((NoAnswerError, ConnectionLostError)):
            peer.connection.receive(echo)
        assert time.monotonic() - began_s < 10


# --- answers that make no sense, from a server that has every key ----------------------------------------------------


def _drain(found: Iterator[Any]) -> list[Any]:
    return list(islice(found, 5000))


CALLS: dict[str, Callable[[Any], object]] = {
    "create": lambda tree: calls.create(tree, "디스크.vhdx", Access.READ_DATA),
    "close": lambda tree: calls.close(tree, HANDLE),
    "facts": lambda tree: calls.query_facts(tree, HANDLE),
    "free": lambda tree: calls.query_free_bytes(tree, HANDLE),
    "file system": lambda tree: calls.query_file_system(tree, HANDLE),
    "list": lambda tree: _drain(calls.list_directory(tree, HANDLE)),
    "ranges": lambda tree: allocated(Job(), tree, HANDLE),
    "resume key": lambda tree: resume_key(tree, HANDLE, "disk"),
    "copy": lambda tree: copy_chunks(Job(), tree, HANDLE, bytes(24), [CopyRange(0, 0, 3 * MIB)], "disk"),
}
EXPECTED = (SMBException, ConnectionLostError, NoAnswerError)


def _body(random: Random) -> bytes:
    """Random bytes, more often than not with an offset and a length in their places."""
    length = random.choice([0, 1, 7, 8, 16, 48, 60, 88, 89, 104, 120, 300, 4096])
    body = bytearray(random.randbytes(length) if random.random() < 0.6 else bytes([random.choice([0, 255])]) * length)
    if random.random() < 0.7 and length >= 48:
        size = random.choice([0, 8, 64, 104, 4000, 0x7FFF_FFFF])
        struct.pack_into("<HHI", body, 0, 49, random.choice([0, 64, 72, 0xFFFF]), size)
        if random.random() < 0.5:
            struct.pack_into("<II", body, 32, random.choice([0, 112, 0xFFFF_FFFF]), size)
    return bytes(body)


def _answer_all(peer: SmbPeer, random: Random) -> None:
    statuses = [status.SUCCESS, status.SUCCESS, status.SUCCESS, status.BUFFER_OVERFLOW, status.INVALID_PARAMETER]
    with contextlib.suppress(OSError, AssertionError):  # the connection has ended
        for _ in range(60):
            peer.answer(peer.request(), _body(random), status=random.choice(statuses))
        peer.close()


@pytest.mark.parametrize("name", CALLS)
def test_whatever_a_server_answers_a_call_ends_in_its_own_kind_of_error(name: str) -> None:
    for seed in range(80):
        with smb_peer(timeout_s=5) as peer:
            tree = tree_on(peer)
            thread = threading.Thread(target=_answer_all, args=(peer, Random(f"{name} {seed}")))
            thread.start()
            try:
                with contextlib.suppress(*EXPECTED, ReplicadError):
                    CALLS[name](tree)
            finally:
                peer.connection.condemn("the test is over")
                thread.join(10)
            assert not thread.is_alive()


def _entry(name: bytes, step: int = 0, size: int = 5) -> bytes:
    fixed = struct.pack("<II", step, 0) + struct.pack("<qqqqqqIIIBB24sHQ", 0, 0, 0, 0, size, 4096, 32, len(name), 0, 0,
                                                      0, bytes(24), 0, 7)  # fmt: skip
    return fixed + name


@pytest.mark.parametrize(
    "listing",
    [
        pytest.param(_entry("../밖.vhdx".encode("utf-16-le")), id="out of the directory"),
        pytest.param(_entry("a\\b".encode("utf-16-le")), id="another directory"),
        pytest.param(_entry("a\0.vhdx".encode("utf-16-le")), id="NUL"),
        pytest.param(_entry(b""), id="no name"),
        pytest.param(_entry(b"\0"), id="half a character"),
        pytest.param(_entry("a".encode("utf-16-le"), size=-1), id="a size below zero"),
        pytest.param(_entry("a".encode("utf-16-le"), step=1), id="entries that overlap"),
        pytest.param(_entry("a".encode("utf-16-le"), step=0xFFFF_FFF8), id="an entry far away"),
        pytest.param(b"\0" * 20, id="half an entry"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_listing_that_makes_no_sense_is_refused_whole(listing: bytes) -> None:
    with smb_peer() as peer:
        tree = tree_on(peer)
        body = struct.pack("<HHI", 9, 72, len(listing)) + listing
        thread = threading.Thread(target=lambda: peer.answer(peer.request(), body))
        thread.start()
        with pytest.raises(MalformedAnswerError):
            next(calls.list_directory(tree, HANDLE))
        thread.join(10)


def test_more_ranges_than_fit_into_memory_make_the_whole_file_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may name ranges of a byte each, for ever; what is left out would be taken for zeros."""
    monkeypatch.setattr("replicad.storage.smb.allocation._MOST_RANGES", 1000)
    size = 1 << 40
    with smb_peer() as peer:
        tree = tree_on(peer)
        asked = 0

        def answer() -> None:
            nonlocal asked
            facts = bytearray(104)
            struct.pack_into("<qq", facts, 40, 4096, size)
            peer.answer(peer.request(), struct.pack("<HHI", 9, 72, len(facts)) + facts)
            with contextlib.suppress(OSError, AssertionError):
                while True:
                    request = peer.request()
                    asked += 1
                    (start,) = struct.unpack_from("<Q", request, 64 + 56)
                    ranges = b"".join(struct.pack("<QQ", start + 1 + 2 * n, 1) for n in range(100))
                    body = struct.pack("<HHI16sIIIIII", 49, 0, 0, FILE_ID, 112, 0, 112, len(ranges), 0, 0) + ranges
                    peer.answer(request, body, status=status.BUFFER_OVERFLOW)

        thread = threading.Thread(target=answer)
        thread.start()
        found = allocated(Job(), tree, HANDLE)
        assert [(one.offset_bytes, one.length_bytes) for one in found] == [(0, size)]
        peer.connection.condemn("the test is over")
        thread.join(10)
        assert 10 <= asked <= 12


@pytest.mark.parametrize("limits", [(256, 1, 16 * MIB), (256, MIB, 100), (0, MIB, MIB), (1, 4095, MIB)])
def test_limits_that_would_make_a_copy_take_for_ever_are_no_limits(limits: tuple[int, int, int]) -> None:
    with smb_peer() as peer:
        tree = tree_on(peer)
        body = struct.pack("<HHI16sIIIIII", 49, 0, 0, FILE_ID, 112, 0, 112, 12, 0, 0) + struct.pack("<III", *limits)
        thread = threading.Thread(
            target=lambda: peer.answer(peer.request(), body, status=status.INVALID_PARAMETER)
        )  # fmt: skip
        thread.start()
        with pytest.raises((UnsupportedError, SMBException)):
            copy_chunks(Job(), tree, HANDLE, bytes(24), [CopyRange(0, 0, 3 * MIB)], "disk")
        thread.join(10)
        assert tree.copy_limits == CopyLimits()


def test_a_read_that_is_answered_with_more_than_was_asked_for_is_refused() -> None:
    with smb_peer() as peer:
        view = bytearray(1000)
        pending = peer.connection.channel.send_read(peer.target, 0, memoryview(view), Job().lend())
        peer.answer(peer.request(), read_body(bytes(1001)))
        with pytest.raises(ConnectionLostError, match="does not belong"):
            peer.connection.channel.wait(pending)
