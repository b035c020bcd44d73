"""One function for each kind of value in the file: what was typed in, a checked value out, or WrongError. Pure."""

from __future__ import annotations

import re
import shlex
from ipaddress import ip_address
from urllib.parse import urlsplit

from replicad.model.address import Address, parse_address
from replicad.model.errors import ConfigError, InvalidNameError
from replicad.model.names import check_name

from .model import DEFAULT_AT_MOST_EVERY_S, DEFAULT_QUIET_S, Hook, HookCommand, HookUrl, Room, Watching
from .problems import WrongError, kind, nearest, shown
from .units import format_size, parse_duration, parse_percent, parse_size

METHODS = ("none", "reflink", "command", "qemu", "hyperv")
METHODS_BUILT = ("none", "reflink", "command", "qemu")
MIN_CHUNK_BYTES = 64 << 10
MAX_CHUNK_BYTES = 4 << 20
MAX_KEPT = 100_000
MAX_HOOK_TIMEOUT_S = 3_600
MAX_COMMAND_TIMEOUT_S = 3_600
MAX_STALL_MS = 60_000

ABSOLUTE_PATTERN = r"^(/|[A-Za-z]:[\\/])"
ADDRESS_PATTERN = r"^(\\\\|//|[sS][mM][bB]://|/|[A-Za-z]:[\\/])"
# No separator but '/', nothing that SMB refuses, no part that is empty, '.' or '..', and no '**'.
GLOB_PATTERN = r'^(?!(.*/)?\.{0,2}(/|$))(?!.*\*\*)[^\\:"<>|\x00-\x1f]+$'
SERVER_NAME_PATTERN = r"""^[^\s\\/:*?"<>|@]+$"""

_HOST = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?"
_IPV6 = r"\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]"
HOST_PORT_PATTERN = rf"^({_HOST}|{_IPV6})(:[0-9]{{1,5}})?$"
LOOPBACK_PATTERN = r"^(127(\.[0-9]{1,3}){3}|\[[0:]*:0*1\]):[0-9]{1,5}$"
# Only an https one may hold a user and a password.
URL_PATTERN = r"^([hH][tT][tT][pP]://(?![^/?#]*@)|[hH][tT][tT][pP][sS]://)[^\s/?#][^\s#]*$"
_AS_WATCH = "write true, or {quiet: 5s, at_most_every: 1m}"
_AS_HOOK = 'write a URL (https://…), or a command as a list: ["/usr/local/bin/tell", "admin"]'


def text(value: object) -> str:
    """Text that is not empty and holds no control character."""
    if not isinstance(value, str):
        raise WrongError(
            f"this is {kind(value)}, not text", "put it in quotes" if isinstance(value, (int, float)) else "write text"
        )
    if not value:
        raise WrongError("this is empty", "write a value, or leave the key out")
    if re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", value):
        raise WrongError(
            "the text holds a control character",
            r"in double quotes YAML takes a backslash for an escape: use single quotes, or none",
        )
    return value


