"""How work on a connection fails, inside this adapter. `Link` turns these into errors for users."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from smbprotocol.exceptions import SMBException


class NoAnswerError(Exception):
    """The time for an answer is over. The connection has been condemned."""


class ConnectionLostError(Exception):
    """The connection was lost, ended or given up; the text is a clause that says how."""


class NotProtectedError(SMBException):  # type: ignore[misc]  # smbprotocol is untyped
    """An answer was not signed or encrypted as it must be, or wrongly; the text is a clause."""


class MalformedAnswerError(SMBException):  # type: ignore[misc]  # smbprotocol is untyped
    """What the server sent makes no sense."""

    def __init__(self) -> None:
        super().__init__("the server sent something that can't be understood")


@contextmanager
def understanding() -> Iterator[None]:
    """MalformedAnswerError for whatever smbprotocol and spnego stumble over when they take apart what a server sent.

    What that was is not told: its text may quote what they were given.
    """
    try:
        yield
    except (SMBException, ConnectionLostError, NoAnswerError):
        raise
    except Exception:  # noqa: BLE001 - any of ValueError, IndexError, KeyError, struct.error …, and none of them is ours
        raise MalformedAnswerError from None


def clause_of(error: BaseException | None) -> str:
    """How a connection ended, in words; empty if that is not known."""
    if isinstance(error, NotProtectedError | ConnectionLostError | MalformedAnswerError):
        return str(error)
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "the server reset the connection"
    if isinstance(error, TimeoutError):
        return "the server can't be reached any more"
    if isinstance(error, ConnectionError) and error.errno is None:
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if error is not None and not isinstance(error, SMBException):
        return str(MalformedAnswerError())
    return ""
