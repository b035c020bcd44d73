"""The log: one event a line on stderr, from our own code and from libraries.

An event is rendered where it comes from and written by a thread of its own, so that nobody waits for a slow reader:
what does not fit in a bounded queue is dropped and counted, and the count is told as soon as there is room again. Names
of disks and answers of servers come from others: a value never ends a line, nor reaches a terminal as a control
character.

Use `structlog.get_logger("room")` for a logger of ours; `logging` of libraries arrives here from WARNING up.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from enum import StrEnum
from math import isfinite
from pathlib import PurePath
from typing import TextIO

import structlog
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter
from structlog.typing import EventDict, WrappedLogger

from .library_logs import heard_from_libraries
from .passwords import Secret

MAX_WAITING = 2_000
MAX_VALUE_CHARS = 8_000
MAX_LINE_BYTES = 40_000
"""Below the 48 KiB at which the journal breaks a line in two."""
LEVELS = ("debug", "info", "warning", "error", "critical")

_FLUSH_TIMEOUT_S = 2.0
_MAX_DEPTH = 6
_SECRET_KEY = re.compile(r"(password|passwd|passphrase|token|secret|authorization)s?$", re.IGNORECASE)
_REDACTED = "***"
_PLAIN = re.compile(r"[\w./:@+%,~-]+")
_FIRST = ("timestamp", "level", "logger", "event")
# sd-daemon(3): journald takes this off the line, and `journalctl -p` knows the level.
_PRIORITIES = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}
_STYLES = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m"}

Render = Callable[[EventDict], str]


class LogFormat(StrEnum):
    """How events are written; `auto`: JSON for the journal, else text."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


@contextmanager
def logging_to(
    stream: TextIO | None = None,
    *,
    level: str = "info",
    log_format: LogFormat = LogFormat.AUTO,
    environ: Mapping[str, str] = os.environ,
    max_waiting: int = MAX_WAITING,
) -> Iterator[Log]:
    """Send all events to `stream` (stderr), which must have a descriptor, until the end of the block.

    Events below `level` are left out; level and format may be changed in between. At the end what waits is written, for
    at most two seconds, and the logging of the process is again as it was. One at a time.
    """
    before = structlog.get_config()
    log = Log(sys.stderr if stream is None else stream, environ, max_waiting)
    try:
        log.apply(level, log_format)
        with heard_from_libraries(log.hear):
            yield log
    finally:
        structlog.configure(**before)
        log.close()


