"""How things are said on the page. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from replicad.model.durations import duration_in_words

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def bytes_in_words(count: float) -> str:
    """`512 B`, `1.5 KiB`, `640 GiB`: three digits say enough."""
    value, power = float(count), 0
    while value >= 999.5 and power < len(_UNITS) - 1:
        value, power = value / 1024, power + 1
    number = f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
    return f"{number.removesuffix('.0')} {_UNITS[power]}"


def moment_in_utc(moment: datetime) -> str:
    """`2026-11-23 14:00:02 UTC`."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def took(seconds: float | None) -> str:
    """How long something took; tenths of a second below ten."""
    if seconds is None:
        return "–"
    return f"{seconds:.1f} s" if seconds < 9.95 else duration_in_words(seconds)


def of_time(percent: float) -> str:
    """`99.1 %`; what is not all of it is never said to be so."""
    return "100 %" if percent >= 100 else f"{min(percent, 99.9):.1f} %"


def counted(count: int, one: str, more: str) -> str:
    """`1 point`, `3 points`."""
    return f"{count:,} {one if count == 1 else more}"
