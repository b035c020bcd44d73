"""Facts for people and for programs, on stdout."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import click

from replicad.model.errors import PermanentError
from replicad.model.names import printable


def print_line(text: str) -> None:
    """Text and a newline on stdout; nothing in it can steer the terminal. PermanentError if it can't be written;
    BrokenPipeError if nobody reads it."""
    _deliver(printable(text))


def print_json(value: Any) -> None:
    """One JSON document on stdout, in which whatever could steer a terminal, or is no Unicode, is escaped."""
    _deliver("\n".join(map(_escaped, json.dumps(value, indent=2, ensure_ascii=False).split("\n"))))


def _escaped(line: str) -> str:
    if printable(line) == line:
        return line
    return "".join(c if printable(c) == c else json.dumps(c)[1:-1] for c in line)


def _deliver(text: str) -> None:
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise PermanentError("write", "the output", error.strerror or type(error).__name__) from error


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Columns that line up, also with wide characters; those in `right` are aligned to the right."""
    lines = [[printable(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(width(line[n]) for line in lines) for n in range(len(headers))]
    for line in lines:
        cells = []
        for n, cell in enumerate(line):
            padding = " " * (widths[n] - width(cell))
            cells.append(padding + cell if n in right else cell + padding)
        print_line("  ".join(cells).rstrip())


def width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
