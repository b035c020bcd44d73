"""One SMB server: where it is, who signs in, and how long to wait for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

MAX_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class Endpoint:
    r"""A server as the configuration names it (`name` is the one in \\name\share).

    Without `username` the sign-in is Kerberos from the credential cache or keytab. `password` is asked for anew at
    each sign-in and never kept. With `encryption_required` false everything is still signed, and encrypted where
    the server or the share wants it.
    """

    name: str
    host: str
    port: int = 445
    username: str | None = None
    password: Callable[[], Awaitable[str]] | None = field(default=None, repr=False)
    encryption_required: bool = True
    connections: int = 2
    """How many connections, each with a session of its own, may carry bulk data; the first one carries all else. At
    most MAX_CONNECTIONS."""
    piece_bytes: int = 8 * 1024 * 1024
    """The most that one READ or WRITE moves, where the server and its credits allow as much. Larger ones cost less
    processor time, here and there."""
    connect_timeout_s: float = 10.0
    """For each of: name resolution, the TCP connection, negotiation, sign-in."""
    timeout_s: float = 30.0
    """For the answer to one request, and for sending it."""
    slow_timeout_s: float = 300.0
    """For the answer to a request that may move much data within the server: flush, copy, zero, close."""
    lost_after_s: float = 20.0
    """How long sent data may go unacknowledged, or an idle peer stay silent, before the connection counts as lost
    (where the platform can say so)."""

    @property
    def where(self) -> str:
        """Host and port, for people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 445 else f"{host}:{self.port}"
