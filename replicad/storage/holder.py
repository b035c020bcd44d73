"""Who holds a lock: what stands in a lock file, and what can be concluded from it. Pure.

The text is one JSON object with the fields of `LockHolder`. It is written by whoever holds the lock and read by
everybody else, so reading it bounds and checks everything and concludes nothing from what it does not understand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from replicad.model.names import printable

from .port import LockHolder

MAX_HOLDER_BYTES = 16 * 1024
"""The most that is read of a lock file."""
PID_NAMESPACE = "pid_namespace"
"""The key in `extra` under which Linux processes say whose process numbers theirs is one of."""
WEAK_MACHINE_PREFIX = "mac-"
"""A machine id that starts so is only a network card's address, which containers on two hosts may share."""

_MAX_TEXT = 255
_MAX_EXTRA = 16
_MAX_INTEGER = (1 << 64) - 1
_TEXTS = ("host", "machine_id", "boot_id", "process_start", "since")
_INTEGERS = ("pid", "session_id")


def encode(holder: LockHolder) -> bytes:
    """The content of the lock file."""
    return (json.dumps(asdict(holder), ensure_ascii=False, sort_keys=True) + "\n").encode()


def decode(content: bytes) -> LockHolder | None:
    """What `encode` wrote; None for anything else, however it is broken. Unknown fields are ignored."""
    if len(content) > MAX_HOLDER_BYTES:
        return None
    try:
        fields = json.loads(content.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    texts: dict[str, Any] = {name: fields.get(name) for name in _TEXTS}
    integers: dict[str, Any] = {name: fields.get(name, 0) for name in _INTEGERS}
    extra = fields.get("extra", {})
    if not (
        all(map(_is_text, texts.values()))
        and all(type(value) is int and 0 <= value <= _MAX_INTEGER for value in integers.values())
        and isinstance(extra, dict)
        and len(extra) <= _MAX_EXTRA
        and all(_is_text(key) and _is_text(value) for key, value in extra.items())
    ):
        return None
    return LockHolder(**texts, **integers, extra=extra)


def _is_text(value: object) -> bool:
    # Lone surrogates can be written in JSON but in no file or log.
    return isinstance(value, str) and len(value) <= _MAX_TEXT and not any("\ud800" <= c <= "\udfff" for c in value)


def is_dead(holder: LockHolder, me: LockHolder, process_start_of: Callable[[int], str | None]) -> bool:
    """Whether the process that wrote `holder` has certainly ended, as seen from `me`.

    Only a process of this very host can be known to be dead: the machine id and the host name are the same, and
    either the host was started anew since, or that process number is free or belongs to a younger process.
    `process_start_of` gives the start of the process with that number, None if there is none. Wherever something is
    unknown, or the process number belongs to another container, the answer is False.
    """
    if not holder.machine_id or (holder.machine_id, holder.host) != (me.machine_id, me.host):
        return False
    if holder.boot_id != me.boot_id:
        known = bool(holder.boot_id and me.boot_id)
        return known and not holder.machine_id.startswith(WEAK_MACHINE_PREFIX)
    if holder.extra.get(PID_NAMESPACE) != me.extra.get(PID_NAMESPACE) or holder.pid == 0:
        return False
    start = process_start_of(holder.pid)
    return start is None or bool(start and holder.process_start and start != holder.process_start)


def describe(holder: LockHolder) -> str:
    """`host nas-a, process 123, since 2026-01-31T12:00:00Z`, safe for a terminal."""
    parts = [f"host {printable(holder.host) or 'unknown'}", f"process {holder.pid}"]
    if holder.since:
        parts.append(f"since {printable(holder.since)}")
    return ", ".join(parts)