def number(value: object, low: int, high: int) -> int:
    """A whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise WrongError(f"{shown(value)} is no whole number", f"write a number from {low} to {high}")
    if not low <= value <= high:
        raise WrongError(f"{value} is out of range", f"write a number from {low} to {high}")
    return value


def true_or_false(value: object) -> bool:
    """A boolean of YAML 1.2."""
    if not isinstance(value, bool):
        raise WrongError(f"{shown(value)} is neither true nor false", "write true or false")
    return value


def choice(value: object, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    if value in choices and isinstance(value, str):
        return value
    guess = nearest(value, list(choices)) if isinstance(value, str) else ""
    hint = f"did you mean '{guess}'?" if guess else f"write {_either(choices)}"
    raise WrongError(f"{shown(value)} is not known here", hint)


def server_name(value: str) -> str:
    r"""The server part of `\\server\share`."""
    if not re.match(SERVER_NAME_PATTERN, value):
        raise WrongError(
            "this is no server name", r"write the name between \\ and the next \ in the addresses, such as nas1"
        )
    return value


def vm_name(value: str) -> str:
    """A name that can be a directory on every share."""
    try:
        return check_name(value)
    except InvalidNameError as error:
        raise WrongError.from_error(error) from None


def absolute_path(value: object) -> str:
    """A path on this machine, in full."""
    path = text(value)
    if path.startswith("~"):
        raise WrongError(f"{shown(path)} is not absolute", "'~' is not expanded: write the path in full")
    if not re.match(ABSOLUTE_PATTERN, path):
        raise WrongError(f"{shown(path)} is not absolute", "write the path in full, from / on")
    return path


def address(value: object) -> Address:
    """A directory on a share or on this machine."""
    typed = text(value)
    if re.match(r"\\[^\\]", typed):
        raise WrongError(
            f"{shown(typed)} begins with one backslash",
            r"write two, as in \\server\share, without quotes or in single quotes",
        )
    try:
        return parse_address(typed)
    except ConfigError as error:
        if "@" in typed:
            raise WrongError.from_error(error) from None
        raise WrongError(f"{shown(typed)}: {error.answer}", WrongError.from_error(error).hint) from None


def host_port(value: object) -> tuple[str, int | None]:
    """`host`, `host:port`, `[IPv6]` or `[IPv6]:port`; the host without brackets."""
    typed = text(value)
    if "@" in typed or "/" in typed or "\\" in typed:
        raise WrongError(
            "this is more than a host and a port", "write a name or an IP address, such as nas1.example.net"
        )
    if typed.count(":") > 1 and not typed.startswith("["):
        raise WrongError(f"{shown(typed)} looks like an IPv6 address", f"write it in brackets: '[{typed}]'")
    if not re.match(HOST_PORT_PATTERN, typed):
        raise WrongError(
            f"{shown(typed)} is no host and port", "write nas1.example.net, 192.0.2.7:4450 or '[2001:db8::7]:445'"
        )
    host, port_text = typed, ""
    if not typed.endswith("]") and ":" in typed:
        host, _, port_text = typed.rpartition(":")
    return host.strip("[]"), number(int(port_text), 1, 65_535) if port_text else None


def loopback(value: object) -> tuple[str, int]:
    """An address of this host that no other can reach, and a port."""
    host, port = host_port(value)
    if port is None:
        raise WrongError(f"{shown(value)} names no port", f"write {shown_address(host)}:8600")
    try:
        address = ip_address(host)
        is_loopback = "%" not in host and address.is_loopback
    except ValueError:
        raise WrongError(f"{shown(host)} is no IP address", f"write 127.0.0.1:{port}") from None
    if not is_loopback:
        raise WrongError(
            f"{shown(host)} can be reached from other hosts, and what is said there is not encrypted",
            f"write 127.0.0.1:{port}, and use a tunnel (ssh -L) or a proxy with TLS from elsewhere",
        )
    return str(address), port  # as browsers write it, who say it in `Host`


def shown_address(host: str) -> str:
    """A host as it stands in front of a port."""
    return f"[{host}]" if ":" in host else host


def username(value: object) -> str:
    r"""`user`, `DOMAIN\user` or `user@REALM`."""
    typed = text(value)
    domain, slash, user = typed.rpartition("\\")
    if slash and (not domain or not user or "\\" in domain):
        raise WrongError(f"{shown(typed)} is no user name", r"write user, DOMAIN\user or user@REALM")
    return typed


def command(value: object) -> tuple[str, ...]:
    """A program and its arguments, as a list or split as a shell would."""
    if isinstance(value, str):
        try:
            parts = shlex.split(text(value))
        except ValueError as error:
            raise WrongError(
                f"the command can't be split into words ({str(error).lower()})", "close the quotes, or write a list"
            ) from None
    elif isinstance(value, list):
        parts = [text(part) for part in value]
    else:
        raise WrongError(f"this is {kind(value)}, not a command", 'write it as a list: ["pass", "show", "nas1"]')
    if not parts:
        raise WrongError("the command is empty", 'write a program and its arguments: ["pass", "show", "nas1"]')
    return tuple(parts)


def hook(value: object) -> Hook:
    """A command as a list, or a URL. What was typed is never shown: it may hold a secret."""
    if isinstance(value, list):
        if not value:
            raise WrongError("the command is empty", _AS_HOOK)
        return HookCommand(tuple(text(part) for part in value))
    if not isinstance(value, str):
        raise WrongError(f"this is {kind(value)}, neither a command nor a URL", _AS_HOOK)
    typed = text(value)
    if not re.match(r"https?://", typed, re.IGNORECASE):
        raise WrongError("this text is no http or https URL", _AS_HOOK)
    return HookUrl(_checked_url(typed))


def _checked_url(typed: str) -> str:
    if re.search(r"\s", typed):
        raise WrongError("the URL holds a space", "write %20 for it")
    if "#" in typed:
        raise WrongError("the URL holds a '#'", "what follows it is never sent: leave it out, or write %23")
    try:
        parts = urlsplit(typed)
        host, port, user = parts.hostname, parts.port, parts.username
    except ValueError:
        raise WrongError("the URL's host or port can't be read", "write https://host:port/path") from None
    if not host or port == 0:
        raise WrongError("the URL's host or port can't be read", "write https://host:port/path")
    if user is not None and parts.scheme == "http":
        raise WrongError(
            "the user and password in the URL would travel readable to all", "write https, or leave them out"
        )
    return typed


def glob(value: object) -> str:
    """A pattern for file names relative to the source."""
    pattern = text(value)
    if "\\" in pattern:
        raise WrongError(f"{shown(pattern)} holds a backslash", "write '/' between directories")
    if pattern.startswith("/") or re.match(r"[A-Za-z]:", pattern):
        raise WrongError(f"{shown(pattern)} is absolute", "write it relative to the source")
    if ".." in pattern.split("/"):
        raise WrongError(f"{shown(pattern)} leaves the source", "write it without '..'")
    if "**" in pattern:
        raise WrongError(
            f"{shown(pattern)} holds '**'", "a pattern without '/' is looked for at every depth: write *.vhdx"
        )
    if not re.match(GLOB_PATTERN, pattern):
        raise WrongError(f"{shown(pattern)} can match no file", "write a name or a pattern such as *.vhdx")
    return pattern


def some(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """At least one."""
    if not patterns:
        raise WrongError("the list is empty", "name at least one, or leave the key out for the default")
    return patterns


def interval(value: object) -> int | None:
    """Seconds, 1 or more; None for `manual`."""
    return None if value == "manual" else parse_duration(value)


def method(value: object) -> str:
    """A consistency method that this version has."""
    name = choice(value, METHODS)
    if name not in METHODS_BUILT:
        raise WrongError(f"the method {shown(name)} is not built yet", f"write {_either(METHODS_BUILT)}")
    return name


def room(value: object) -> Room:
    """A size, or a percentage of a file system's."""
    if isinstance(value, str) and value.rstrip().endswith("%"):
        return Room(part=parse_percent(value))
    try:
        return Room(size_bytes=parse_size(value))
    except WrongError as error:
        raise WrongError(error.what, "write a size such as 20G, or a part of the file system such as 5%") from None


