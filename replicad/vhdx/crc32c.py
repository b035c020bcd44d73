"""CRC-32C (Castagnoli), the checksum of headers, region tables and log entries (MS-VHDX §2.2). Pure.

Slicing by four: four table look-ups take in four bytes. 1 MiB takes about 65 ms in CPython 3.11, which a log of
the usual size (1 MiB) can afford without a compiled dependency. The zeros at the end cost next to nothing, however many
they are: a region table is 64 KiB long and has a hundred bytes in it, and there are two in every disk, every cycle.
"""

from __future__ import annotations

from functools import cache
from struct import unpack

_POLYNOMIAL = 0x82F63B78  # reflected
_PIECE_BYTES = 64 * 1024  # bounds the tuple of integers that is unpacked at a time


def _tables() -> tuple[list[int], list[int], list[int], list[int]]:
    first: list[int] = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        first.append(value)
    second = [first[value & 0xFF] ^ (value >> 8) for value in first]
    third = [first[value & 0xFF] ^ (value >> 8) for value in second]
    fourth = [first[value & 0xFF] ^ (value >> 8) for value in third]
    return first, second, third, fourth


_T0, _T1, _T2, _T3 = _tables()


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """The CRC-32C of `data`; `crc` is that of what goes before it (0 if nothing does)."""
    t0, t1, t2, t3 = _T0, _T1, _T2, _T3
    content = bytes(data).rstrip(b"\0")
    view, zeros = memoryview(content), len(data) - len(content)
    whole = len(view) // 4 * 4
    crc ^= 0xFFFFFFFF
    for start in range(0, whole, _PIECE_BYTES):
        end = min(start + _PIECE_BYTES, whole)
        for word in unpack(f"<{(end - start) // 4}I", view[start:end]):
            crc ^= word
            crc = t3[crc & 0xFF] ^ t2[crc >> 8 & 0xFF] ^ t1[crc >> 16 & 0xFF] ^ t0[crc >> 24]
    for byte in view[whole:]:
        crc = t0[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return _after_zeros(crc, zeros) ^ 0xFFFFFFFF


def _after_zeros(crc: int, count: int) -> int:
    """The register after so many zero bytes more: a linear map of its bits, composed of those of powers of two."""
    power = 0
    while count >> power:
        if count >> power & 1:
            crc = _mapped(_after_power_of_two(power), crc)
        power += 1
    return crc


@cache
def _after_power_of_two(power: int) -> tuple[int, ...]:
    """What 2 ** power zero bytes make of each bit of the register alone."""
    if power == 0:
        return tuple(_T0[1 << bit & 0xFF] ^ (1 << bit >> 8) for bit in range(32))
    half = _after_power_of_two(power - 1)
    return tuple(_mapped(half, image) for image in half)


def _mapped(images: tuple[int, ...], crc: int) -> int:
    result = 0
    for bit, image in enumerate(images):
        if crc >> bit & 1:
            result ^= image
    return result
