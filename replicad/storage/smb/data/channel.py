"""Sending READ and WRITE, and receiving their answers into the caller's buffer.

The connection is smbprotocol's: message ids, credits and the receiving thread are shared with its traffic. That
thread calls `DataChannel.receive` with each message that begins; one that answers no request of ours is handed back.
"""

from __future__ import annotations

import hmac
import os
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from smbprotocol.exceptions import SMBResponseException
from smbprotocol.header import SMB2HeaderResponse

from replicad.storage.port import Buffer
from replicad.storage.smb import status
from replicad.storage.smb.failures import ConnectionLostError, NoAnswerError, NotProtectedError, clause_of
from replicad.storage.smb.job import Loan
from replicad.storage.smb.transport import Transport

from . import frame, protect

LONGEST_WAIT_S = 300.0
"""How long an answer may take at most on a connection on which bytes pass all the while."""
CREDIT_BYTES = 64 * 1024
"""What one credit pays for (MS-SMB2 §3.2.4.1.5)."""
_SEALED_AT_ONCE = 2
"""Messages in memory that are encrypted: while one is sent another one is sealed."""


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """How the messages of one session are protected (MS-SMB2 §3.2.1.3). `sealing` is None where nothing may be."""

    signing: protect.Signing
    signing_key: bytes
    sealing: protect.Sealing | None
    encryption_key: bytes
    decryption_key: bytes


class Carrier(Protocol):
    """What the channel needs of the connection that it works on."""

    timeout_s: float
    supports_multi_credit: bool

    @property
    def condemned(self) -> str:
        """Why the connection is of no more use; empty while it is."""

    def condemn(self, reason: str) -> None:
        """Give the connection up."""

    def condemn_for_silence(self, began_s: float) -> None:
        """The same, as what was asked at `began_s`, on the steady clock, was not answered."""

    def take_ids(self, charge: int) -> tuple[int, int]:
        """Wait for `charge` credits: the first of as many message ids, and the credits to ask for."""

    def grant(self, credits_: int) -> None:
        """The server has granted credits."""

    def keys_of(self, session_id: int) -> Keys | None:
        """The keys of a session that is signed in."""


@dataclass(frozen=True, slots=True)
class Target:
    """An open file, and whether what is said about it must be encrypted."""

    session_id: int
    tree_id: int
    file_id: bytes
    sealed: bool


class Pending:
    """A request under way. `view` is where the data of a READ's answer go; None for a WRITE."""

    __slots__ = ("answered", "count", "failure", "length_bytes", "loan", "message_id", "sealed", "session", "view")

    def __init__(
        self, session: _Session, sealed: bool, message_id: int, loan: Loan, view: memoryview | None, length_bytes: int
    ) -> None:
        self.session = session
        self.sealed = sealed
        self.message_id = message_id
        self.loan = loan
        self.view = view
        self.length_bytes = length_bytes
        self.answered = threading.Event()
        self.count: int | None = None
        """Bytes read or written, once that is known."""
        self.failure: bytes | None = None
        """The whole answer, if its status is an error."""

    @property
    def command(self) -> int:
        """READ or WRITE."""
        return frame.WRITE if self.view is None else frame.READ


class _Session:
    """The keys of a session and what is made of them once."""

    def __init__(self, session_id: int, keys: Keys) -> None:
        self.session_id = session_id
        self.keys = keys
        self.sealer = (
            protect.Sealer(keys.sealing, keys.encryption_key, session_id, os.urandom(keys.sealing.nonce_bytes))
            if keys.sealing is not None
            else None
        )


