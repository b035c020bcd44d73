"""Copying ranges from one open file to another, by the server where it can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replicad.model.errors import IntegrityError, UnsupportedError

from .port import CopyRange, ShareFile

BUFFER_BYTES = 1024 * 1024
"""The memory that a copy through us takes."""


async def copy_ranges(source: ShareFile, target: ShareFile, ranges: Sequence[CopyRange]) -> bool:
    """Copy the ranges; whether the server did it (True) or the bytes travelled through us (False).

    The ranges are as for `ShareFile.copy_from`. Not durable before `target.flush()`. IntegrityError if the source
    ends before a range does. After an error any part of the target ranges may have been written.
    """
    try:
        await target.copy_from(source, ranges)
    except UnsupportedError:
        await _read_and_write(source, target, ranges)
        return False
    return True


async def _read_and_write(source: ShareFile, target: ShareFile, ranges: Sequence[CopyRange]) -> None:
    if source is target:
        refuse_overlap(ranges)
    buffer = memoryview(bytearray(min(BUFFER_BYTES, max((r.length_bytes for r in ranges), default=0))))
    for piece in (piece for one in ranges for piece in pieces(one, BUFFER_BYTES)):
        part = buffer[: piece.length_bytes]
        if await source.read_into(part, piece.source_offset_bytes) != piece.length_bytes:
            raise IntegrityError("copy from", source.path, f"it ends before {piece}")
        await target.write(part, piece.offset_bytes)


def pieces(one: CopyRange, most_bytes: int) -> Iterator[CopyRange]:
    """A range in pieces of at most `most_bytes`; none for an empty range."""
    for done in range(0, one.length_bytes, most_bytes):
        yield CopyRange(
            one.source_offset_bytes + done, one.offset_bytes + done, min(most_bytes, one.length_bytes - done)
        )


def refuse_overlap(ranges: Sequence[CopyRange]) -> None:
    """ValueError if a target range of a copy within one file overlaps a source range."""
    sources = sorted((r.source_offset_bytes, r.source_offset_bytes + r.length_bytes) for r in ranges if r.length_bytes)
    targets = sorted((r.offset_bytes + r.length_bytes, r.offset_bytes) for r in ranges if r.length_bytes)
    index = furthest = 0
    for end, start in targets:
        while index < len(sources) and sources[index][0] < end:
            furthest = max(furthest, sources[index][1])
            index += 1
        if furthest > start:
            raise ValueError("a copy within one file overlaps itself")


def refuse_negative(*numbers: int) -> None:
    """ValueError if an offset or a length is below 0."""
    if min(numbers) < 0:
        raise ValueError(f"offsets and lengths are 0 or more, got {numbers}")
