"""Who has signed in with a browser: for hours, and without the token being kept there (docs/decisions/0006)."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from hashlib import sha256

CODE_S = 120.0
"""How long a code is good, for one sign-in."""
SESSION_S = 12 * 3_600.0
_MOST_CODES = 16
_MOST_SESSIONS = 64
_KEY_BYTES = 32

WAY = "replicad.way"
"""Where the guard writes into an ASGI scope how a request has come in."""


class Way(StrEnum):
    """How a request has come in."""

    SOCKET = "socket"
    """By the Unix socket, which only its owner can open."""
    TOKEN = "token"  # noqa: S105 - the name of a way
    SESSION = "session"
    NOBODY = "nobody"
    """By TCP, without anything."""


class Sessions:
    """Codes that are exchanged for keys once, and keys; none of them is kept as it is. They end with the daemon.

    `now_s` is a steady clock. With more than 64 sessions, or 16 codes, the oldest one ends.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._codes: OrderedDict[bytes, float] = OrderedDict()
        self._keys: OrderedDict[bytes, float] = OrderedDict()

    def new_code(self) -> str:
        """A code that is good for one sign-in within two minutes."""
        return self._issue(self._codes, CODE_S, _MOST_CODES)

    def take(self, code: str) -> bool:
        """Whether a code is good; from now on it is not."""
        until_s = self._codes.pop(_digest(code.encode("utf-8", "replace")), None)
        return until_s is not None and self._now_s() < until_s

    def open(self) -> str:
        """The key of a new session, good for twelve hours."""
        return self._issue(self._keys, SESSION_S, _MOST_SESSIONS)

    def knows(self, key: bytes) -> bool:
        """Whether it is the key of a session. How long this takes tells nothing of any key, only of hashes."""
        until_s = self._keys.get(_digest(key))
        return until_s is not None and self._now_s() < until_s

    def close(self, key: bytes) -> None:
        """End a session, if there is one."""
        self._keys.pop(_digest(key), None)

    def _issue(self, issued: OrderedDict[bytes, float], for_s: float, most: int) -> str:
        new = secrets.token_urlsafe(_KEY_BYTES)
        issued[_digest(new.encode())] = self._now_s() + for_s
        while len(issued) > most:
            issued.popitem(last=False)
        return new


def _digest(secret: bytes) -> bytes:
    return sha256(secret).digest()
