"""How work on a connection fails, inside this adapter. `Link` turns these into errors for users."""

from __future__ import annotations

from smbprotocol.exceptions import SMBException


class NoAnswerError(Exception):
    """The time for an answer is over. The connection has been condemned."""


class ConnectionLostError(Exception):
    """The connection was lost, ended or given up; the text is a clause that says how."""


class NotProtectedError(SMBException):  # type: ignore[misc]  # smbprotocol is untyped
    """An answer was not signed or encrypted as it must be, or wrongly; the text is a clause."""


def clause_of(error: BaseException | None) -> str:
    """How a connection ended, in words; empty if that is not known."""
    if isinstance(error, NotProtectedError | ConnectionLostError):
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
        return "the server sent something that can't be understood"
    return ""