def chunk_size(value: object) -> int | None:
    """Bytes, a power of two within the format's bounds; None for `auto`."""
    if value == "auto":
        return None
    size = parse_size(value)
    if not MIN_CHUNK_BYTES <= size <= MAX_CHUNK_BYTES or size & (size - 1):
        bounds = f"{format_size(MIN_CHUNK_BYTES)} to {format_size(MAX_CHUNK_BYTES)}"
        raise WrongError(f"{shown(value)} is no chunk size", f"write a power of two from {bounds}, or auto")
    return size


def watching(value: object) -> Watching | None:
    """`true`, `false`, or durations."""
    if isinstance(value, bool):
        return Watching() if value else None
    if not isinstance(value, dict):
        raise WrongError(f"this is {kind(value)}, neither true nor durations", _AS_WATCH)
    for name in value:
        if name not in ("quiet", "at_most_every"):
            raise WrongError(f"unknown key {shown(name)}", _AS_WATCH)
    quiet_s = parse_duration(value.get("quiet", f"{DEFAULT_QUIET_S}s"))
    every_s = parse_duration(value.get("at_most_every", f"{max(DEFAULT_AT_MOST_EVERY_S, quiet_s)}s"))
    if every_s < quiet_s:
        raise WrongError("'at_most_every' is less than 'quiet'", _AS_WATCH)
    return Watching(quiet_s, every_s)


def _either(words: tuple[str, ...]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
