"""What is wrong in a configuration file, and what would be right."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

from replicad.model.errors import ConfigError, ReplicadError
from replicad.model.names import printable

Key = tuple[str | int, ...]
"""Where a value is: the keys, and the places in lists, that lead to it."""


class WrongError(ValueError):
    """One value is not what it must be: `what` is a clause about it, `hint` tells what would be right."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what}; {hint}" if hint else what)
        self.what = what
        self.hint = hint

    @classmethod
    def from_error(cls, error: ReplicadError) -> WrongError:
        """The same complaint by an error of the model, in the form that a line of a file takes."""
        return cls(error.answer, _clause(error.hint))


class Finding(NamedTuple):
    """A rule that is broken: at which key, and how."""

    key: Key
    what: str
    hint: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend. `line` counts from 1 (0: the file as a whole); `key` is empty for the text itself."""

    file: str
    line: int
    key: str
    what: str
    hint: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return place + (f"{self.key}: " if self.key else "") + self.what + (f"; {self.hint}" if self.hint else "")


class SettingsError(ConfigError):
    """A configuration file can't be used. `problems` has at least one member, in the order of their lines."""

    def __init__(self, file: str, problems: tuple[Problem, ...]) -> None:
        count = len(problems)
        super().__init__("use", file, f"{count} {'thing is' if count == 1 else 'things are'} wrong in it")
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def shown(value: object) -> str:
    """A value as an error shows it: on one line, short, harmless to a terminal."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, dict)):
        return kind(value)
    if isinstance(value, str):
        text = printable(value)
        return f"'{text}'" if len(text) <= 80 else f"'{text[:77]}…'"
    return printable(str(value))[:80]


def kind(value: object) -> str:
    """What sort of YAML value it is, to follow "this is"."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "a group of keys"


def key_text(key: Key) -> str:
    """`('servers', 'nas 1', 'disks', 0)` as `servers."nas 1".disks[0]`."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = re.fullmatch(r"[\w-]+", part) is not None
            shown_part = printable(part if len(part) <= 80 else part[:77] + "…")
            text += ("." if text else "") + (shown_part if plain else f'"{shown_part}"')
    return text


def nearest(word: str, known: list[str]) -> str:
    """The known word that was probably meant, or ''."""
    close = get_close_matches(word.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    return close[0] if close else ""


def _clause(hint: str) -> str:
    """A sentence as the second half of one."""
    hint = hint.rstrip(".")
    return hint[0].lower() + hint[1:] if hint[1:2].islower() else hint
