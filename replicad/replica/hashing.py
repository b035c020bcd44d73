"""Hashing chunks: XXH3-128, seeded with the replica's secret. Pure."""

from __future__ import annotations

from functools import lru_cache

import xxhash

from replicad.model.manifest import ZERO_HASH

_ZEROS = bytes(4 * 1024 * 1024)


@lru_cache(maxsize=64)
def _digest_of_zeros(length: int, seed: int) -> bytes:
    return xxhash.xxh3_128_digest(_ZEROS[:length], seed=seed)


def hash_chunk(chunk: bytes | bytearray | memoryview, seed: int) -> bytes:
    """The hash of one chunk of 1 byte to 4 MiB: XXH3-128 (big-endian, as xxhash writes it), or the zero hash."""
    digest = xxhash.xxh3_128_digest(chunk, seed=seed)
    if digest == _digest_of_zeros(len(chunk), seed) and bytes(chunk) == _ZEROS[: len(chunk)]:
        return ZERO_HASH
    return digest


def hash_chunks(block: bytes | bytearray | memoryview, chunk_bytes: int, seed: int) -> bytes:
    """The hashes of the chunks of a block that starts at a chunk's start, joined; the last chunk may be shorter."""
    view, digest_of, zeros = memoryview(block), xxhash.xxh3_128_digest, _digest_of_zeros(chunk_bytes, seed)
    whole = len(view) - len(view) % chunk_bytes
    # One call a chunk and nothing more: at 64 KiB the calls cost as much as the hashing.
    digests = [digest_of(view[start : start + chunk_bytes], seed) for start in range(0, whole, chunk_bytes)]
    if zeros in digests:
        digests = [
            hash_chunk(view[place * chunk_bytes : (place + 1) * chunk_bytes], seed) if digest == zeros else digest
            for place, digest in enumerate(digests)
        ]
    if whole < len(view):
        digests.append(hash_chunk(view[whole:], seed))
    return b"".join(digests)
