"""A signed-in connection, as asyncio sees it: blocking work runs on its threads, and every wait has an end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from smbprotocol import Dialects
from smbprotocol.connection import Ciphers, SigningAlgorithms
from smbprotocol.exceptions import SMBException, SMBResponseException
from smbprotocol.session import SMB2Logoff
from smbprotocol.tree import TreeConnect

from replicad.model.errors import ReplicadError, TimedOutError, UnreachableError

from . import status
from .connection import Connection
from .endpoint import Endpoint
from .failures import (
    ConnectionLostError,
    MalformedAnswerError,
    NoAnswerError,
    NotProtectedError,
    clause_of,
    understanding,
)
from .job import AbandonedError, Job

T = TypeVar("T")

THREADS = 8
"""Calls under way at a time on one connection; more wait for their turn."""
_CANCEL_GRACE_S = 5.0
"""How long a cancelled call may take to collect what is in flight, before its connection is given up, and with it all
others to that server. Some megabytes may lie in the sockets' buffers, which nobody sees getting fewer."""
_MOST_GRACES = 2
"""And how many times as long if bytes are seen to pass."""
_LOGOFF_TIMEOUT_S = 2.0

DIALECTS = {
    Dialects.SMB_2_0_2: "SMB 2.0.2",
    Dialects.SMB_2_1_0: "SMB 2.1",
    Dialects.SMB_3_0_0: "SMB 3.0",
    Dialects.SMB_3_0_2: "SMB 3.0.2",
    Dialects.SMB_3_1_1: "SMB 3.1.1",
}
CIPHERS = {
    Ciphers.AES_128_CCM: "AES-128-CCM",
    Ciphers.AES_128_GCM: "AES-128-GCM",
    Ciphers.AES_256_CCM: "AES-256-CCM",
    Ciphers.AES_256_GCM: "AES-256-GCM",
}
SIGNING = {
    SigningAlgorithms.HMAC_SHA256: "HMAC-SHA256",
    SigningAlgorithms.AES_CMAC: "AES-CMAC",
    SigningAlgorithms.AES_GMAC: "AES-GMAC",
}


@dataclass(frozen=True, slots=True)
class Security:
    """What was negotiated, in words. `encrypted` is about the whole session; a share may add it for itself."""

    dialect: str
    signing: str
    cipher: str
    encrypted: bool


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """What one request for a copy by the server may ask for. The default is what Windows and Samba take."""

    chunks: int = 256
    chunk_bytes: int = 1024 * 1024
    total_bytes: int = 16 * 1024 * 1024


class Tree:
    """A share that a link has opened, and what its file system was seen to do."""

    def __init__(self, link: Link, share: str, connect: Any) -> None:
        self.link = link
        self.share = share
        self.tree_id = int(connect.tree_connect_id)
        self.encrypted = bool(connect.encrypt_data or link.session.encrypt_data)
        self.can_be_sparse = True
        self.can_zero = True
        self.can_tell_ranges = True
        self.can_flush_directories = True
        self.copy_limits = CopyLimits()


