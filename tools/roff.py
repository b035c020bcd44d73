"""Text in the form of man(7)."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

_WIDTH = 78
"""Source lines are no longer than this, as manual pages want it."""


def escaped(text: str) -> str:
    """Text as it is, whatever is in it."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti")
    return "".join(c if ord(c) < 128 else f"\\[u{ord(c):04X}]" for c in text)


def bold(text: str) -> str:
    """The same in bold."""
    return f"\\fB{escaped(text)}\\fR"


def italic(text: str) -> str:
    """The same as a place holder."""
    return f"\\fI{escaped(text)}\\fR"


def running(text: str) -> str:
    """Text of one paragraph, in lines; what stands between ` is in bold."""
    parts = re.split(r"`([^`]+)`", " ".join(text.split()))
    joined = "".join(bold(part) if n % 2 else escaped(part) for n, part in enumerate(parts))
    lines = textwrap.wrap(joined, _WIDTH, break_long_words=False, break_on_hyphens=False)
    # A line that begins with one of these would be a request.
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in lines)


def paragraphs(text: str) -> list[str]:
    """Text in which empty lines part paragraphs."""
    found = [running(part) for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]
    return [line for n, part in enumerate(found) for line in ([".PP"] if n else []) + [part]]


def entry(tag: str, body: Iterable[str]) -> list[str]:
    """A tag, already in this form, and below it paragraphs, each one of text."""
    first, *others = [running(part) for part in body]
    return [".TP", tag, first, *(line for part in others for line in (".IP", part))]


def literal(text: str) -> list[str]:
    """Lines that stay as they are."""
    lines = [escaped(line) for line in text.rstrip("\n").splitlines()]
    kept = [f"\\&{line}" if line.startswith((".", "'", "\\(aq")) else line for line in lines]
    return [".RS 4", ".nf", *kept, ".fi", ".RE"]


def page(name: str, section: int, revised: str, source: str, manual: str, lines: Iterable[str]) -> str:
    """A whole page."""
    head = ['.\\" Made by `make reference`: change the program, not this file.']
    head += [f'.TH {escaped(name)} {section} {revised} "{escaped(source)}" "{escaped(manual)}"', ".nh", ".ad l"]
    return "\n".join([*head, *lines]) + "\n"
