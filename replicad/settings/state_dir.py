"""Where this host keeps what it remembers of a configuration, read from the file without loading all of it.

Who only wants to ask a daemon should neither wait until a thousand machines have been checked, nor fail because
somebody has just made a mistake in one of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from .find import MAX_FILE_BYTES, default_state_dir

ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029]")
"""What YAML refuses, or may take for the end of a line."""
_COMMENT = re.compile(r"(?:^|\s)#.*")
_QUOTED = re.compile(r"""(?<=[\s\[{,])(?:'[^']*'|"[^"\\]*")""")
_BRACKETS = re.compile(r"\[[^\[\]{}]*\]|\{[^\[\]{}]*\}")
_OPENING = re.compile(r"""['"\[\]{}]""")
_KEY = re.compile(r"[a-z_]+:(?: |$)")
_STATE_DIR = re.compile(r"""state_dir: +(?:(/[^\s#:'"]*)|'(/[^']*)'|"(/[^"\\]*)") *(?: #.*)?""")


def state_dir_of(path: Path, environ: Mapping[str, str]) -> Path:
    """The `state_dir` of the configuration file at `path`, or its default: what loading the file gives.

    Where the file is written as people do, or as JSON, nothing else in it is looked at. Else it is loaded, and what is
    wrong with it raised: SettingsError. ConfigError where there is no home for the default.
    """
    said = _said_in(path)
    if said is None:
        from .load import load

        return load(path, environ).state_dir
    return Path(said) if said else default_state_dir(environ)


def _said_in(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        return None if len(data) > MAX_FILE_BYTES else quick_state_dir(data.decode("utf-8-sig"))
    except (OSError, ValueError):
        return None  # loading it says what is the matter


def quick_state_dir(text: str) -> str | None:
    """What a configuration says of its state directory, '' if nothing; None if only a reader of YAML can tell.

    As long as no line leaves a quoted text or a bracket open, those without indentation are the keys of the whole file,
    and nothing else is.
    """
    if text.startswith("{"):
        return _of_json(text)
    text = text.replace("\r\n", "\n")
    if ODD.search(text):
        return None
    lines = [line for line in text.removeprefix("---\n").split("\n") if line.strip() and not line.startswith("#")]
    if lines and not _KEY.match(lines[0]):
        return None  # all of it may be indented
    for line, following in zip(lines, [*lines[1:], ""], strict=False):
        if line.startswith("state_dir:"):
            match = _STATE_DIR.fullmatch(line)
            # A value may go on in lines that are indented.
            return match[1] or match[2] or match[3] if match and following[:1] not in (" ", "\t") else None
        if leaves_something_open(line) or not (line[0] == " " or _KEY.match(line)):
            return None
    return ""


def leaves_something_open(line: str) -> bool:
    """Whether a line of YAML may leave a quoted text or a bracket open; one that is written in an odd way is taken for
    one that does."""
    if not _OPENING.search(line):
        return False
    rest = _QUOTED.sub("", _COMMENT.sub("", line))
    while (shorter := _BRACKETS.sub("", rest)) != rest:
        rest = shorter
    return _OPENING.search(rest) is not None


def _of_json(text: str) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or "<<" in value:
        return None
    said = value.get("state_dir", "")
    return said if isinstance(said, str) and (not said or said.startswith("/")) else None
