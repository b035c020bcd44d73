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
from smbprotocol.exceptions import SMBAuthenticationError, SMBException, SMBResponseException
from smbprotocol.session import Session, SMB2Logoff
from smbprotocol.tree import TreeConnect

from replicad.model.errors import (
    ReplicadError,
    SignInError,
    TimedOutError,
    UnreachableError,
    UnsupportedError,
)

from . import status
from .connection import CREDIT_TARGET, Connection
from .data.channel import CREDIT_BYTES
from .endpoint import Endpoint
from .failures import ConnectionLostError, NoAnswerError
from .job import AbandonedError, Job
from .transport import SocketAddress, connect_to, dial

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

    Made by `connect`. After `condemned` says why, every call raises UnreachableError.
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
            self.connection.condemn("the server does not keep to the protocol")
        return self._lost_error(op, subject)

    def _lost_error(self, op: str, subject: str) -> UnreachableError:
        why = self.condemned or "the connection was lost"
        return UnreachableError(op, subject, why, "The next attempt connects anew.")

    async def tree(self, share: str) -> Tree:
        """One share of the server, opened once. NotFoundError if there is none, AccessDeniedError."""
        async with self._tree_lock:
            if share not in self._trees:
                connect = TreeConnect(self.session, f"\\\\{self.endpoint.host}\\{share}")
                await self.run("open the share", f"{self.server}\\{share}", lambda job: connect.connect())
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


async def connect(endpoint: Endpoint, previous_session_id: int = 0, at: SocketAddress | None = None) -> Link:
    """Connect, negotiate and sign in; `at` an address, else at the first one of the endpoint's that answers.

    With `previous_session_id`, the server ends that session of the same user first: its files are closed and its
    locks are free, and requests that it sent and that are still on their way are refused (MS-SMB2 §3.3.5.5.3).
    Raises UnreachableError or TimedOutError, UnsupportedError where the server can't be trusted with data (dialect,
    signing, encryption), SignInError (never try that again by yourself).
    """
    sock = await (dial(endpoint) if at is None else connect_to(endpoint, *at))
    link = Link(endpoint, Connection(endpoint, sock, previous_session_id))
    try:
        await negotiate(link)
        refuse_unprotected(link)
        await sign_in(link)
    except BaseException:
        await link.close()
        raise
    return link


async def negotiate(link: Link) -> None:
    """Agree on a dialect. UnreachableError, TimedOutError; UnsupportedError for a dialect that is too old."""
    connection, endpoint = link.connection, link.endpoint
    subject = f"server {endpoint.where}"
    try:
        await link.run("negotiate with", subject, lambda job: connection.connect(timeout=endpoint.connect_timeout_s))
    except UnreachableError as error:
        raise UnreachableError(
            "negotiate with", subject, error.answer,
            "It may speak only SMB 1, not be an SMB server, or refuse this host.",
        ) from None  # fmt: skip
    if connection.dialect is None or connection.dialect < Dialects.SMB_3_0_2:
        spoken = DIALECTS.get(connection.dialect, "an unknown dialect")
        raise UnsupportedError(
            "negotiate with", subject, f"it speaks {spoken} at most, and SMB 3.0.2 or later is needed",
            "Allow newer dialects on the server (Samba: 'server max protocol = SMB3').",
        ) from None  # fmt: skip


def refuse_unprotected(link: Link) -> None:
    """UnsupportedError if the server does not offer what the configuration requires."""
    if link.endpoint.encryption_required and not link.connection.supports_encryption:
        raise UnsupportedError(
            "negotiate with",
            f"server {link.endpoint.where}",
            "it does not offer encryption, which the configuration requires",
            "Allow encryption on the server (Samba: 'server smb encrypt = default'), or set 'encryption: allowed'.",
        )


async def sign_in(link: Link) -> None:
    """Sign in, and get the link ready for use. SignInError, UnreachableError, TimedOutError."""
    endpoint, connection = link.endpoint, link.connection
    subject = f"server {endpoint.where}" + (f" as {endpoint.username}" if endpoint.username else "")
    password = await endpoint.password() if endpoint.password is not None else None
    session = Session(
        connection, endpoint.username, password,
        require_encryption=endpoint.encryption_required,
    )  # fmt: skip

    def set_up(job: Job) -> None:
        try:
            session.connect()
        except SMBResponseException as error:
            raise status.sign_in_error_for(error.status, subject) from None
        except SMBAuthenticationError:
            raise _no_credentials(endpoint, subject) from None
        except SMBException:
            if session.session_id is None:  # how smbprotocol tells that the server let us in as a guest only
                raise SignInError(
                    "sign in to", subject, "the server takes us for a guest, without signing or encryption",
                    "Check the user name and the password; on Samba set 'map to guest = never'.",
                ) from None  # fmt: skip
            raise
        finally:
            session.password = None

    await link.run("sign in to", subject, set_up)
    link.session = session
    await link.run("talk to", link.server, lambda job: _ramp_up_credits(link))
    connection.timeout_s = endpoint.timeout_s


def _no_credentials(endpoint: Endpoint, subject: str) -> SignInError:
    # The text of the error that came may quote what it was given, so it is not told.
    if endpoint.username and endpoint.password is not None:
        return SignInError(
            "sign in to", subject, "no way to prove who we are suits both sides", "See the server's log."
        )
    return SignInError(
        "sign in to", subject, "there is no Kerberos ticket for it",
        "Run kinit or set a keytab, or give 'username' and 'password_file' under 'servers:'.",
    )  # fmt: skip


def _ramp_up_credits(link: Link) -> None:
    """Ask for credits until there are enough, or the server grants no more (MS-SMB2 §3.3.1.2)."""
    connection, window = link.connection, link.connection.sequence_window
    before = -1
    while before < window.available < CREDIT_TARGET:
        before = window.available
        connection.echo(sid=link.session_id, timeout=connection.timeout_s, credit_request=CREDIT_TARGET - before + 1)
    most = min(connection.max_read_size, connection.max_write_size)
    if connection.supports_multi_credit:
        most = min(most, max(1, window.available // 2) * CREDIT_BYTES)
    else:
        most = min(most, CREDIT_BYTES)
    link.piece_bytes = min(link.piece_bytes, most)
