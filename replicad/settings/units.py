"""Sizes, rates and durations as people type them, read strictly. Pure.

Sizes and rates count in steps of 1024, as rclone does: `K` and `KiB` are 1024, then `M`, `G` and `T`. Whatever
could be meant in two ways (`10MB`, `5`, `1.5h`) is refused with the form that would be right.
"""

from __future__ import annotations

import re
from fractions import Fraction

from .problems import WrongError, shown

SIZE_PATTERN = r"^[1-9][0-9]{0,11}[KMGT](iB)?$"
SHORT_PATTERN = r"^[1-9][0-9]{0,8}(ms|s)$"
PERCENT_PATTERN = r"^([0-9]{1,2}(\.[0-9]{1,6})?|100(\.0{1,6})?)%$"
DURATION_PATTERN = r"^(?=[0-9])([0-9]{1,9}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$"

_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATION_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
MAX_DURATION_S = 3_660 * 86_400

_LOOSE_SIZE = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([kmgt]?)(?:i?b)?(?:/s|ps)?\s*", re.IGNORECASE)
_LOOSE_DURATION = re.compile(
    r"\s*([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*(d|h|m|s|days?|hours?|hrs?|hr|minutes?|mins?|seconds?|secs?)\s*", re.IGNORECASE
)


def parse_size(value: object) -> int:
    """A number of bytes from `64KiB`, `1M`, `2GiB`. Raises WrongError."""
    if isinstance(value, str) and re.fullmatch(SIZE_PATTERN, value):
        digits, unit = re.split(r"(?=[KMGT])", value)
        return int(digits) * _SIZE_UNITS[unit[0]]
    raise _no_size(value, "size", "64KiB or 1M (1M is 1MiB: 1024 × 1024 bytes)")


def parse_rate(value: object) -> int | None:
    """Bytes per second from `100M`; None from `off`: without limit. Raises WrongError."""
    if value == "off":
        return None
    if isinstance(value, str) and re.fullmatch(SIZE_PATTERN, value):
        return parse_size(value)
    if value == "0" or (value == 0 and not isinstance(value, bool)):
        raise WrongError("0 would let nothing through", "write off for no limit, or a rate such as 100M")
    raise _no_size(value, "rate", "100M (bytes per second; 1M is 1024 × 1024) or off")


def parse_duration(value: object, *, min_s: int = 1, max_s: int = MAX_DURATION_S) -> int:
    """Seconds from `30s`, `5m`, `1h30m` or `7d`, from `min_s` to `max_s` (ten years). Raises WrongError."""
    if isinstance(value, str) and re.fullmatch(DURATION_PATTERN, value):
        seconds = sum(int(n) * _DURATION_UNITS[unit] for n, unit in re.findall(r"([0-9]+)([dhms])", value))
        if seconds < min_s:
            raise WrongError(f"{shown(value)} is too short", f"{format_duration(min_s)} is the least")
        if seconds > max_s:
            raise WrongError(f"{shown(value)} is too long", f"{format_duration(max_s)} is the most")
        return seconds
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_DURATION_S:
        raise WrongError(f"{value} has no unit", f"write {value}m for minutes or {value}s for seconds")
    hint = "write a duration such as 30s, 5m, 1h30m or 7d"
    if isinstance(value, str):
        if re.fullmatch(r"[0-9]{1,9}", value):
            raise WrongError(f"{shown(value)} has no unit", f"write {value}m for minutes or {value}s for seconds")
        if match := _LOOSE_DURATION.fullmatch(value):
            unit = match[2][0].lower()
            exact = Fraction(match[1]) * _DURATION_UNITS[unit]
            if "." not in match[1]:
                hint = f"write {match[1]}{unit}"
            elif exact >= 1 and exact.denominator == 1:
                hint = f"write {format_duration(int(exact))}"
    raise WrongError(f"{shown(value)} is no duration", hint)


def parse_short(value: object, *, max_ms: int) -> int:
    """Milliseconds, 1 or more, from `200ms` or `2s`. Raises WrongError."""
    if isinstance(value, str) and re.fullmatch(SHORT_PATTERN, value):
        milliseconds = int(value.rstrip("ms")) * (1 if value.endswith("ms") else 1_000)
        if milliseconds > max_ms:
            raise WrongError(f"{shown(value)} is too long", f"{max_ms // 1_000}s is the most")
        return milliseconds
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        raise WrongError(f"{value} has no unit", f"write {value}ms for milliseconds or {value}s for seconds")
    raise WrongError(f"{shown(value)} is no duration", "write a duration such as 200ms or 2s")


def parse_percent(value: object) -> float:
    """A part, 0 to 1, from `0.1%`. Raises WrongError."""
    if isinstance(value, str) and re.fullmatch(PERCENT_PATTERN, value):
        return float(value[:-1]) / 100
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100:
        raise WrongError(f"{value} has no unit", f"write {value}%")
    raise WrongError(f"{shown(value)} is no percentage", "write one such as 0.1%, from 0% to 100%")


def format_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` reads as `size_bytes`, which must be a multiple of 1024."""
    for unit in ("T", "G", "M", "K"):
        if size_bytes and size_bytes % _SIZE_UNITS[unit] == 0:
            return f"{size_bytes // _SIZE_UNITS[unit]}{unit}iB"
    raise ValueError(f"{size_bytes} bytes are no whole number of KiB")


def format_duration(seconds: int) -> str:
    """The text that `parse_duration` reads as `seconds`, with the largest units first: `1h30m`."""
    if seconds == 0:
        return "0s"
    text = ""
    for unit, length_s in _DURATION_UNITS.items():
        count, seconds = divmod(seconds, length_s)
        text += f"{count}{unit}" if count else ""
    return text


def _no_size(value: object, what: str, right: str) -> WrongError:
    """Says what is wrong with a size or a rate, and the right form of what was probably meant."""
    text = str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    match = _LOOSE_SIZE.fullmatch(text) if text else None
    if match is None:
        return WrongError(f"{shown(value)} is no {what}", f"write {right}")
    number, unit = Fraction(match[1]), match[2].upper()
    wrong = f"{shown(value)} is no {what}" if unit else f"{shown(value)} has no unit"
    if unit and number and number.denominator == 1:
        return WrongError(wrong, f"write {number}{unit}" + ("iB" if what == "size" else ""))
    exact = number * _SIZE_UNITS[unit]
    if exact and exact.denominator == 1 and exact % 1024 == 0:
        right = format_size(int(exact))
    return WrongError(wrong, f"write {right}")
