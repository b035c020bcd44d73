"""Signing and sealing: what ours signs and encrypts smbprotocol accepts, and the reverse."""

from __future__ import annotations

import os
import threading
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st
from smbprotocol import Dialects
from smbprotocol.connection import Connection, SMB2TransformHeader

from replicad.storage.smb.data import frame, protect
from replicad.storage.smb.data.protect import Nonces, Sealer, Sealing, Signing

KEY = bytes(range(16))
SESSION_ID = 0x0102030405060708
MESSAGE = b"\xfeSMB" + bytes(range(200)) * 331  # of an odd length


def key_for(sealing: Sealing) -> bytes:
    return bytes(range(32)) if sealing in (Sealing.AES_256_CCM, Sealing.AES_256_GCM) else KEY


def smbprotocol_with(*, signing: Signing | None = None, sealing: Sealing | None = None) -> Any:
    judge = Connection(uuid4(), "nas")
    judge.dialect = Dialects.SMB_3_1_1
    judge.signing_algorithm_id = signing
    judge.cipher_id = sealing
    return judge


def pieces(message: bytes, cuts: list[int]) -> list[memoryview]:
    edges = [0, *sorted(min(cut, len(message)) for cut in cuts), len(message)]
    return [memoryview(message)[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize("signing", list(Signing))
@pytest.mark.parametrize("from_server", [True, False])
@given(cuts=st.lists(st.integers(0, len(MESSAGE)), max_size=5), message_id=st.integers(0, (1 << 64) - 1))
def test_a_signature_of_pieces_is_smbprotocol_s_of_the_whole(
    signing: Signing, from_server: bool, cuts: list[int], message_id: int
) -> None:
    judge = smbprotocol_with(signing=signing)
    blank = MESSAGE[:48] + bytes(16) + MESSAGE[64:]
    ours = protect.sign(signing, KEY, pieces(blank, cuts), message_id, from_server=from_server)
    assert ours == judge._generate_signature(MESSAGE, KEY, message_id, from_server, frame.WRITE)


def test_a_cmac_is_the_one_of_rfc_4493() -> None:
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    message = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411")
    found = protect.sign(Signing.AES_CMAC, key, pieces(message, [1, 17]), 0, from_server=False)
    assert found.hex() == "dfa66747de9ae63030ca32611497c827"


def sealed(sealing: Sealing, parts: list[memoryview]) -> bytearray:
    sealer = Sealer(sealing, key_for(sealing), SESSION_ID, os.urandom(12))
    room = bytearray(frame.TRANSFORM_BYTES + sum(map(len, parts)) + 100)
    return bytearray(sealer.seal(parts, room))


def opened(sealing: Sealing, message: bytearray, cuts: list[int]) -> bytes:
    header = frame.parse_transform(message)
    assert header is not None
    view = memoryview(message)
    opening = protect.open_sealed(sealing, key_for(sealing), view, header, view[frame.TRANSFORM_BYTES :])
    plain = bytearray(len(message) - frame.TRANSFORM_BYTES)
    edges = [0, *sorted(min(cut, len(plain)) for cut in cuts), len(plain)]
    for start, end in pairwise(edges):
        opening.take(memoryview(plain)[start:end])
    opening.finish()
    return bytes(plain)


@pytest.mark.parametrize("sealing", list(Sealing))
@given(cuts=st.lists(st.integers(0, len(MESSAGE)), max_size=5))
def test_what_ours_seals_smbprotocol_opens(sealing: Sealing, cuts: list[int]) -> None:
    judge = smbprotocol_with(sealing=sealing)
    judge.session_table[SESSION_ID] = SimpleNamespace(decryption_key=key_for(sealing))
    message = SMB2TransformHeader()
    message.unpack(bytes(sealed(sealing, pieces(MESSAGE, cuts))))
    assert judge._decrypt(message) == MESSAGE


@pytest.mark.parametrize("sealing", list(Sealing))
@given(cuts=st.lists(st.integers(0, len(MESSAGE)), max_size=5))
def test_what_smbprotocol_seals_ours_opens(sealing: Sealing, cuts: list[int]) -> None:
    session = SimpleNamespace(session_id=SESSION_ID, encryption_key=key_for(sealing))
    message = smbprotocol_with(sealing=sealing)._encrypt(MESSAGE, session).pack()
    assert opened(sealing, bytearray(message), cuts) == MESSAGE


@pytest.mark.parametrize("sealing", list(Sealing))
@pytest.mark.parametrize("at", [4, 19, 20, 30, 36, 42, 44, 51, 52, 52 + 80, -1])
def test_a_message_with_one_bit_flipped_does_not_open(sealing: Sealing, at: int) -> None:
    message = sealed(sealing, [memoryview(MESSAGE)])
    message[at] ^= 0x40
    with pytest.raises(InvalidTag):
        opened(sealing, message, [80])


@pytest.mark.parametrize("sealing", list(Sealing))
def test_a_message_that_was_cut_short_or_not_taken_whole_does_not_count(sealing: Sealing) -> None:
    message = sealed(sealing, [memoryview(MESSAGE)])
    with pytest.raises(InvalidTag):
        opened(sealing, message[:-1], [])
    header, view = frame.parse_transform(message), memoryview(message)
    assert header is not None
    opening = protect.open_sealed(sealing, key_for(sealing), view, header, view[frame.TRANSFORM_BYTES :])
    opening.take(memoryview(bytearray(80)))
    with pytest.raises(InvalidTag):
        opening.finish()
    with pytest.raises(InvalidTag):
        opening.take(memoryview(bytearray(len(MESSAGE))))


def test_a_buffer_without_room_is_refused() -> None:
    sealer = Sealer(Sealing.AES_128_GCM, KEY, SESSION_ID, os.urandom(12))
    with pytest.raises(ValueError, match="no room"):
        sealer.seal([MESSAGE], bytearray(len(MESSAGE)))


@pytest.mark.parametrize("length", [11, 12])
def test_nonces_of_many_threads_never_repeat_even_where_the_counter_wraps(length: int) -> None:
    nonces = Nonces(length, b"\x07" * (length - 8) + ((1 << 64) - 2000).to_bytes(8, "little"))
    drawn: list[list[bytes]] = [[] for _ in range(4)]

    def draw(into: list[bytes]) -> None:
        into.extend(nonces.draw() for _ in range(1000))

    threads = [threading.Thread(target=draw, args=(into,)) for into in drawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = [nonce for one in drawn for nonce in one]
    assert {len(nonce) for nonce in every} == {length}
    assert len(set(every)) == 4000


def test_nonces_end_before_they_repeat() -> None:
    nonces = Nonces(12, os.urandom(12))
    nonces._left = 1
    nonces.draw()
    with pytest.raises(OverflowError):
        nonces.draw()


def test_nonces_need_randomness_to_begin_with() -> None:
    with pytest.raises(ValueError, match="random"):
        Nonces(12, b"short")
