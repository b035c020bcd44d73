"""Stretches of time as people read them. Pure."""

from __future__ import annotations

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
_WORDS = {"d": ("day", "days"), "h": ("h", "h"), "m": ("min", "min"), "s": ("s", "s")}


def human_duration(seconds: float) -> str:
    """For columns: `340 ms`, `2.4 s`, `5m 20s`, `1h 30m`, `3d 4h`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    return " ".join(f"{count}{unit}" for count, unit in _two_largest(round(seconds)))


def duration_in_words(seconds: float) -> str:
    """For sentences, in whole seconds: `0 s`, `45 s`, `17 min`, `5 min 20 s`, `1 h 30 min`, `1 day`, `3 days 4 h`."""
    parts = _two_largest(round(seconds)) or [(0, "s")]
    return " ".join(f"{count} {_WORDS[unit][count != 1]}" for count, unit in parts)


def _two_largest(seconds: int) -> list[tuple[int, str]]:
    """The count of the largest unit that fits, and of the next smaller one, each if it is not 0."""
    for (unit_s, unit), (smaller_s, smaller) in zip(_UNITS, (*_UNITS[1:], (1, "")), strict=True):
        if seconds >= unit_s:
            count, rest = divmod(seconds, unit_s)
            return [(n, name) for n, name in ((count, unit), (rest // smaller_s, smaller)) if n]
    return []
