"""Where a directory is: on a local file system or on an SMB server. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from .errors import ConfigError, InvalidNameError
from .names import check_name, check_path, join

_HINT = r"Write \\server\share\directory, smb://server/share/directory or an absolute local path."


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """An absolute directory on this machine."""

    path: str

    def __str__(self) -> str:
        return self.path

    def child(self, *parts: str) -> LocalAddress:
        """The address of something below this one."""
        return LocalAddress("/".join([self.path.rstrip("/\\"), *(p for p in parts if p)]))


@dataclass(frozen=True, slots=True)
class SmbAddress:
    r"""A directory on an SMB share. `server` is the name used in \\server\share; `path` uses '/'."""

    server: str
    share: str
    path: str = ""

    def __str__(self) -> str:
        return "\\\\" + "\\".join([self.server, self.share, *(self.path.split("/") if self.path else ())])

    def child(self, *parts: str) -> SmbAddress:
        """The address of something below this one."""
        return SmbAddress(self.server, self.share, join(self.path, *parts))


Address = LocalAddress | SmbAddress


def parse_address(text: str) -> Address:
    r"""Read `\\server\share\dir`, `//server/share/dir`, `smb://server/share/dir` or an absolute local path.

    Raises ConfigError for anything else, among them user names, passwords and ports in the address (they
    belong under `servers:`), and for parts that would leave the directory.
    """
    if not text or "\0" in text:
        raise ConfigError("read", f"address {text!r}", "it is empty or holds a NUL", _HINT)
    if re.match(r"(smb://|[\\/]{2})[^\\/]*@", text, re.IGNORECASE):
        raise _holds_more("an address with '@' in its server")  # not shown: a password may stand there
    if text.lower().startswith("smb://"):
        return _from_url(text)
    if text.startswith(("\\\\", "//")):
        return _from_parts(text, re.split(r"[\\/]+", text.strip("\\/")))
    if text.startswith("/") or re.match(r"[A-Za-z]:[\\/]", text):
        parts = re.split(r"[\\/]+" if not text.startswith("/") else "/+", text)
        if any(part in (".", "..") for part in parts):
            raise ConfigError("read", f"address {text!r}", "it holds '.' or '..'", "Write the path in full.")
        return LocalAddress(text.rstrip("/\\") or text[:1])
    subject = f"address {text!r}" if "@" not in text else "an address with '@'"  # a password may stand there
    raise ConfigError("read", subject, "it is neither a share nor an absolute path", _HINT)


def _holds_more(subject: str) -> ConfigError:
    return ConfigError(
        "read", subject, "it holds more than server, share and directory",
        "User, password and port belong under 'servers:'.",
    )  # fmt: skip


def _from_url(text: str) -> SmbAddress:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise ConfigError("read", f"address {text!r}", str(error), _HINT) from None
    if port is not None or url.query or url.fragment:
        raise _holds_more(f"address {text!r}")
    return _from_parts(text, [unquote(url.netloc), *(unquote(p) for p in url.path.split("/") if p)])


def _from_parts(text: str, parts: list[str]) -> SmbAddress:
    if len(parts) < 2 or not all(parts[:2]):
        raise ConfigError("read", f"address {text!r}", "it names no share", _HINT)
    server, share, *rest = parts
    try:
        check_name(share, "share")
        path = check_path("/".join(rest))
    except InvalidNameError as error:
        raise ConfigError("read", f"address {text!r}", error.answer, _HINT) from None
    if not re.fullmatch(r"[^\s\\/:*?\"<>|@]+", server):
        raise ConfigError("read", f"address {text!r}", f"{server!r} is no server name", _HINT)
    return SmbAddress(server, share, path)