class DataChannel:
    """READ and WRITE on one connection, for any number of threads."""

    def __init__(self, carrier: Carrier, wire: Transport) -> None:
        self._carrier = carrier
        self._wire = wire
        self._lock = threading.Lock()
        self._pending: dict[int, Pending] = {}
        self._sessions: dict[int, _Session] = {}
        self._ended = False
        self._sealing = threading.BoundedSemaphore(_SEALED_AT_ONCE)
        self._spare: list[bytearray] = []
        # The receiving thread's own.
        self._arriving = bytearray(frame.TRANSFORM_BYTES + frame.ANSWER_BYTES)
        self._beginning = bytearray(frame.ANSWER_BYTES)

    # --- sending

    def send_read(self, target: Target, offset: int, view: memoryview, loan: Loan) -> Pending:
        """Ask for the bytes from `offset` on, as many as `view` holds; they go there, inside `loan`."""
        pending, request = self._begin(target, offset, loan, view, len(view))
        self._send(pending, frame.read_request(request, signed=not target.sealed), None)
        return pending

    def send_write(self, target: Target, offset: int, data: memoryview, loan: Loan) -> Pending:
        """Write `data` at `offset`; it is read inside `loan`, and no more once this returns."""
        pending, request = self._begin(target, offset, loan, None, len(data))
        self._send(pending, frame.write_request(request, signed=not target.sealed), data)
        return pending

    def wait(self, pending: Pending) -> int:
        """Wait for the answer: the bytes read or written, which may be fewer than were asked for.

        SMBResponseException for an error status; ConnectionLostError; NoAnswerError, which condemns the connection,
        after its timeout in which no byte passed on it, and after 300 s in any case.
        """
        began_s = time.monotonic()
        if not self._wire.outwait(pending.answered.wait, self._carrier.timeout_s, LONGEST_WAIT_S):
            self._carrier.condemn_for_silence(began_s)
            raise NoAnswerError
        if pending.failure is not None:
            header = SMB2HeaderResponse()
            header.unpack(pending.failure)
            code = header["status"].get_value()
            if code in status.SESSION_IS_OVER:
                self._carrier.condemn(status.meaning_of(code).clause)
            raise SMBResponseException(header)
        if pending.count is None:
            raise self._lost()
        return pending.count

    def seal(self, session_id: int, message: bytes) -> bytes:
        """Encrypt a message of smbprotocol's: one key, one source of nonces."""
        sealer = self._session(session_id).sealer
        if sealer is None:
            raise NotProtectedError("the connection has no encryption")
        return bytes(sealer.seal([message], bytearray(frame.TRANSFORM_BYTES + len(message))))

    def _begin(
        self, target: Target, offset: int, loan: Loan, view: memoryview | None, length: int
    ) -> tuple[Pending, frame.Request]:
        session = self._session(target.session_id)
        charge = max(1, -(-length // CREDIT_BYTES))
        message_id, credit_request = self._carrier.take_ids(charge)
        pending = Pending(session, target.sealed, message_id, loan, view, length)
        with self._lock:
            if self._ended:
                raise self._lost()
            self._pending[message_id] = pending
        return pending, frame.Request(
            message_id, target.session_id, target.tree_id, charge if self._carrier.supports_multi_credit else 0,
            credit_request, target.file_id, offset, length,
        )  # fmt: skip

    def _send(self, pending: Pending, head: bytearray, data: memoryview | None) -> None:
        try:
            if pending.sealed:
                self._send_sealed(pending, head, data)
            else:
                self._send_signed(pending, head, data)
        except TimeoutError:
            self._carrier.condemn(f"the server took nothing for {self._carrier.timeout_s:g} s")
            raise NoAnswerError from None
        except OSError as error:
            self._carrier.condemn(clause_of(error) or "the connection was lost")
            raise self._lost() from None
        except BaseException:
            # Half a message may be on its way, and behind it nothing can be understood any more.
            self._carrier.condemn("a request could not be sent whole")
            raise

    def _send_signed(self, pending: Pending, head: bytearray, data: memoryview | None) -> None:
        parts: list[Buffer] = [head] if data is None else [head, data]
        keys = pending.session.keys
        with pending.loan:
            signature = protect.sign(keys.signing, keys.signing_key, parts, pending.message_id, from_server=False)
        frame.put_signature(head, signature)
        self._wire.send_parts(parts, pending.loan)

    def _send_sealed(self, pending: Pending, head: bytearray, data: memoryview | None) -> None:
        sealer = pending.session.sealer
        if sealer is None:
            raise NotProtectedError("the connection has no encryption")
        parts: list[Buffer] = [head] if data is None else [head, data]
        with self._sealing:
            buffer = self._borrow(frame.TRANSFORM_BYTES + sum(map(len, parts)))
            try:
                with pending.loan:
                    message = sealer.seal(parts, buffer)
                self._wire.send_parts([message])
            finally:
                self._spare.append(buffer)

    def _borrow(self, length: int) -> bytearray:
        try:
            buffer = self._spare.pop()
        except IndexError:
            return bytearray(length)
        return buffer if len(buffer) >= length else bytearray(length)

    def _session(self, session_id: int) -> _Session:
        with self._lock:
            session = self._sessions.get(session_id)
            if session is None:
                keys = self._carrier.keys_of(session_id)
                if keys is None:
                    raise NotProtectedError("there is no key for a request")
                session = self._sessions[session_id] = _Session(session_id, keys)
            return session

    def _lost(self) -> ConnectionLostError:
        return ConnectionLostError(self._carrier.condemned or "the connection was lost")

    # --- receiving: on the connection's receiving thread only

    def receive(self, length: int) -> bytes | None:
        """Take the message of `length` bytes that comes next: handed back if it answers no request of ours.

        NotProtectedError and ConnectionLostError end the connection.
        """
        first = min(length, frame.HEADER_BYTES)
        head = memoryview(self._arriving)[:first]
        self._wire.fill(head)
        sealed = frame.parse_transform(head)
        if sealed is not None and sealed.session_id in self._sessions:
            return self._receive_sealed(length, first, sealed)
        answer = frame.parse_answer(head)
        pending = self._pending.get(answer.message_id) if answer is not None else None
        if answer is None or pending is None:
            return bytes(head) + self._wire.rest_of_message(length - first)
        self._receive_signed(pending, answer, length)
        return None

    def _receive_signed(self, pending: Pending, answer: frame.Answer, length: int) -> None:
        if pending.sealed:
            raise NotProtectedError("an answer came unencrypted")
        if answer.status == status.USER_SESSION_DELETED:
            # It has no key any more to sign that with; believing it costs no more than a connection.
            raise NotProtectedError(status.meaning_of(status.USER_SESSION_DELETED).clause)
        _refuse_strangers(pending, answer)
        is_interim = answer.status == status.PENDING
        if not is_interim and not answer.flags & frame.SIGNED:
            raise NotProtectedError("an answer came unsigned")
        head = memoryview(self._arriving)[: min(length, frame.ANSWER_BYTES)]
        self._wire.fill(head[frame.HEADER_BYTES :])
        frame.put_signature(head, frame.UNSIGNED)
        parts: list[Buffer] = [head]
        view, count = None, None
        if answer.status == status.SUCCESS:
            view, count, before, after = _layout(pending, head, length)
            parts += [self._rest(before)] if before else []
            if view is not None:
                self._wire.fill(view, pending.loan)
            parts += [view] if view is not None else []
            parts += [self._rest(after)] if after else []
        elif length > len(head):
            parts.append(self._rest(length - len(head)))
        if not is_interim:
            self._verify(pending, answer, parts, lent=view is not None)
        self._finish(pending, answer, count, parts)

    def _rest(self, length: int) -> bytes:
        return self._wire.rest_of_message(length)

    def _verify(self, pending: Pending, answer: frame.Answer, parts: Sequence[Buffer], *, lent: bool) -> None:
        keys = pending.session.keys
        with pending.loan if lent else nullcontext():
            due = protect.sign(keys.signing, keys.signing_key, parts, pending.message_id, from_server=True)
        if not hmac.compare_digest(due, answer.signature):
            raise NotProtectedError("the signature of an answer is wrong")

    def _receive_sealed(self, length: int, first: int, transform: frame.Transform) -> bytes | None:
        if len(self._arriving) < length:
            larger = bytearray(length)
            larger[:first] = self._arriving[:first]
            self._arriving = larger
        message = memoryview(self._arriving)[:length]
        self._wire.fill(message[first:])
        session = self._sessions[transform.session_id]
        ciphertext = message[frame.TRANSFORM_BYTES :]
        if session.keys.sealing is None or transform.flags != 1 or transform.size_bytes != len(ciphertext):
            raise NotProtectedError("an answer can't be decrypted")
        try:
            opening = protect.open_sealed(
                session.keys.sealing, session.keys.decryption_key, message, transform, ciphertext
            )
            head = memoryview(self._beginning)[: min(len(ciphertext), frame.ANSWER_BYTES)]
            opening.take(head)
            answer = frame.parse_answer(head)
            pending = self._pending.get(answer.message_id) if answer is not None else None
            if answer is None or pending is None:
                return bytes(message)  # smbprotocol decrypts it once more, and checks it as a whole
            self._finish_sealed(pending, answer, head, len(ciphertext), opening)
        except InvalidTag:
            raise NotProtectedError("an answer can't be decrypted") from None
        return None

    def _finish_sealed(
        self, pending: Pending, answer: frame.Answer, head: memoryview, length: int, opening: protect.Opening
    ) -> None:
        # Nothing here is believed before the tag is right; until then it only says where to put the bytes.
        view, count = None, None
        parts: list[Buffer] = [head]
        if answer.status == status.SUCCESS and answer.command == pending.command:
            view, count, before, after = _layout(pending, head, length)
            opening.take(memoryview(bytearray(before)))
            if view is not None:
                with pending.loan:
                    opening.take(view)
            opening.take(memoryview(bytearray(after)))
        else:
            rest = bytearray(length - len(head))
            opening.take(memoryview(rest))
            parts.append(rest)
        opening.finish()
        _refuse_strangers(pending, answer)
        self._finish(pending, answer, count, parts)

    def _finish(self, pending: Pending, answer: frame.Answer, count: int | None, parts: Sequence[Buffer]) -> None:
        """What a verified answer means."""
        self._carrier.grant(answer.credits)
        if answer.status == status.PENDING:
            return  # the server is at it; the answer follows (§3.2.5.1.5)
        with self._lock:
            del self._pending[pending.message_id]
        if answer.status == status.SUCCESS:
            pending.count = count
        else:
            pending.failure = b"".join(parts)
        pending.answered.set()

    def end(self) -> None:
        """The connection has ended: wake everybody who waits for an answer, and take no more requests."""
        with self._lock:
            self._ended = True
            waiting, self._pending = list(self._pending.values()), {}
        for pending in waiting:
            pending.answered.set()


def _refuse_strangers(pending: Pending, answer: frame.Answer) -> None:
    """An answer has to be one, from the server, to this very request (MS-SMB2 §3.2.5.1)."""
    if (
        answer.command != pending.command
        or not answer.flags & frame.FROM_SERVER
        or answer.next_command
        or answer.session_id != pending.session.session_id
    ):
        raise NotProtectedError("an answer does not belong to its request")


def _layout(pending: Pending, head: memoryview, length: int) -> tuple[memoryview | None, int, int, int]:
    """Of a success: where its data go, the bytes read or written, and what is in front of and behind the data."""
    if pending.view is None:
        written = frame.parse_write_answer(head)
        if written is None or written > pending.length_bytes:
            raise NotProtectedError("an answer does not belong to its request")
        return None, written, 0, length - len(head)
    found = frame.parse_read_answer(head, length)
    if found is None or found[1] > pending.length_bytes:
        raise NotProtectedError("an answer does not belong to its request")
    start, count = found
    return pending.view[:count], count, start - len(head), length - start - count
