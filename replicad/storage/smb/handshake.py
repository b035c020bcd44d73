"""From a TCP connection to a link that is signed in (MS-SMB2 §3.2.4.2), and what a server is refused for on the way."""

from __future__ import annotations

from typing import Any

from smbprotocol import Dialects
from smbprotocol.exceptions import SMBAuthenticationError, SMBException, SMBResponseException
from smbprotocol.session import Session

from replicad.model.errors import SignInError, UnreachableError, UnsupportedError

from . import status
from .connection import CREDIT_TARGET, Connection
from .data.channel import CREDIT_BYTES
from .endpoint import Endpoint
from .failures import MalformedAnswerError, NotProtectedError, understanding
from .job import Job
from .link import DIALECTS, Link
from .transport import SocketAddress, connect_to, dial


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
        await link.run("negotiate with", subject, lambda job: _negotiate(link))
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


def _negotiate(link: Link) -> None:
    connection = link.connection
    with understanding():
        connection.connect(timeout=link.endpoint.connect_timeout_s)
    if min(connection.max_transact_size, connection.max_read_size, connection.max_write_size) < CREDIT_BYTES:
        raise MalformedAnswerError  # §3.3.5.4: never less than 64 KiB


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
            with understanding():
                session.connect()
            _refuse_known_key(session)
        except SMBResponseException as error:
            raise status.sign_in_error_for(error.status, subject) from None
        except SMBAuthenticationError:
            raise _no_credentials(endpoint, subject) from None
        except (NotProtectedError, MalformedAnswerError) as error:
            raise SignInError("sign in to", subject, str(error), "Make sure that it is yours.") from None
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


def _refuse_known_key(session: Any) -> None:
    """NotProtectedError if everything would be protected with a key that anybody knows.

    When a server ends the sign-in before anything was proven, spnego may have no session key; smbprotocol then takes
    zeros for it.
    """
    if not any(session.full_session_key or b""):
        raise NotProtectedError("the sign-in ended before the server had proven anything")


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
        with understanding():
            connection.echo(
                sid=link.session_id, timeout=connection.timeout_s, credit_request=CREDIT_TARGET - before + 1
            )
    most = min(connection.max_read_size, connection.max_write_size)
    if connection.supports_multi_credit:
        most = min(most, max(1, window.available // 2) * CREDIT_BYTES)
    else:
        most = min(most, CREDIT_BYTES)
    link.piece_bytes = min(link.piece_bytes, most)
