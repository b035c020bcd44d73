"""smbprotocol's `Connection`, held to what we promise: every wait ends, credits are waited for, and no answer counts
unless it is signed or encrypted as it must be.

Each override mends one thing and leaves the rest to smbprotocol; each says which.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from smbprotocol import Dialects
from smbprotocol.connection import Ciphers, Request
from smbprotocol.connection import Connection as BaseConnection
from smbprotocol.exceptions import SMBException, SMBResponseException
from smbprotocol.header import Commands, Smb2Flags, SMB2HeaderRequest
from smbprotocol.session import SMB2SessionSetupRequest

from . import status, vetting
from .credits import CreditWindow
from .data.channel import LONGEST_WAIT_S, DataChannel, Keys
from .data.frame import TRANSFORM
from .data.protect import Sealing, Signing
from .endpoint import Endpoint
from .failures import ConnectionLostError, NoAnswerError, NotProtectedError, clause_of
from .fate import Fate
from .transport import SocketAddress, Transport
from .vetting import UNSOLICITED

if TYPE_CHECKING:
    from _collections_abc import dict_values

# smbprotocol logs whole messages (sign-in tokens, file contents) and, for each lost connection, a stack trace. What
# matters of that is in the errors we raise.
logging.getLogger("smbprotocol").setLevel(logging.CRITICAL + 1)
logging.getLogger("spnego").setLevel(logging.CRITICAL + 1)

CREDIT_TARGET = 512
"""Credits to have at hand, beside those that are in use: for 32 MiB more."""
_ENDED = "the server closed the connection"
_MOST_SIGN_IN_ROUNDS = 8
"""NTLM takes two, Kerberos one or two."""
_MOST_WAITS = 10
"""A server may say that an answer takes longer, but not for ever."""


class _Outstanding(dict[int, Any]):
    """smbprotocol's `outstanding_requests`, in which unsolicited messages find a place to end in (its #209)."""

    def values(self) -> dict_values[int, Any]:
        """Those of now: smbprotocol goes through them while other threads add and remove some."""
        return dict(self).values()

    def __missing__(self, message_id: int) -> Request:
        if message_id != UNSOLICITED:
            raise KeyError(message_id)
        return Request(SMB2HeaderRequest(), bytes, None)