class Link:
    """One connection with one session. Open files belong to it and are lost with it.

    Made by `handshake.connect`. After `condemned` says why, every call raises UnreachableError.
    """

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        self.endpoint = endpoint
        self.connection = connection
        self.session: Any = None
        self.piece_bytes = endpoint.piece_bytes
        """The most that one READ or WRITE moves."""
        self.carried_bytes = 0
        """Of the calls that are moving data now. Only the event loop looks at it and changes it."""
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix=f"smb-{endpoint.name}")
        self._trees: dict[str, Tree] = {}
        self._tree_lock = asyncio.Lock()
        self._discarded = False

    @property
    def server(self) -> str:
        r"""`\\name`, as users know it."""
        return f"\\\\{self.endpoint.name}"

    @property
    def condemned(self) -> str:
        """Why it is of no more use; empty while it is."""
        return self.connection.condemned

    @property
    def session_id(self) -> int:
        """The server's number of the session; 0 before the sign-in."""
        return int(self.session.session_id or 0) if self.session is not None else 0

    @property
    def security(self) -> Security:
        """What was negotiated."""
        connection = self.connection
        cipher = connection.cipher_id or (Ciphers.AES_128_CCM if connection.supports_encryption else None)
        signing = connection.signing_algorithm_id
        if signing is None:
            signing = SigningAlgorithms.AES_CMAC
        return Security(
            DIALECTS.get(connection.dialect, f"0x{connection.dialect:04X}"),
            SIGNING.get(signing, f"algorithm {signing}"),
            CIPHERS.get(cipher, "none"),
            bool(self.session is not None and self.session.encrypt_data),
        )

    @contextlib.contextmanager
    def carrying(self, length_bytes: int) -> Iterator[None]:
        """A call that moves so many bytes is under way."""
        self.carried_bytes += length_bytes
        try:
            yield
        finally:
            self.carried_bytes -= length_bytes

    async def run(
        self,
        op: str,
        subject: str,
        work: Callable[[Job], T],
        undo: Callable[[T], object] | None = None,
        *,
        gives_back: bool = False,
    ) -> T:
        """Do blocking work on one of the threads; smbprotocol's errors become ours, about `op` and `subject`.

        When cancelled, it begins nothing more, and returns after what was in flight has been answered (or the
        connection was given up), so that nothing of it can take effect later or touch the caller's buffers. If the
        work was done by then, `undo` is called with its result, on a thread. Work that `gives_back` something to the
        server is done even if it was cancelled before it began.
        """
        if self.condemned:
            raise self._lost_error(op, subject)
        job = Job()
        future = self._executor.submit(work, job)
        waiter = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            job.abandon()
            if gives_back or not future.cancel():
                await self._wait_without_complaint(waiter)
                job.take_back()
                if undo is not None and waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    undoing = asyncio.wrap_future(self._executor.submit(undo, waiter.result()))
                    await self._wait_without_complaint(undoing)
            raise
        except (SMBException, ConnectionLostError, NoAnswerError, AbandonedError) as error:
            raise self.translate(error, op, subject) from None

    async def _wait_without_complaint(self, waiter: asyncio.Future[Any]) -> None:
        """Wait for what a thread does for a call that was cancelled; what it raises interests nobody."""
        waiter.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        with contextlib.suppress(asyncio.CancelledError):  # cancelled once more: then without patience
            for _ in range(_MOST_GRACES):
                passed_s = self.connection.passed_s
                await asyncio.wait({waiter}, timeout=_CANCEL_GRACE_S)
                if waiter.done() or self.connection.passed_s == passed_s:
                    break
        if not waiter.done():
            self.connection.condemn("a call on it was cancelled and the server did not answer")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({waiter}, timeout=_CANCEL_GRACE_S)

    def translate(self, error: Exception, op: str, subject: str) -> ReplicadError:
        """One of smbprotocol's or our own inner errors as an error for users."""
        if isinstance(error, SMBResponseException):
            return status.error_for(error.status, op, subject)
        if isinstance(error, NoAnswerError):
            return TimedOutError(op, subject, self.condemned, "Check the server and the network.")
        if isinstance(error, SMBException):
            self.connection.condemn(clause_of(error) or "the server does not keep to the protocol")
        return self._lost_error(op, subject)

    def _lost_error(self, op: str, subject: str) -> UnreachableError:
        why = self.condemned or "the connection was lost"
        return UnreachableError(op, subject, why, "The next attempt connects anew.")

    async def tree(self, share: str) -> Tree:
        """One share of the server, opened once. NotFoundError if there is none, AccessDeniedError."""
        async with self._tree_lock:
            if share not in self._trees:
                connect = TreeConnect(self.session, f"\\\\{self.endpoint.host}\\{share}")
                await self.run("open the share", f"{self.server}\\{share}", lambda job: _open_tree(connect))
                # Our paths are relative to the share, which a DFS flag would contradict (MS-SMB2 §3.2.4.3).
                connect.is_dfs_share = False
                self._trees[share] = Tree(self, share, connect)
            return self._trees[share]

    async def close(self) -> None:
        """Sign out, then disconnect. Bounded, and never raises because of a lost connection."""
        try:
            await self.sign_out()
        finally:
            self.discard()

    async def sign_out(self) -> None:
        """On return the server has closed our files and freed our locks, or the connection is lost."""
        # Where it is lost, that closes everything as well.
        with contextlib.suppress(ReplicadError):
            if not self.condemned and self.session_id:
                await self.run("sign out of", self.server, self._log_off)

    def discard(self) -> None:
        """Disconnect, and give back what the link holds here. Can be called again."""
        self.connection.condemn("it was closed")
        if not self._discarded:
            self._discarded = True
            self._executor.submit(self.connection.discard)
            self._executor.shutdown(wait=False)

    def _log_off(self, job: Job) -> None:
        request = self.connection.send(SMB2Logoff(), sid=self.session_id)
        self.connection.receive(request, timeout=_LOGOFF_TIMEOUT_S)


def _open_tree(connect: Any) -> None:
    """Blocking: open a share, and with SMB 3.0.2 make sure that nobody changed the negotiation on its way (MS-SMB2
    §3.2.5.5)."""
    with understanding():
        try:
            connect.connect()
        except (SMBResponseException, MalformedAnswerError, NotProtectedError):
            raise
        except SMBException:
            raise NotProtectedError("the negotiation was changed on its way") from None
