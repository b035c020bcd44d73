"""The names of the virtual machines in a configuration, read from the file without loading all of it.

For completion in a shell: who types should not wait until a thousand machines have been checked, nor go without because
of a mistake in one of them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from .find import MAX_FILE_BYTES
from .state_dir import ODD, leaves_something_open

_KEY = re.compile(
    r"""(?:'(?P<single>(?:[^']|'')*)'|"(?P<double>[^"\\]*)"|(?P<plain>[^\s'"#&*!|>%@`?\[\]{},:-][^#:\t]*)) *:(?: |$)"""
)
_MOST_JOINED = 40
_GROUP = re.compile(r"virtual_machines: *(?:#.*)?")


def machine_names(path: Path) -> list[str]:
    """The names in the configuration file at `path`, in its order; none where it can't be read or is no YAML.

    Where the file is written as people do, or as JSON, nothing else in it is looked at.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, ValueError):
        return []
    if len(data) > MAX_FILE_BYTES:
        return []
    names = quick_names(text)
    return _read_names(text) if names is None else names


def quick_names(text: str) -> list[str] | None:
    """The names, where no line leaves a quoted text or a bracket open; None if only a reader of YAML can tell."""
    if text.startswith("{"):
        return _of_json(text)
    text = text.replace("\r\n", "\n")
    if ODD.search(text):
        return None
    lines = _whole_lines([line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")])
    if lines is None:
        return None
    starts = [n for n, line in enumerate(lines) if line.startswith(("virtual_machines", "'virtual", '"virtual'))]
    if len(starts) != 1 or not _GROUP.fullmatch(lines[starts[0]]):
        return None if starts or not lines or not re.match(r"[a-z_]+:(?: |$)", lines[0]) else []
    names: list[str] = []
    indentation = 0
    for line in lines[starts[0] + 1 :]:
        deep = len(line) - len(line.lstrip(" "))
        if deep == 0:
            break
        indentation = indentation or deep
        if deep > indentation:
            continue
        match = _KEY.match(line, deep)
        if deep < indentation or match is None:
            return None
        name = match["single"].replace("''", "'") if match["single"] is not None else match["double"] or match["plain"]
        names.append(name.rstrip() if match["plain"] else name)
    return names


def _whole_lines(lines: list[str]) -> list[str] | None:
    """With those joined over which a quoted text or a bracket goes on; None if one goes on for too long."""
    found: list[str] = []
    joined = 0
    for line in lines:
        if joined:
            found[-1] += " " + line.strip()
        else:
            found.append(line)
        joined = joined + 1 if leaves_something_open(found[-1]) else 0
        if joined > _MOST_JOINED:
            return None
    return None if joined else found


def _of_json(text: str) -> list[str] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return _names_in(value)


def _read_names(text: str) -> list[str]:
    from .document import DocumentError, read_document

    try:
        return _names_in(read_document(text).value)
    except DocumentError:
        return []


def _names_in(value: object) -> list[str]:
    machines = value.get("virtual_machines") if isinstance(value, dict) else None
    return [str(name) for name in machines] if isinstance(machines, dict) else []
