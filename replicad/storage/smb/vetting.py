"""What a message of the server's must be before anybody takes it apart (MS-SMB2 §3.2.5.1).

smbprotocol checks signatures and tags and little else, and it keeps or goes through more than it was asked for. What is
refused here ends the connection.
"""

from __future__ import annotations

from collections.abc import Callable

from replicad.storage.port import Buffer

from .data import frame
from .failures import MalformedAnswerError, NotProtectedError

UNSOLICITED = 0xFFFF_FFFF_FFFF_FFFF
"""The message id of what a server sends unasked: oplock and lease breaks (MS-SMB2 §2.2.23)."""
MOST_BYTES_BEFORE_SIGN_IN = 128 * 1024
"""Negotiation and sign-in carry a token of 64 KiB at most."""
_OPLOCK_BREAK = 0x12


def refuse_too_long(length: int, *, signed_in: bool) -> None:
    """NotProtectedError for a message that is longer than anything that may come now, before room is made for it."""
    if not signed_in and length > MOST_BYTES_BEFORE_SIGN_IN:
        raise NotProtectedError(f"the server sent {length} bytes before the sign-in")


def refuse_unfit(message: Buffer, asked: Callable[[int], int | None]) -> None:
    """Raise unless the message can be the answer to a request that is under way, or tells of a broken oplock.

    `asked` gives the command of the request with that message id. The flag that tells who sent a message matters most:
    both sides sign with one key, so without it a request of ours that is thrown back would pass for its own success.
    """
    answer = frame.parse_answer(message)
    if answer is None:
        raise MalformedAnswerError
    if not answer.flags & frame.FROM_SERVER:
        raise NotProtectedError("an answer does not come from the server")
    if answer.next_command:
        # Several in one are for requests that were sent so, and we send none. Taking thousands apart costs minutes.
        raise NotProtectedError("an answer holds more than was asked for")
    expected = _OPLOCK_BREAK if answer.message_id == UNSOLICITED else asked(answer.message_id)
    if answer.command != expected:
        raise NotProtectedError("an answer does not belong to its request")
