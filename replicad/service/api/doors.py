"""Where the API is asked: the Unix socket of the daemon's own user, and a TCP address if one is configured."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from replicad.model.errors import AccessDeniedError, BusyError, ConfigError, PermanentError
from replicad.service.passwords import Warn, read_secret
from replicad.settings import Settings, TcpAccess

from .guard import Pass

SOCKET = "api.sock"
MAX_PATH_BYTES = 107
"""sun_path of unix(7), without the zero at its end."""
MIN_TOKEN_CHARS = 16
_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Door:
    """A socket that listens, and what who comes by it needs."""

    socket: socket.socket
    needs: Pass

    @property
    def url(self) -> str | None:
        """Where a browser of this host reaches it; None for a Unix socket."""
        if self.socket.family == getattr(socket, "AF_UNIX", None):
            return None
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextmanager
def open_doors(settings: Settings, warn: Warn) -> Iterator[tuple[Door, ...]]:
    """Listen; from then on who connects waits to be answered. In the end nothing is left of it.

    To be called by the one daemon of a state directory: the socket of one that died is replaced. ConfigError for a
    `state_dir` that is too long, an address that is not there, or a token that can't be read or is too short; BusyError
    for an address in use; AccessDeniedError or PermanentError if the socket can't be made.
    """
    with ExitStack() as stack:
        path = settings.state_dir / SOCKET
        own = stack.enter_context(_unix(path))
        doors = [Door(own, Pass(frozenset({"localhost"})))]
        if settings.api is not None:
            token = _token(settings.api.token_file, warn)
            host = settings.api.address.rpartition(":")[0].lower()
            needs = Pass(frozenset({host, "localhost"}), token)
            doors.append(Door(stack.enter_context(_tcp(settings.api)), needs))
        yield tuple(doors)


@contextmanager
def _unix(path: Path) -> Iterator[socket.socket]:
    length = len(os.fsencode(path))
    if length > MAX_PATH_BYTES:
        answer = f"this path has {length} bytes, and that of a socket at most {MAX_PATH_BYTES}"
        raise ConfigError("listen on", str(path), answer, "Give a shorter 'state_dir:'.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        try:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise PermanentError("listen on", str(path), "something else lies there", "Move it away.")
            path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _refused(path, error) from None
        try:
            # Linux makes the file with the mode that the socket has then, so that it is never open to others.
            os.fchmod(listening.fileno(), 0o600)
            listening.bind(os.fspath(path))
            listening.listen(_BACKLOG)
        except OSError as error:
            raise _refused(path, error) from None
        listening.setblocking(False)
        try:
            yield listening
        finally:
            path.unlink(missing_ok=True)


def _refused(path: Path, error: OSError) -> PermanentError:
    kind = AccessDeniedError if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else PermanentError
    reason = error.strerror or type(error).__name__
    return kind(
        "listen on", str(path), reason, "The directory must be on a local file system that this user can write."
    )


@contextmanager
def _tcp(access: TcpAccess) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in access.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((access.host, access.port))
            listening.listen(_BACKLOG)
        except OSError as error:
            hint = "Give another one under 'api:'."
            if error.errno == errno.EADDRINUSE:
                # It may go away: systemd starts the daemon again, which it does not after a ConfigError.
                raise BusyError("listen on", access.address, "another program listens there", hint) from None
            raise ConfigError("listen on", access.address, error.strerror or type(error).__name__, hint) from None
        listening.setblocking(False)
        yield listening


def _token(path: Path, warn: Warn) -> str:
    token = read_secret(path, "the token of the API", "token", warn)
    if len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable() or " " in token:
        answer = f"{path} holds no token of {MIN_TOKEN_CHARS} or more letters, digits and signs, without spaces"
        raise ConfigError("use", "the token of the API", answer, f"Make one: openssl rand -hex 32 > {path}")
    return token
