"""Numbers of bytes as people read them. Pure."""

from __future__ import annotations


def human_bytes(count: int) -> str:
    """`512 B`, `1.5 KiB`, `640 GiB`: three digits say enough."""
    value, power = float(count), 0
    while value >= 999.5 and power < 5:
        value, power = value / 1024, power + 1
    number = f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
    return f"{number.removesuffix('.0')} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')[power]}"