class Connection(BaseConnection):  # type: ignore[misc]  # smbprotocol is untyped
    """One connection to one server, for any number of threads.

    `send` and `receive` raise `ConnectionLostError` and `NoAnswerError`, and smbprotocol's `SMBResponseException`
    for an answer with an error status. Everything else that goes wrong condemns the connection.
    """

    def __init__(self, endpoint: Endpoint, sock: socket.socket, previous_session_id: int = 0) -> None:
        self._wire = Transport(sock, endpoint.timeout_s)
        super().__init__(uuid4(), endpoint.host, endpoint.port, require_signing=True)
        self.sequence_window = CreditWindow()
        self.outstanding_requests = _Outstanding()
        self.channel = DataChannel(self, self._wire)
        """READ and WRITE; the receiving thread shows it each message first."""
        self._wire.receiver = self._receive_message
        self.timeout_s = endpoint.connect_timeout_s
        """For the answer to a request that names no time of its own."""
        self._previous_session_id = previous_session_id
        self._sign_in_rounds = 0
        self._fate = Fate()
        self._fate.join(self._shut_down)

    @property
    def transport(self) -> Transport:
        """The socket that was dialled already, where smbprotocol would make its own."""
        return self._wire

    @transport.setter
    def transport(self, value: object) -> None:
        """smbprotocol assigns its own transport when it connects; ours stays."""

    @property
    def bytes_passed(self) -> tuple[int, int]:
        """The bytes sent and received so far."""
        return self._wire.sent_bytes, self._wire.received_bytes

    @property
    def address(self) -> SocketAddress:
        """Where the server is. OSError if the connection has ended."""
        return self._wire.address

    @property
    def condemned(self) -> str:
        """A clause that says why the connection is of no more use; empty while it is."""
        if not self._fate.reason and (self._t_exc is not None or not self._wire.connected):
            self.condemn(_ENDED)
        return self._fate.reason

    def condemn(self, reason: str) -> None:
        """Let nobody use the connection again, nor those that it stands or falls with, and wake everybody who waits
        on them. Never blocks; the first reason counts, unless the receiver knows a better one."""
        self._fate.seal(clause_of(self._t_exc) or reason)

    def stand_or_fall_with(self, other: Connection) -> None:
        """From now on the loss of one is the loss of both. To be called before anybody depends on this one."""
        own, self._fate = self._fate, other._fate
        self._fate.join(self._shut_down)
        if own.reason:
            self.condemn(own.reason)

    def _shut_down(self) -> None:
        # The socket comes first: a sender that is blocked in it holds the lock that a disconnect wants.
        self._wire.shut_down()
        self.sequence_window.close()

    def discard(self) -> None:
        """Condemn, wait for the receiving thread to end (it does so at once) and give the socket back."""
        self.condemn("it was closed")
        self.disconnect(False)
        self._wire.release()

    def send(self, message: Any, *args: Any, **kwargs: Any) -> Request:
        """As smbprotocol's, but waits for credits where that raises an error, and replays the earlier session's id
        at the sign-in, which that can't (MS-SMB2 §2.2.5 PreviousSessionId)."""
        if isinstance(message, SMB2SessionSetupRequest):
            self._sign_in_rounds += 1
            if self._sign_in_rounds > _MOST_SIGN_IN_ROUNDS:
                raise NotProtectedError("the server does not come to an end with the sign-in")
            message["previous_session_id"] = self._previous_session_id
        charge = max(1, self._calculate_credit_charge(message))
        if not kwargs.get("credit_request"):
            kwargs["credit_request"] = self._credits_to_ask_for(charge)
        self._reserve(charge)
        try:
            return super().send(message, *args, **kwargs)
        except TimeoutError:
            self.condemn(f"the server took nothing for {self.timeout_s:g} s")
            raise NoAnswerError from None
        except (OSError, SMBException) as error:
            self.condemn(clause_of(error) or "the connection was lost")
            raise self._lost() from None

    def _credits_to_ask_for(self, charge: int) -> int:
        # A server that is busy may grant less than a request used. Always asking for what is missing makes up for
        # that; else a connection would slowly run dry.
        missing = CREDIT_TARGET - max(0, self.sequence_window.available)
        return charge + max(0, min(missing, CREDIT_TARGET))

    def _reserve(self, charge: int) -> None:
        began_s = time.monotonic()
        if not self._wire.outwait(partial(self.sequence_window.reserve, charge), self.timeout_s, LONGEST_WAIT_S):
            self.condemn(f"the server granted no credits for {_since(began_s)} s")
            raise self._lost()

    def take_ids(self, charge: int) -> tuple[int, int]:
        """For the data channel: wait for `charge` credits; the first of as many message ids, and the credits to ask
        for. ConnectionLostError."""
        asked = self._credits_to_ask_for(charge)
        self._reserve(charge)
        with self.sequence_lock:
            message_id = self.sequence_window["low"]
            self.sequence_window["low"] += charge
        return message_id, asked

    def grant(self, credits_: int) -> None:
        """For the data channel: the server has granted credits (MS-SMB2 §3.2.5.1.4)."""
        if credits_ == 0 and not self.supports_multi_credit:
            credits_ = 1
        with self.sequence_lock:
            self.sequence_window["high"] += credits_

    def keys_of(self, session_id: int) -> Keys | None:
        """For the data channel: how the messages of a session that is signed in are protected."""
        session = self.session_table.get(session_id)
        if session is None or not session.signing_key:
            return None
        is_newest = self.dialect >= Dialects.SMB_3_1_1
        signing = self.signing_algorithm_id if is_newest else None
        cipher = self.cipher_id if is_newest else Ciphers.AES_128_CCM
        try:
            return Keys(
                Signing.AES_CMAC if signing is None else Signing(signing),
                session.signing_key,
                Sealing(cipher) if self.supports_encryption else None,
                session.encryption_key or b"",
                session.decryption_key or b"",
            )
        except ValueError:
            raise NotProtectedError("the server chose an algorithm that nobody offered it") from None

    def receive(
        self, request: Request, wait: bool = True, timeout: float | None = None, resolve_symlinks: bool = False
    ) -> Any:
        """As smbprotocol's, but it always has a time limit, which condemns the connection, and follows no links.

        An interim answer begins the time anew, until it is ten times as long that the first one came.
        """
        began_s = time.monotonic()
        longest_s = LONGEST_WAIT_S if timeout is None else timeout
        limit_s = self.timeout_s if timeout is None else timeout
        deadline_s = math.inf
        message_id = request.message["message_id"].get_value()
        while True:
            left_s = min(began_s + longest_s, deadline_s) - time.monotonic()
            if not self._wire.outwait(request.response_event.wait, limit_s, left_s):
                self.condemn_for_silence(began_s)
                raise NoAnswerError
            with request.response_event_lock:
                response = request.response
                # The receiver wakes everybody when it ends, with or without an answer.
                if response is None or (self._is_pending(response) and self.condemned):
                    raise self._lost()
                if self._is_pending(response):
                    deadline_s = min(deadline_s, time.monotonic() + _MOST_WAITS * limit_s)
                    request.response_event.clear()
                    continue
            self.outstanding_requests.pop(message_id, None)
            code = response["status"].get_value()
            if code in status.SESSION_IS_OVER:
                self.condemn(status.meaning_of(code).clause)
            if code != status.SUCCESS:
                raise SMBResponseException(response)
            return response

    @property
    def passed_s(self) -> float:
        """When the last byte got through, on the steady clock."""
        return self._wire.passed_s

    def condemn_for_silence(self, began_s: float) -> None:
        """Give it up: what was asked at `began_s`, on the steady clock, was not answered."""
        self.condemn(f"the server gave no answer for {_since(began_s)} s")

    def verify_signature(self, header: Any, session_id: int, force: bool = False) -> None:
        """As smbprotocol's, but an answer that had to be signed or encrypted and is not is refused, too
        (MS-SMB2 §3.2.5.1.1 and §3.2.5.1.3). smbprotocol calls this for every answer that came unencrypted."""
        if header["status"].get_value() == status.USER_SESSION_DELETED:
            # It has no key any more to sign that with; believing it costs no more than a connection.
            raise NotProtectedError(status.meaning_of(status.USER_SESSION_DELETED).clause)
        try:
            super().verify_signature(header, session_id, force)
        except SMBException as error:
            raise NotProtectedError("the signature of an answer is wrong") from error
        message_id = header["message_id"].get_value()
        if not force and message_id != UNSOLICITED:
            self._refuse_unprotected(header, self.outstanding_requests[message_id])

    def _refuse_unprotected(self, header: Any, request: Any) -> None:
        if request.message["command"].get_value() in (Commands.SMB2_NEGOTIATE, Commands.SMB2_SESSION_SETUP):
            return  # before there are keys; protected by what is derived from them
        session = self.session_table.get(request.session_id)
        tree = session and session.tree_connect_table.get(request.message["tree_id"].get_value())
        if session is not None and (session.encrypt_data or (tree is not None and tree.encrypt_data)):
            raise NotProtectedError("an answer came unencrypted")
        if not header["flags"].has_flag(Smb2Flags.SMB2_FLAGS_SIGNED) and not self._is_pending(header):
            raise NotProtectedError("an answer came unsigned")

    def _receive_message(self, length: int) -> bytes | None:
        """Take one message off the wire: the channel's stay there, others are for smbprotocol once they are vetted."""
        vetting.refuse_too_long(length, signed_in=bool(self.session_table))
        message = self.channel.receive(length)
        if message is not None and not message.startswith(TRANSFORM):
            vetting.refuse_unfit(message, self._command_of)
        return message

    def _command_of(self, message_id: int) -> int | None:
        """The command of a request that is under way."""
        request = self.outstanding_requests.get(message_id)
        return None if request is None else int(request.message["command"].get_value())

    def _check_worker_running(self) -> None:
        """As smbprotocol's, with an error of our own."""
        if self.condemned:
            raise self._lost()

    def _process_message_thread(self) -> None:
        """As smbprotocol's, and in the end the connection is condemned before the data channel is told."""
        try:
            super()._process_message_thread()
        finally:
            self.condemn(_ENDED)
            self.channel.end()

    def _encrypt(self, b_data: bytes, session: Any) -> bytes:
        """As smbprotocol's, but with nonces that can't repeat, neither among its messages nor with the channel's."""
        return self.channel.seal(session.session_id, b_data)

    def _decrypt(self, message: Any) -> bytes:
        """As smbprotocol's, with an error of our own."""
        try:
            plain: bytes = super()._decrypt(message)
        except Exception as error:
            raise NotProtectedError("an answer can't be decrypted") from error
        vetting.refuse_unfit(plain, self._command_of)
        return plain

    @staticmethod
    def _is_pending(header: Any) -> bool:
        return bool(header["status"].get_value() == status.PENDING)

    def _lost(self) -> ConnectionLostError:
        return ConnectionLostError(self.condemned or "the connection was lost")


def _since(began_s: float) -> str:
    """How many seconds ago that was, for people."""
    seconds = time.monotonic() - began_s
    return f"{round(seconds, 1 if seconds < 10 else None):g}"
