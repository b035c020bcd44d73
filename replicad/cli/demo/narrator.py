"""Telling the story: in colours on a terminal, in plain lines anywhere else."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, TextIO

import click

from replicad.model.names import printable

if TYPE_CHECKING:
    from rich.console import Console

_INDENT = 3


class Narrator:
    """Writes to `stream`. Characters that it has no code for are shown as escapes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._step = 0
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        self._console: Console | None = None
        if stream.isatty() and os.environ.get("TERM", "") != "dumb":
            from rich.console import Console

            self._console = Console(file=stream, highlight=False)

    def title(self, name: str, text: str) -> None:
        """What this is."""
        if self._console is None:
            self._line(f"{name}: {text}")
            return
        from rich.panel import Panel
        from rich.text import Text

        self._console.print(Panel(Text.assemble((name, "bold cyan"), f"\n{text}"), expand=False, border_style="cyan"))

    def step(self, text: str) -> None:
        """The next chapter, numbered."""
        self._step += 1
        if self._console is None:
            self._line("")
            self._line(f"{self._step}. {text}")
            return
        from rich.rule import Rule
        from rich.text import Text

        self._console.print()
        self._console.print(Rule(Text(f"{self._step}. {text}", "bold cyan"), align="left", style="cyan"))

    def say(self, text: str) -> None:
        """A sentence of the story."""
        self._line(text, _INDENT)

    def command(self, text: str) -> None:
        """What a user types."""
        self._line(f"$ {text}", _INDENT, "bold yellow")

    def output(self, text: str, style: str = "") -> None:
        """What a command printed."""
        for line in text.splitlines():
            self._line(line, _INDENT, style)

    def aside(self, text: str) -> None:
        """Figures, and what matters less."""
        self._line(text, _INDENT, "dim")

    def good(self, text: str) -> None:
        """Something that was checked and held."""
        self._line(f"✓ {text}", _INDENT, "green")

    def notice(self, text: str) -> None:
        """Something that is not as it should be, and what is done instead."""
        self._line(f"! {text}", _INDENT, "yellow")

    def closing(self, text: str) -> None:
        """The last word."""
        self._line("")
        self._line(text, 0, "bold green")

    def _line(self, text: str, indent: int = 0, style: str = "") -> None:
        text = printable(text)
        if self._console is None:
            click.echo(f"{' ' * indent}{text}" if text else "", file=self._stream)
            self._stream.flush()
            return
        from rich.padding import Padding
        from rich.text import Text

        self._console.print(Padding(Text(text, style), (0, 0, 0, indent), expand=False))
