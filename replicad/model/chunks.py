"""Chunk arithmetic. Pure.

A chunk is the fixed-size piece of a disk that is hashed and compared; the last one of a disk may be shorter.
"""

from __future__ import annotations

MIN_CHUNK_BYTES = 64 * 1024
MAX_CHUNK_BYTES = 4 * 1024 * 1024
_COMFORTABLE_CHUNKS = 1 << 22
"""Up to so many chunks (a manifest of 64 MiB when no chunk is zero) a disk keeps the smallest chunk."""


def is_chunk_size(chunk_bytes: int) -> bool:
    """Whether it is a power of two from 64 KiB to 4 MiB."""
    return MIN_CHUNK_BYTES <= chunk_bytes <= MAX_CHUNK_BYTES and chunk_bytes & (chunk_bytes - 1) == 0


def choose_chunk_size(size_bytes: int) -> int:
    """The smallest chunk size that keeps the manifest of a disk of this size at 64 MiB, else the largest one."""
    chunk_bytes = MIN_CHUNK_BYTES
    while chunk_bytes < MAX_CHUNK_BYTES and chunk_count(size_bytes, chunk_bytes) > _COMFORTABLE_CHUNKS:
        chunk_bytes *= 2
    return chunk_bytes


def chunk_count(size_bytes: int, chunk_bytes: int) -> int:
    """How many chunks a disk of this size has, the shorter last one included."""
    return -(-size_bytes // chunk_bytes)


def chunk_length(index: int, size_bytes: int, chunk_bytes: int) -> int:
    """The length of one chunk: 0 if the disk ends before it."""
    return max(0, min(chunk_bytes, size_bytes - index * chunk_bytes))
