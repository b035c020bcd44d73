"""Names and relative paths that are safe on every share, whoever made them up. Pure.

A *relative path* is written with '/' between its parts on every platform; '' is the root itself.
"""

from __future__ import annotations

import unicodedata
from fnmatch import translate
from functools import lru_cache
from re import IGNORECASE, Pattern
from re import compile as compile_pattern

from .errors import InvalidNameError

MAX_NAME_BYTES = 255
_RESERVED = frozenset(
    ["con", "conin$", "conout$", "prn", "aux", "nul"]
    + [f"{device}{n}" for device in ("com", "lpt") for n in "123456789¹²³"]
)
_FORBIDDEN = frozenset('\\/:*?"<>|')


def check_name(name: str, what: str = "name") -> str:
    """`name` itself, if it can be one part of a path on Windows, Samba and Linux alike.

    Raises InvalidNameError that says which rule it breaks: empty, '.' or '..', a separator or another
    character that Windows refuses, a control character, a device name, a dot or space at its end, or more
    than 255 bytes of UTF-8.
    """

    def refuse(reason: str) -> InvalidNameError:
        return InvalidNameError("use", f"{what} '{printable(name)}'", reason, "Choose another name.")

    if name in ("", ".", ".."):
        raise refuse("it does not name anything inside its directory")
    for character in name:
        if character in _FORBIDDEN:
            raise refuse(f"it holds '{character}', which SMB shares do not allow in a name")
        if unicodedata.category(character) == "Cs":
            raise refuse("it is not valid UTF-8")
        if unicodedata.category(character) == "Cc":
            raise refuse(f"it holds the control character U+{ord(character):04X}")
    if name[-1] in ". ":
        raise refuse("it ends in a dot or a space, which Windows drops")
    if name.split(".")[0].rstrip().casefold() in _RESERVED:
        raise refuse("it is the name of a device on Windows")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise refuse(f"it is {len(name.encode())} bytes long in UTF-8, and {MAX_NAME_BYTES} is the most")
    return name


def check_path(path: str, what: str = "path") -> str:
    """`path` itself, if every part of it passes `check_name`; '' (the root) does. Raises InvalidNameError."""
    for part in path.split("/") if path else ():
        check_name(part, what)
    return path


def join(*parts: str) -> str:
    """The parts with '/' between them, empty ones left out."""
    return "/".join(part for part in parts if part)


def path_on(share_name: str, path: str) -> str:
    r"""How people write a path of a share, given the share's name: `\\server\share\a\b`, `/srv/vms/a/b`."""
    separator = "\\" if share_name.startswith("\\") else "/"
    if not path:
        return share_name
    return share_name.rstrip(separator) + "".join(separator + part for part in path.split("/") if part)


def is_vhdx_name(path: str) -> bool:
    """Whether a file of this name should be a VHDX."""
    return path.casefold().endswith((".vhdx", ".avhdx"))


def parent(path: str) -> str:
    """The path without its last part; '' for a path of one part."""
    return path.rpartition("/")[0]


def last_part(path: str) -> str:
    """The last part of a path."""
    return path.rpartition("/")[2]


def folded(path: str) -> str:
    """What two names have in common when a case-insensitive share takes them for one."""
    return unicodedata.normalize("NFC", path).casefold()


def printable(text: str) -> str:
    """`text` with everything that could confuse a terminal replaced."""
    return "".join(
        c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or c == "\u200d" else "\ufffd" for c in text
    )


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Pattern[str]:
    return compile_pattern(translate(pattern), IGNORECASE)


def matches(path: str, pattern: str) -> bool:
    """Whether a relative path matches a glob pattern, without regard to case, as SMB shares compare names.

    A pattern without '/' is matched against the last part at any depth; one with '/' part by part.
    """
    if "/" not in pattern:
        return _compiled(pattern).match(last_part(path)) is not None
    wanted, parts = pattern.split("/"), path.split("/")
    return len(wanted) == len(parts) and all(
        _compiled(w).match(p) is not None for w, p in zip(wanted, parts, strict=True)
    )


def is_literal(pattern: str) -> bool:
    """Whether a pattern names one file, without wildcards."""
    return not any(c in pattern for c in "*?[")