class Log:
    """The log of this process, as `logging_to` gives it."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str], max_waiting: int) -> None:
        self._in_journal = is_journal(stream, environ)
        self._in_colour = stream.isatty() and not environ.get("NO_COLOR")
        self._render: Render = _quoted
        self._least = logging.NOTSET
        self._writer = LineWriter(stream.fileno(), lambda count: self._render(_processed(_dropped(count))), max_waiting)

    @property
    def dropped(self) -> int:
        """As of `LineWriter`."""
        return self._writer.dropped

    def apply(self, level: str, log_format: LogFormat) -> None:
        """From now on leave out events below `level`, and write in this form; loggers to which values are bound go on
        as they were made. ValueError if there is no such level."""
        if level not in LEVELS:
            raise ValueError(f"{level!r} is no level; there are {', '.join(LEVELS)}")
        self._least = logging.getLevelNamesMapping()[level.upper()]
        as_json = log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and self._in_journal)
        self._render = _renderer(as_json, self._in_colour and not as_json, self._in_journal)
        structlog.configure(
            processors=[*_CHAIN, lambda _, __, event: self._render(event)],
            wrapper_class=structlog.make_filtering_bound_logger(self._least),
            context_class=dict,
            logger_factory=lambda *names: _Logger(self._writer, *names),
            cache_logger_on_first_use=False,
        )

    def hear(self, level: str, number: int, event: EventDict) -> None:
        """Write what a library says, if its level (also as a number of `logging`) is high enough."""
        if number >= self._least:
            self._writer.put(self._render(_processed(event, level if level in LEVELS else "warning")))

    def close(self) -> None:
        """Write what waits, for at most two seconds."""
        self._writer.close(_FLUSH_TIMEOUT_S)


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether systemd has connected `stream` to the journal: `$JOURNAL_STREAM` holds its device and inode."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class LineWriter:
    """Writes lines to a descriptor on a thread of its own. Its methods may be called from any thread."""

    def __init__(self, fd: int, tell_dropped: Callable[[int], str], max_waiting: int = MAX_WAITING) -> None:
        self._fd = fd
        self._tell_dropped = tell_dropped
        self._max_waiting = max_waiting
        self._lines: deque[str] = deque()
        self._untold = 0
        self._dropped = 0
        self._closed = False
        self._changed = threading.Condition()
        # A daemon thread: a reader that never reads again must not keep the process.
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many lines were dropped in all: for want of room, or because nobody can read any more."""
        with self._changed:
            return self._dropped

    def put(self, line: str) -> None:
        """Have a line written. Never waits: without room, or after `close`, it is dropped and counted."""
        with self._changed:
            if self._closed or len(self._lines) >= self._max_waiting:
                self._untold += 1
                self._dropped += 1
                return
            self._tell_first()
            self._lines.append(line)
            self._changed.notify()

    def close(self, timeout_s: float) -> None:
        """Take no more lines, and wait until those that wait are written, at most `timeout_s`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)
        with self._changed:
            self._dropped += len(self._lines)
            self._lines.clear()

    def _tell_first(self) -> None:
        """Put the count of what was dropped where it belongs: behind what came before, in front of what comes now."""
        if self._untold:
            count, self._untold = self._untold, 0
            self._lines.append(self._tell_dropped(count))

    def _write_all(self) -> None:
        while True:
            with self._changed:
                if not self._lines:
                    self._tell_first()
                while not self._lines and not self._closed:
                    self._changed.wait()
                if not self._lines:
                    return
                line = self._lines.popleft()
            try:
                _write(self._fd, (line + "\n").encode("utf-8", "backslashreplace"))
            except OSError:
                # The reader is gone for good, and there is nobody left to tell: only the count can.
                with self._changed:
                    self._dropped += 1


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:  # somebody else has made the terminal or pipe non-blocking
            select.select([], [fd], [])


class _Logger:
    """What structlog hands rendered lines to, with the name that it was asked for."""

    def __init__(self, writer: LineWriter, name: str = "") -> None:
        self._writer = writer
        self.name = name

    def _put(self, line: str) -> None:
        self._writer.put(line)

    debug = info = warning = warn = error = critical = exception = fatal = msg = log = _put


# --- from events to lines ---------------------------------------------------------------------------------------------


def _named(logger: WrappedLogger, _: str, event: EventDict) -> EventDict:
    if name := getattr(logger, "name", ""):
        event.setdefault("logger", name)
    return event


def _traced(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The traceback as one value, as every other is."""
    if text := event.pop("exception", None):
        event["traceback"] = text
    return event


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Hide what is secret by its key or its type, at any depth. A second line of defence: nobody should log it."""
    return {key: _REDACTED if _is_secret_key(key) else _without_secrets(value, 0) for key, value in event.items()}


def _is_secret_key(key: object) -> bool:
    return (
        isinstance(key, str | bytes)
        and _SECRET_KEY.search(key if isinstance(key, str) else repr(key)[2:-1]) is not None
    )


def _without_secrets(value: object, depth: int) -> object:
    """`value` in the types of JSON: text, numbers, lists, and groups with text for keys."""
    if isinstance(value, Secret):
        return _REDACTED
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return value
    if isinstance(value, Mapping | list | tuple | set | frozenset) and depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {
                _cut(str(key)): _REDACTED if _is_secret_key(key) else _without_secrets(one, depth + 1)
                for key, one in value.items()
            }
        return [_without_secrets(one, depth + 1) for one in value]
    return _cut(_text_of(value))


def _text_of(value: object) -> str:
    if isinstance(value, str):
        return str(value)
    try:
        if isinstance(value, date):
            return value.isoformat()
        return str(value) if isinstance(value, PurePath | BaseException) else repr(value)
    except Exception as error:  # noqa: BLE001 - a value that can't be shown must not stop the work that it is told of
        return f"<{type(value).__name__} that can't be shown: {type(error).__name__}>"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}… ({len(text)} characters)"


def _in_order(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {key: event[key] for key in (*_FIRST, *event) if key in event}


_CHAIN: list[Callable[[WrappedLogger, str, EventDict], EventDict]] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    _named,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
    _traced,
    redact,
    _in_order,
]


def _processed(event: EventDict, method: str = "warning") -> EventDict:
    """As structlog itself does it, for events that do not come from one of its loggers."""
    for process in _CHAIN:
        event = process(None, method, event)
    return event


def _dropped(count: int) -> EventDict:
    return {"event": "lines of this log were dropped: its reader is too slow", "logger": "log", "dropped": count}


def _renderer(as_json: bool, coloured: bool, in_journal: bool) -> Render:
    console = _console(coloured)

    def text(event: EventDict) -> str:
        return str(console(None, "", {_shown_key(key): value for key, value in event.items()}))

    form: Render = _quoted if as_json else text

    def render(event: EventDict) -> str:
        level = str(event.get("level", "info"))
        line = form(dict(event))
        if len(line.encode("utf-8", "backslashreplace")) > MAX_LINE_BYTES:
            short = {key: event[key] for key in _FIRST if key in event}
            line = form(short | {"left_out": f"{len(event) - len(short)} values, too long together"})
        return (_PRIORITIES.get(level, "") if in_journal else "") + line

    return render


def _console(coloured: bool) -> ConsoleRenderer:
    reset, dim, bold = ("\x1b[0m", "\x1b[2m", "\x1b[1m") if coloured else ("", "", "")

    def plain(style: str, postfix: str = "") -> KeyValueColumnFormatter:
        return KeyValueColumnFormatter(None, style, reset, _safe, postfix=postfix)

    def level(key: str, value: object) -> str:
        return f"{_STYLES.get(str(value), '') if coloured else ''}{value!s:<8}{reset}"

    return ConsoleRenderer(
        columns=[
            Column("timestamp", plain(dim)),
            Column("level", level),
            Column("logger", plain("", ":")),
            Column("event", plain(bold)),
            Column("", KeyValueColumnFormatter(dim, "", reset, _shown_value)),
        ],
        sort_keys=False,
    )


def _shown_key(key: str) -> str:
    return key if _PLAIN.fullmatch(key) else _quoted(key)


def _shown_value(value: object) -> str:
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else _quoted(value)


def _safe(value: object) -> str:
    """Text on one line without quotes around it."""
    return "".join(c if c.isprintable() else _escaped(c) for c in str(value))


def _quoted(value: object) -> str:
    """JSON on one line, with everything escaped that is not to be seen."""
    text = json.dumps(value, ensure_ascii=False, default=_text_of)
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"
