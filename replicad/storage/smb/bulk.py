"""READ and WRITE: one large call in pieces, several of them on their way at a time. Blocking.

This is the room to be replaced by a faster data path; nothing else knows how payloads are framed.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from smbprotocol.exceptions import SMBResponseException
from smbprotocol.open import SMB2ReadRequest, SMB2WriteRequest

from . import calls, status
from .calls import Handle
from .connection import ConnectionLostError, NoAnswerError
from .link import AbandonedError, Job, Tree

DEPTH = 4
"""Requests of one call on their way at a time."""
_READ_HEADER_BYTES = 16


def read_into(job: Job, tree: Tree, handle: Handle, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset`; the number of bytes read, less than asked only at the end of the file."""
    done = 0
    while done < len(view):
        count = _read_once(job, tree, handle, view[done:], offset + done)
        done += count
        if count == 0:
            break
        # A server may answer with less than it was asked for in the middle of a file: ask for the rest.
    return done


def _read_once(job: Job, tree: Tree, handle: Handle, view: memoryview, offset: int) -> int:
    """Ask for all pieces once; the number of bytes up to the first piece that came short."""
    contiguous, whole = 0, True

    def send(start: int, length: int) -> Any:
        message = SMB2ReadRequest()
        message["length"] = length
        message["offset"] = offset + start
        message["minimum_count"] = 0
        message["file_id"] = handle.file_id
        message["padding"] = b"\x50"
        return calls.send(tree, message)

    def collect(request: Any, start: int, length: int) -> None:
        nonlocal contiguous, whole
        try:
            body = calls.answer(tree, request)
        except SMBResponseException as error:
            if error.status != status.END_OF_FILE:
                raise
            whole = False
            return
        # MS-SMB2 §2.2.20
        data_offset, count = struct.unpack_from("<BxI", body, 2)
        data_offset -= 64
        count = min(count, length, max(0, len(body) - data_offset))
        if whole:
            with job.guard:
                if not job.abandoned:
                    view[start : start + count] = memoryview(body)[data_offset : data_offset + count]
            contiguous += count
        whole = whole and count == length

    _pipeline(job, len(view), tree.link.piece_bytes, send, collect)
    return contiguous


def write(job: Job, tree: Tree, handle: Handle, view: memoryview, offset: int) -> None:
    """Write all of `view` at `offset`."""

    def send(start: int, length: int) -> Any:
        with job.guard:
            if job.abandoned:
                raise AbandonedError
            payload = bytes(view[start : start + length])
        message = SMB2WriteRequest()
        message["length"] = length
        message["offset"] = offset + start
        message["file_id"] = handle.file_id
        message["buffer"] = payload
        return calls.send(tree, message)

    def collect(request: Any, start: int, length: int) -> None:
        body = calls.answer(tree, request)
        (count,) = struct.unpack_from("<I", body, 4)  # MS-SMB2 §2.2.22
        while count < length:
            # A disk that fills up may take a part; when asked again the server says what is wrong.
            request = send(start + count, length - count)
            body = calls.answer(tree, request)
            (more,) = struct.unpack_from("<I", body, 4)
            if more == 0:
                tree.link.connection.condemn("the server writes nothing of what it is sent")
                raise ConnectionLostError
            count += more

    _pipeline(job, len(view), tree.link.piece_bytes, send, collect)


def _pipeline(
    job: Job, total: int, piece: int, send: Callable[[int, int], Any], collect: Callable[[Any, int, int], None]
) -> None:
    """Send the pieces of [0, total) and collect their answers in order, DEPTH on their way at a time.

    On the first error nothing more is sent; what is on its way is collected before the error is raised.
    """
    under_way: deque[tuple[Any, int, int]] = deque()
    with _collecting_the_rest(under_way, collect):
        for start, length in _pieces(total, piece):
            if job.abandoned:
                raise AbandonedError
            if len(under_way) == DEPTH:
                collect(*under_way.popleft())
            under_way.append((send(start, length), start, length))
        while under_way:
            collect(*under_way.popleft())
        if job.abandoned:
            raise AbandonedError


@contextmanager
def _collecting_the_rest(
    under_way: deque[tuple[Any, int, int]], collect: Callable[[Any, int, int], None]
) -> Iterator[None]:
    try:
        yield
    except (SMBResponseException, AbandonedError):
        while under_way:
            try:
                collect(*under_way.popleft())
            except SMBResponseException:
                pass  # the first error is the one that counts
            except (ConnectionLostError, NoAnswerError):
                break  # then nothing else is on its way either
        raise


def _pieces(total: int, piece: int) -> Iterator[tuple[int, int]]:
    for start in range(0, total, piece):
        yield start, min(piece, total - start)
