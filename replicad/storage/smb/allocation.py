"""Which ranges of a file are allocated (FSCTL_QUERY_ALLOCATED_RANGES, MS-FSCC §2.3.48). Blocking."""

from __future__ import annotations

import struct

from smbprotocol.exceptions import SMBResponseException

from replicad.model.extents import Extent, clip, normalise

from . import calls, status
from .calls import Control, Handle
from .failures import MalformedAnswerError
from .job import AbandonedError, Job
from .link import Tree

_ANSWER_BYTES = 64 * 1024
_MOST_RANGES = 1 << 20
"""Of more than that, kept in memory, nobody has anything: then the whole file is read."""
_SMALLEST_WINDOW_BYTES = 1024 * 1024
"""A window so small can't hold more ranges than an answer, whatever the file system's blocks."""


def allocated(job: Job, tree: Tree, handle: Handle) -> list[Extent]:
    """A normal sequence of extents outside of which the file reads as zeros; the whole file where the server can't
    tell."""
    size = calls.query_facts(tree, handle).size_bytes
    if not tree.can_tell_ranges:
        return [Extent(0, size)] if size else []
    found: list[Extent] = []
    position, window = 0, size
    while position < size:
        if job.abandoned:
            raise AbandonedError
        if len(found) > _MOST_RANGES:
            return [Extent(0, size)]
        length = min(window, size - position)
        try:
            answer = _ask(tree, handle, position, length)
        except SMBResponseException as error:
            if error.status in status.CANNOT_DO:
                tree.can_tell_ranges = False
                return [Extent(0, size)]
            if error.status == status.BUFFER_OVERFLOW:
                # Windows gives as many as fit: go on behind the last one.
                part = _extents(calls.control_output(error.header["data"].get_value()))
                found += part
                if part and part[-1].end_bytes > position:
                    position = part[-1].end_bytes
                    continue
            elif error.status != status.BUFFER_TOO_SMALL:
                raise
            # Samba gives none of them: ask about less.
            if length <= _SMALLEST_WINDOW_BYTES:
                found.append(Extent(position, length))
                position += length
            else:
                window = max(length // 2, _SMALLEST_WINDOW_BYTES)
            continue
        found += answer
        position += length
        window = min(window * 2, size)
    return clip(normalise(found), size)


def _ask(tree: Tree, handle: Handle, offset: int, length: int) -> list[Extent]:
    given = struct.pack("<qq", offset, length)
    return _extents(calls.control(tree, handle, Control.QUERY_ALLOCATED_RANGES, given, _ANSWER_BYTES))


def _extents(answer: bytes) -> list[Extent]:
    if len(answer) > _ANSWER_BYTES:
        raise MalformedAnswerError  # leaving some of them out would lose what they hold
    whole = answer[: len(answer) // 16 * 16]
    return normalise(Extent(offset, length) for offset, length in struct.iter_unpack("<QQ", whole))
