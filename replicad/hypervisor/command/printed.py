"""What a command of the user's prints: line by line for the log, and as much of stdout as makes sense."""

from __future__ import annotations

from collections.abc import Callable

from replicad.model.names import printable

MAX_KEPT_BYTES = 1024 * 1024
MAX_LOGGED_LINES = 200
MAX_LINE_CHARS = 1_000


class Printed:
    """Hears the pieces that a program prints. `say` gets the lines of both outputs, printable and cut where they are
    too long; after 200 of them only how many more there were."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._kept = bytearray()
        self._pending = {1: bytearray(), 2: bytearray()}
        self._lines = 0
        self.last = ""
        """The last line that is not empty, of both outputs."""
        self.last_on_stdout = ""

    @property
    def is_too_long(self) -> bool:
        """Whether stdout is longer than what is kept of it."""
        return len(self._kept) > MAX_KEPT_BYTES

    def hear(self, fd: int, data: bytes) -> None:
        """A piece of stdout (1) or stderr (2)."""
        if fd == 1:
            self._kept += data[: MAX_KEPT_BYTES + 1 - len(self._kept)]
        pending = self._pending[fd]
        if self._lines >= MAX_LOGGED_LINES:
            # A program that never stops must not take all our time: only how it ends is looked at.
            data = self._skip(fd, data)
        *whole, rest = data.split(b"\n")
        for line in whole:
            pending += line[: _room(pending)]
            self._line(fd, pending)
            pending.clear()
        pending += rest[: _room(pending)]

    def _skip(self, fd: int, data: bytes) -> bytes:
        """What is left of a piece without its lines, but the last one that is not empty."""
        end = data.rfind(b"\n")
        last = data[:end].rstrip().rfind(b"\n") if end >= 0 else -1
        if last < 0:
            return data
        self._lines += data.count(b"\n", 0, last + 1)
        self._pending[fd].clear()
        return data[last + 1 :]

    def end(self) -> None:
        """There is no more."""
        for fd, pending in self._pending.items():
            if pending:
                self._line(fd, pending)
                pending.clear()
        if self._lines > MAX_LOGGED_LINES:
            self._say(f"({self._lines - MAX_LOGGED_LINES} more lines are left out)")

    def stdout_lines(self) -> list[bytes]:
        """The lines of stdout that are not empty, without the blanks at their ends."""
        return [line.strip() for line in bytes(self._kept).split(b"\n") if line.strip()]

    def _line(self, fd: int, data: bytearray) -> None:
        text = printable(data.decode("utf-8", "replace")).strip("\ufffd \t")
        if not text:
            return
        text = text if len(text) <= MAX_LINE_CHARS else text[:MAX_LINE_CHARS] + "…"
        self.last = text
        if fd == 1:
            self.last_on_stdout = text
        self._lines += 1
        if self._lines <= MAX_LOGGED_LINES:
            self._say(text)


def _room(pending: bytearray) -> int:
    return 4 * MAX_LINE_CHARS + 4 - len(pending)
