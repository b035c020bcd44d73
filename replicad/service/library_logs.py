"""What libraries log by way of `logging`, and Python's own warnings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Hear = Callable[[str, int, dict[str, Any]], None]
"""Takes a level by its name and its number, and an event."""


class _Handler(logging.Handler):
    """Takes records from WARNING up."""

    def __init__(self, hear: Hear) -> None:
        super().__init__(logging.WARNING)
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception as error:  # noqa: BLE001 - a library's slip in a message is no reason to fail
            text = f"{record.msg!s} (its arguments don't fit: {type(error).__name__})"
        event: dict[str, Any] = {"event": text, "logger": record.name}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        self._hear(record.levelname.lower(), record.levelno, event)


@contextmanager
def heard_from_libraries(hear: Hear) -> Iterator[None]:
    """Send what libraries log to `hear`, from WARNING up, and nothing to where it went before, until the end of the
    block. Who asks an HTTP server for what is left out."""
    root, access = logging.getLogger(), logging.getLogger("uvicorn.access")
    handlers, level, is_off = list(root.handlers), root.level, access.disabled
    handler = _Handler(hear)
    for one in handlers:
        root.removeHandler(one)
    root.addHandler(handler)
    root.setLevel(handler.level)
    access.disabled = True
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        access.disabled = is_off
        root.removeHandler(handler)
        for one in handlers:
            root.addHandler(one)
        root.setLevel(level)
