"""With which options a QEMU has opened a disk, so that another file can be opened with the same.

QEMU tells of caching and of the writing of zeroes. The rest is read from what it was started with; and of the nodes
that replicad made, from their names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from .process import Inode

OURS = "replicad-m"
"""How the names of all nodes begin that replicad makes of moved disks."""
_AIO = {"t": "threads", "n": "native", "u": "io_uring"}
_LOCKING = {"a": "auto", "o": "on", "f": "off"}
_DISCARD = {"i": "ignore", "u": "unmap"}
_SYNONYMS = {"discard": {"on": "unmap", "off": "ignore"}}
_ONE_FILE = re.compile(r"-?-(hd[a-d]|sd|mtdblock|pflash)")
_OUR_FILE = re.compile(r"replicad-m[0-9a-f]{8}-\d{1,3}f-([tnu])([aof])([iu])")
_OUR_FORMAT = re.compile(r"replicad-m[0-9a-f]{8}-\d{1,3}v-([iu])")


@dataclass(frozen=True, slots=True)
class Options:
    """Those of one node that QEMU does not tell, by their names."""

    file: Mapping[str, str] = field(default_factory=dict)
    format: Mapping[str, str] = field(default_factory=dict)
    known: bool = True
    """Whether they were seen; else they are left out, which means QEMU's defaults."""


def our_names(beginning: str, number: int, options: Options) -> tuple[str, str, str]:
    """The names of the nodes that replicad makes of a disk: of its file, its format, and of what keeps the old one.
    They tell the options that they are opened with, and have 31 characters at most."""
    told = _letter(_AIO, options.file.get("aio")) + _letter(_LOCKING, options.file.get("locking"))
    told += _letter(_DISCARD, options.file.get("discard"))
    above = _letter(_DISCARD, options.format.get("discard"))
    return f"{beginning}{number}f-{told}", f"{beginning}{number}v-{above}", f"{beginning}{number}k"


def options_of(
    file_node: str, format_node: str, inode: Inode, arguments: Sequence[str], look_up: Callable[[str], Inode | None]
) -> Options:
    """The options of a disk's two nodes, by the arguments that QEMU was started with; `look_up` tells which file a name
    means to it."""
    if (ours := _OUR_FILE.fullmatch(file_node)) and (above := _OUR_FORMAT.fullmatch(format_node)):
        aio, locking, discard = ours.groups()
        file = {"aio": _AIO[aio], "locking": _LOCKING[locking], "discard": _DISCARD[discard]}
        return Options(file, {"discard": _DISCARD[above[1]]})
    levels = [level for given in _given(arguments) for level in _levels(given)]
    for below, level in levels:
        name = str(level.get("filename", ""))
        if level.get("node-name") == file_node or (name and look_up(name) == inode):
            named = (it for _, it in levels if it.get("node-name") == format_node)
            above_it = next(named, None) or below or {}
            return Options(_chosen(level, "aio", "locking", "discard"), _chosen(above_it, "discard"))
    return Options(known=False)


def _letter(letters: Mapping[str, str], value: str | None) -> str:
    return next((letter for letter, meaning in letters.items() if meaning == value), next(iter(letters)))


def _chosen(level: Mapping[str, Any], *names: str) -> dict[str, str]:
    return {name: _SYNONYMS.get(name, {}).get(str(level[name]), str(level[name])) for name in names if name in level}


def _given(arguments: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What each disk was given by, with its parts by names with dots."""
    for option, value in pairwise(arguments):
        if option in ("-blockdev", "--blockdev"):
            yield _flat(_json(value)) if value.startswith("{") else _split(value)
        elif option in ("-drive", "--drive"):
            given = _split(value)
            # What is said of a drive holds for both of its nodes.
            below = {f"file.{name}": given[name] for name in ("aio", "locking", "discard") if name in given}
            if "file" in given:
                below["file.filename"] = given.pop("file").removeprefix("file:")
            yield below | given
        elif _ONE_FILE.fullmatch(option):
            yield {"file.filename": value}


def _levels(given: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any] | None, dict[str, Any]]]:
    """The nodes that it makes, each with the one right above it."""
    above: dict[str, Any] | None = None
    prefix = ""
    while level := {name[len(prefix) :]: value for name, value in given.items() if name.startswith(prefix)}:
        own = {name: value for name, value in level.items() if "." not in name}
        yield above, own
        above, prefix = own, f"{prefix}file."


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _flat(value: object, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {}
    found: dict[str, Any] = {}
    for name, below in value.items():
        if isinstance(below, dict):
            found |= _flat(below, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = below
    return found


def _split(value: str) -> dict[str, str]:
    """`key=value,…`, where two commas stand for one in a value."""
    parts = value.replace(",,", "\0").split(",")
    pairs = (part.replace("\0", ",").partition("=") for part in parts)
    return {name: text for name, _, text in pairs}
