"""What is to be done if the header of a batch can't be read with which the undo log of an interrupted cycle ends.

Mostly nobody got further than writing that header, and no chunk of the batch was overwritten. But it may as well be
that the header was damaged since. Then nothing tells which chunks the cycle overwrote after it: those that it names
look untouched. Doubt widens the read: the disk is read back and held against the manifest of the point before, and what
should not differ is put back. Its old bytes lie behind the damaged header; their hashes tell which they are.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from replicad.model.chunks import chunk_length
from replicad.model.extents import split, widen
from replicad.model.manifest import ZERO_HASH, Manifest, ManifestEdit
from replicad.storage.port import ShareFile

from .hashing import hash_chunk, hash_chunks
from .undo_format import BLOCK_BYTES

_READ_BYTES = 8 * 1024 * 1024


async def put_back(
    disk: ShareFile,
    log: ShareFile,
    end_bytes: int,
    named: Container[int],
    previous: Manifest,
    seed: int,
    *,
    zeros: bool,
) -> list[int]:
    """Bring the chunks of `disk` that are not `named` by the log back to what `previous` says, with the old bytes that
    lie in the log behind `end_bytes`, where its last sound batch ends; and, with `zeros`, those that should be zeros.
    Durable on return.

    Returns the other chunks that are not as they were and whose old bytes are not there, ascending.
    """
    found = await _read_back(disk, previous, seed)
    by_hash: dict[bytes, list[int]] = {}
    for index in _different(found, previous):
        if index not in named:
            by_hash.setdefault(previous.hash_of(index), []).append(index)
    should_be_zeros = by_hash.pop(ZERO_HASH, [])
    if zeros:
        for index in should_be_zeros:
            await disk.zero(index * previous.chunk_bytes, _length(index, previous))
        await _zero_beyond(disk, named, previous)
    await _copy_back(disk, log, end_bytes, by_hash, previous, seed)
    await disk.flush()
    return sorted(index for indices in by_hash.values() for index in indices)


def _length(index: int, manifest: Manifest) -> int:
    return chunk_length(index, manifest.size_bytes, manifest.chunk_bytes)


async def _read_back(disk: ShareFile, previous: Manifest, seed: int) -> Manifest:
    """The manifest of what the disk holds below the size that it had."""
    edit = ManifestEdit(Manifest(previous.chunk_bytes, 0), previous.size_bytes)
    size_bytes = min((await disk.identity()).size_bytes, previous.size_bytes)
    buffer = memoryview(bytearray(min(max(_READ_BYTES, previous.chunk_bytes), size_bytes)))
    for extent in widen(await disk.allocated_extents(), previous.chunk_bytes, size_bytes):
        for piece in split(extent, max(_READ_BYTES, previous.chunk_bytes)):
            part = buffer[: piece.length_bytes]
            part = part[: await disk.read_into(part, piece.offset_bytes)]
            edit.put(piece.offset_bytes // previous.chunk_bytes, hash_chunks(part, previous.chunk_bytes, seed))
    return edit.finish()


def _different(found: Manifest, wanted: Manifest) -> Iterator[int]:
    candidates = {*found.nonzero_chunks(0, found.chunks), *wanted.nonzero_chunks(0, wanted.chunks)}
    return (index for index in sorted(candidates) if found.hash_of(index) != wanted.hash_of(index))


async def _zero_beyond(disk: ShareFile, named: Container[int], previous: Manifest) -> None:
    """Whole chunks that the disk did not have."""
    chunk_bytes, size_bytes = previous.chunk_bytes, (await disk.identity()).size_bytes
    for extent in widen(await disk.allocated_extents(), chunk_bytes, size_bytes):
        first = max(extent.offset_bytes // chunk_bytes, previous.chunks)
        for index in range(first, -(-extent.end_bytes // chunk_bytes)):
            if index not in named:
                await disk.zero(index * chunk_bytes, chunk_bytes)


async def _copy_back(
    disk: ShareFile, log: ShareFile, end_bytes: int, by_hash: dict[bytes, list[int]], previous: Manifest, seed: int
) -> None:
    """Put back the chunks whose bytes are found in the log, and take them out of `by_hash`."""
    size_bytes = (await log.identity()).size_bytes
    lengths = {_length(index, previous) for indices in by_hash.values() for index in indices}
    position = end_bytes + BLOCK_BYTES
    while by_hash and position < size_bytes:
        window = bytearray(min(max(_READ_BYTES, 2 * previous.chunk_bytes), size_bytes - position))
        window = window[: await log.read_into(window, position)]
        # What begins in the window's last chunk ends behind it, and is found in the next one.
        last = position + len(window) >= size_bytes
        step = len(window) if last else len(window) - previous.chunk_bytes
        for start in range(0, step, BLOCK_BYTES):
            for piece in (window[start : start + length] for length in lengths if start + length <= len(window)):
                for index in by_hash.pop(hash_chunk(piece, seed), ()):
                    await disk.write(piece, index * previous.chunk_bytes)
        position += step
