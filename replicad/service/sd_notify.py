"""What systemd wants to hear of a service with `Type=notify`: sd_notify(3) and sd_watchdog_enabled(3).

Without `$NOTIFY_SOCKET` nothing is said and nothing fails; what can't be said is logged once and never stops the
service.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

import structlog

_MAX_STATUS_BYTES = 1_000
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("sd_notify")


class Notifier:
    """Tells the service manager how the service is. No call waits, or raises."""

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        """`address` is a path, or `@` and an abstract name; None: nobody listens."""
        self._address = address
        self._watchdog_s = watchdog_s
        self._complained = False
        self._socket: socket.socket | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Notifier:
        """What `$NOTIFY_SOCKET`, `$WATCHDOG_USEC` and `$WATCHDOG_PID` say."""
        notifier = cls(environ.get("NOTIFY_SOCKET") or None)
        notifier._watchdog_s = notifier._watchdog_of(environ)
        return notifier

    def ready(self) -> None:
        """The service works; also after a reload."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` follows, whatever came of it."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000}")

    def stopping(self) -> None:
        """The service ends."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for people, in `systemctl status`. Cut at 1,000 bytes; nothing in it passes for another message."""
        line = "".join(c if c.isprintable() else " " for c in text)
        self._tell("STATUS=" + line.encode("utf-8", "replace")[:_MAX_STATUS_BYTES].decode("utf-8", "ignore"))

    def watchdog(self) -> None:
        """The service is alive; to be said every `watchdog_interval_s`."""
        if self._watchdog_s is not None:
            self._tell("WATCHDOG=1")

    def watchdog_interval_s(self) -> float | None:
        """How often to call `watchdog`: half of the time after which systemd takes us for dead. None: never."""
        return None if self._watchdog_s is None else self._watchdog_s / 2

    def close(self) -> None:
        """Say nothing more."""
        self._address = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _watchdog_of(self, environ: Mapping[str, str]) -> float | None:
        typed, pid = environ.get("WATCHDOG_USEC"), environ.get("WATCHDOG_PID")
        if not typed or (pid and pid != str(os.getpid())):
            return None
        if not (typed.isascii() and typed.isdigit() and 0 < int(typed) < 2**63):
            self._complain(f"$WATCHDOG_USEC is {typed!r}, and not a number of microseconds")
            return None
        return int(typed) / 1e6

    def _tell(self, message: str) -> None:
        if self._address is None:
            return
        try:
            self._reached(self._address).send(message.encode())
        except (OSError, ValueError) as error:
            self._complain(str(error))
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _reached(self, address: str) -> socket.socket:
        if self._socket is None:
            if not address.startswith(("/", "@")):
                raise ValueError(f"$NOTIFY_SOCKET is {address!r}, neither a path nor an abstract name")
            path = "\0" + address[1:] if address.startswith("@") else address
            reached = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                reached.setblocking(False)
                reached.connect(path)
            except BaseException:
                reached.close()
                raise
            self._socket = reached
        return self._socket

    def _complain(self, answer: str) -> None:
        if not self._complained:
            self._complained = True
            _log.warning("cannot tell systemd how the service is", answer=answer)
