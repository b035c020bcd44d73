"""CRC-32C against the vectors of RFC 3720 §B.4 and against its definition, bit by bit."""

from __future__ import annotations

import time

import pytest

from replicad.vhdx.crc32c import crc32c


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0x00000000),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_known_vectors(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


def _bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 4096, 65535, 65536, 65537, 65543])
def test_any_length_agrees_with_the_definition(length: int) -> None:
    data = bytes((i * 167 + (i >> 8)) & 0xFF for i in range(length))
    assert crc32c(data) == _bit_by_bit(data)


def test_a_checksum_can_be_continued_over_pieces() -> None:
    data = bytes(range(256)) * 5
    assert crc32c(data[777:], crc32c(data[:777])) == crc32c(data)


@pytest.mark.parametrize("zeros", [1, 2, 3, 4, 31, 4096, 65415, 65536])
@pytest.mark.parametrize("data", [b"", b"\1", b"regi" + bytes(range(117)), bytes(7) + b"\xff"])
def test_zeros_at_the_end_count_as_any_other_bytes(data: bytes, zeros: int) -> None:
    assert crc32c(data + bytes(zeros)) == _bit_by_bit(data + bytes(zeros))
    assert crc32c(bytes(zeros), crc32c(data)) == crc32c(data + bytes(zeros))


def test_zeros_at_the_end_cost_next_to_nothing() -> None:
    data = memoryview(b"regi" + bytes(range(1, 117)) + bytes(64 << 20))
    began_s = time.process_time()
    crc32c(data)
    assert time.process_time() - began_s < 1  # 4 s byte by byte
