"""Copying by the server: FSCTL_SRV_COPYCHUNK_WRITE (MS-SMB2 §2.2.31.1, §3.3.5.15.6). Blocking."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from smbprotocol.exceptions import SMBResponseException

from replicad.model.errors import UnsupportedError
from replicad.storage.copying import pieces
from replicad.storage.port import CopyRange

from . import calls, status
from .calls import Control, Handle
from .job import AbandonedError, Job
from .link import CopyLimits, Tree

_RESUME_KEY_BYTES = 24
_SMALLEST_CHUNK_BYTES = 4096
"""Less at a time takes longer than reading and writing back."""
_CANNOT_COPY = status.CANNOT_DO | {status.OBJECT_NAME_NOT_FOUND}


def resume_key(tree: Tree, handle: Handle, subject: str) -> bytes:
    """The name of an open file for a copy on the same connection (§2.2.32.3).

    Only ever use it there: Samba 4.17 ends a connection that brings along another one's key.
    """
    try:
        answer = calls.control(tree, handle, Control.REQUEST_RESUME_KEY, b"", 32)
    except SMBResponseException as error:
        if error.status in _CANNOT_COPY:
            raise UnsupportedError("copy from", subject, "the server can't copy by itself") from None
        raise
    if len(answer) < _RESUME_KEY_BYTES:
        raise UnsupportedError("copy from", subject, "the server can't copy by itself")
    return answer[:_RESUME_KEY_BYTES]


def copy_chunks(job: Job, tree: Tree, handle: Handle, key: bytes, ranges: Sequence[CopyRange], subject: str) -> None:
    """Copy the ranges, as many at a time as the server takes."""
    remaining = list(ranges)
    while remaining:
        limits = tree.copy_limits
        for batch in batches(remaining, limits):
            if job.abandoned:
                raise AbandonedError
            if not _copy(tree, handle, key, batch, subject):
                break  # the server takes less at a time: begin again with its limits
        else:
            return
        if tree.copy_limits == limits:
            raise UnsupportedError("copy to", subject, "the server takes no copy of that size")


def _copy(tree: Tree, handle: Handle, key: bytes, batch: Sequence[CopyRange], subject: str) -> bool:
    """One request; False if the server named smaller limits, which the link then remembers."""
    given = key + struct.pack("<II", len(batch), 0)
    given += b"".join(struct.pack("<qqII", r.source_offset_bytes, r.offset_bytes, r.length_bytes, 0) for r in batch)
    asked = sum(r.length_bytes for r in batch)
    try:
        answer = calls.control(tree, handle, Control.COPYCHUNK_WRITE, given, 12, tree.link.endpoint.slow_timeout_s)
    except SMBResponseException as error:
        if error.status in _CANNOT_COPY:
            raise UnsupportedError("copy to", subject, "the server can't copy by itself") from None
        if error.status == status.INVALID_PARAMETER and _adopt_limits(tree, error):
            return False
        raise
    _, _, written = struct.unpack_from("<III", answer) if len(answer) >= 12 else (0, 0, 0)
    if written != asked:
        raise UnsupportedError("copy to", subject, f"the server copied {written} of {asked} bytes")
    return True


def _adopt_limits(tree: Tree, error: SMBResponseException) -> bool:
    answer = calls.control_output(error.header["data"].get_value())
    if len(answer) < 12:
        return False
    named = CopyLimits(*struct.unpack_from("<III", answer))
    ours = tree.copy_limits
    smaller = CopyLimits(
        min(ours.chunks, named.chunks), min(ours.chunk_bytes, named.chunk_bytes),
        min(ours.total_bytes, named.total_bytes),
    )  # fmt: skip
    smallest_bytes = min(smaller.chunk_bytes, smaller.total_bytes)
    if smaller == ours or smaller.chunks == 0 or smallest_bytes < _SMALLEST_CHUNK_BYTES:
        return False
    tree.copy_limits = smaller
    return True


def batches(ranges: Sequence[CopyRange], limits: CopyLimits) -> Iterator[list[CopyRange]]:
    """The ranges, cut up and grouped so that each group goes into one request."""
    batch: list[CopyRange] = []
    total = 0
    for piece in (p for one in ranges for p in pieces(one, min(limits.chunk_bytes, limits.total_bytes))):
        if len(batch) == limits.chunks or total + piece.length_bytes > limits.total_bytes:
            yield batch
            batch, total = [], 0
        batch.append(piece)
        total += piece.length_bytes
    if batch:
        yield batch
