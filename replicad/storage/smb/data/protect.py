"""Signing and sealing of messages, piece by piece (MS-SMB2 §3.1.4.1 and §3.1.4.3). Pure, but for its counters.

Nothing is joined: an algorithm is fed the header and then the caller's buffer.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import threading
from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, aead, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

from replicad.storage.port import Buffer

from . import frame

TAG_BYTES = 16
_COUNTER_MASK = (1 << 64) - 1


class Signing(IntEnum):
    """§2.2.3.1.7"""

    HMAC_SHA256 = 0
    AES_CMAC = 1
    AES_GMAC = 2


class Sealing(IntEnum):
    """§2.2.3.1.2"""

    AES_128_CCM = 1
    AES_128_GCM = 2
    AES_256_CCM = 3
    AES_256_GCM = 4

    @property
    def is_gcm(self) -> bool:
        """GCM, which takes its input in pieces; CCM wants all of it at once."""
        return self in (Sealing.AES_128_GCM, Sealing.AES_256_GCM)

    @property
    def nonce_bytes(self) -> int:
        """§2.2.41"""
        return 12 if self.is_gcm else 11


def sign(algorithm: Signing, key: bytes, parts: Sequence[Buffer], message_id: int, *, from_server: bool) -> bytes:
    """The signature of a message that consists of `parts` and has zeros where its signature goes (§3.1.4.1).

    The nonce of AES-GMAC is the message id, which no two requests of a session share, and who sent it. (A CANCEL
    would need a third bit; none is signed here.)
    """
    if algorithm is Signing.AES_GMAC:
        nonce = struct.pack("<QI", message_id, int(from_server))
        gmac = Cipher(algorithms.AES(key), modes.GCM(nonce)).encryptor()
        for part in parts:
            gmac.authenticate_additional_data(part)
        gmac.finalize()
        return gmac.tag
    if algorithm is Signing.AES_CMAC:
        cmac = CMAC(algorithms.AES(key))
        for part in parts:
            cmac.update(part)  # type: ignore[arg-type]  # takes any buffer; its stub knows only bytes
        return cmac.finalize()
    sha = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        sha.update(part)
    return sha.digest()[:16]


class Nonces:
    """The nonces of one key: no two are ever equal, for each holds the next number of a 64-bit counter.

    Random nonces, as smbprotocol makes them, may repeat: with GCM one repetition gives away the difference of two
    messages and the key of the tag. All that encrypts under a key must therefore draw from one object. The counter
    begins anywhere, behind random bytes, because the same key can come again: SMB 3.0.2 derives it from the session
    key alone, and a Kerberos ticket without a subkey gives each session the same one.
    """

    def __init__(self, length_bytes: int, randomness: bytes) -> None:
        prefix_bytes = length_bytes - 8
        if prefix_bytes < 0 or len(randomness) != length_bytes:
            raise ValueError(f"a nonce of {length_bytes} bytes needs as many random ones to begin with")
        self._prefix = randomness[:prefix_bytes]
        self._next = int.from_bytes(randomness[prefix_bytes:], "little")
        self._left = 1 << 64
        self._lock = threading.Lock()

    def draw(self) -> bytes:
        """The next one. OverflowError after 2^64."""
        with self._lock:
            if self._left == 0:
                raise OverflowError("no nonce is left under this key")
            self._left -= 1
            number = self._next
            self._next = (number + 1) & _COUNTER_MASK
        return self._prefix + number.to_bytes(8, "little")


class Sealer:
    """Encrypts the messages of one session."""

    def __init__(self, algorithm: Sealing, key: bytes, session_id: int, randomness: bytes) -> None:
        self._algorithm = algorithm
        self._key = key
        self._session_id = session_id
        self._nonces = Nonces(algorithm.nonce_bytes, randomness[: algorithm.nonce_bytes])

    def seal(self, parts: Sequence[Buffer], into: bytearray) -> memoryview:
        """Encrypt the message that consists of `parts`: the part of `into` that holds it, header and all.

        `into` must be longer than the message by `frame.TRANSFORM_BYTES`.
        """
        length = sum(len(part) for part in parts)
        nonce = self._nonces.draw()
        header = frame.transform(nonce, length, self._session_id)
        whole = memoryview(into)[: frame.TRANSFORM_BYTES + length]
        if len(whole) != frame.TRANSFORM_BYTES + length:
            raise ValueError("there is no room for the message")
        if self._algorithm.is_gcm:
            gcm = Cipher(algorithms.AES(self._key), modes.GCM(nonce)).encryptor()
            gcm.authenticate_additional_data(header[frame.AUTHENTICATED])
            at = frame.TRANSFORM_BYTES
            for part in parts:
                at += gcm.update_into(part, whole[at : at + len(part)])
            gcm.finalize()
            tag = gcm.tag
        else:
            sealed = aead.AESCCM(self._key).encrypt(nonce, b"".join(parts), bytes(header[frame.AUTHENTICATED]))
            whole[frame.TRANSFORM_BYTES :] = memoryview(sealed)[:-TAG_BYTES]
            tag = sealed[-TAG_BYTES:]
        frame.put_tag(header, tag)
        whole[: frame.TRANSFORM_BYTES] = header
        return whole


class Opening(Protocol):
    """One encrypted message, opened from its beginning to its end."""

    def take(self, into: memoryview) -> None:
        """The next bytes of the message, as many as `into` holds. Believe nothing before `finish`."""

    def finish(self) -> None:
        """`InvalidTag` if the message is not what the peer sealed, or was not taken whole."""


def open_sealed(
    algorithm: Sealing, key: bytes, header: memoryview, transform: frame.Transform, ciphertext: memoryview
) -> Opening:
    """Open a message. With CCM, `InvalidTag` comes here already."""
    nonce = transform.nonce[: algorithm.nonce_bytes]
    authenticated = bytes(header[frame.AUTHENTICATED])
    if algorithm.is_gcm:
        return _OpeningGcm(key, nonce, authenticated, ciphertext, transform.tag)
    plain = aead.AESCCM(key).decrypt(nonce, b"".join((ciphertext, transform.tag)), authenticated)
    return _OpenedCcm(memoryview(plain))


class _OpeningGcm:
    def __init__(self, key: bytes, nonce: bytes, authenticated: bytes, ciphertext: memoryview, tag: bytes) -> None:
        self._gcm = Cipher(algorithms.AES(key), modes.GCM(nonce)).decryptor()
        self._gcm.authenticate_additional_data(authenticated)
        self._rest = ciphertext
        self._tag = tag

    def take(self, into: memoryview) -> None:
        if len(into) > len(self._rest):
            raise InvalidTag
        if into:
            self._gcm.update_into(self._rest[: len(into)], into)
            self._rest = self._rest[len(into) :]

    def finish(self) -> None:
        if self._rest:
            raise InvalidTag
        self._gcm.finalize_with_tag(self._tag)


class _OpenedCcm:
    def __init__(self, plain: memoryview) -> None:
        self._rest = plain

    def take(self, into: memoryview) -> None:
        if len(into) > len(self._rest):
            raise InvalidTag
        into[:] = self._rest[: len(into)]
        self._rest = self._rest[len(into) :]

    def finish(self) -> None:
        if self._rest:
            raise InvalidTag
