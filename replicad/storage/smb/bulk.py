"""READ and WRITE: one large call in pieces, several of them on their way at a time. Blocking."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from smbprotocol.exceptions import SMBResponseException

from . import status
from .calls import Handle
from .data.channel import Pending, Target
from .failures import ConnectionLostError, NoAnswerError
from .job import AbandonedError, Job, Loan
from .link import Tree

DEPTH = 4
"""Requests of one call on their way at a time, if they are as large as can be."""
_MOST_REQUESTS = 64
"""Smaller ones, as long as they move no more than that."""


def read_into(job: Job, tree: Tree, handle: Handle, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset`; the number of bytes read, less than asked only at the end of the file."""
    done = 0
    with _lent(job) as loan:
        while done < len(view):
            count = _read_once(job, tree, _target(tree, handle), view[done:], offset + done, loan)
            done += count
            if count == 0:
                break
            # A server may answer with less than it was asked for in the middle of a file: ask for the rest.
    return done


def _read_once(job: Job, tree: Tree, target: Target, view: memoryview, offset: int, loan: Loan) -> int:
    """Ask for all pieces once; the number of bytes up to the first piece that came short."""
    channel = tree.link.connection.channel
    contiguous, whole = 0, True

    def send(number: int, start: int, length: int) -> Pending:
        return channel.send_read(target, offset + start, view[start : start + length], loan)

    def collect(request: Pending, number: int, start: int, length: int) -> None:
        nonlocal contiguous, whole
        try:
            count = channel.wait(request)
        except SMBResponseException as error:
            if error.status != status.END_OF_FILE:
                raise
            count = 0
        contiguous += count if whole else 0
        whole = whole and count == length

    piece_bytes = tree.link.piece_bytes
    _pipeline(job, _cut([len(view)], piece_bytes), DEPTH * piece_bytes, send, collect)
    return contiguous


def write(job: Job, tree: Tree, handle: Handle, pieces: Sequence[tuple[memoryview, int]]) -> None:
    """Write all of each piece at its offset."""
    channel, target = tree.link.connection.channel, _target(tree, handle)

    def send(number: int, start: int, length: int) -> Pending:
        view, offset = pieces[number]
        return channel.send_write(target, offset + start, view[start : start + length], loan)

    def collect(request: Pending, number: int, start: int, length: int) -> None:
        count = channel.wait(request)
        while count < length:
            # A disk that fills up may take a part; when asked again the server says what is wrong.
            more = channel.wait(send(number, start + count, length - count))
            if more == 0:
                tree.link.connection.condemn("the server writes nothing of what it is sent")
                raise ConnectionLostError
            count += more

    piece_bytes = tree.link.piece_bytes
    with _lent(job) as loan:
        _pipeline(job, _cut([len(view) for view, _ in pieces], piece_bytes), DEPTH * piece_bytes, send, collect)


@contextmanager
def _lent(job: Job) -> Iterator[Loan]:
    """The caller's buffer for one call: however that ends, nobody touches it after."""
    loan = job.lend()
    try:
        yield loan
    finally:
        loan.end()


def _target(tree: Tree, handle: Handle) -> Target:
    return Target(tree.link.session_id, tree.tree_id, handle.file_id, tree.encrypted)


def _pipeline(
    job: Job,
    requests: Iterator[tuple[int, int, int]],
    most_bytes: int,
    send: Callable[[int, int, int], Pending],
    collect: Callable[[Pending, int, int, int], None],
) -> None:
    """Send the requests and collect their answers in order; those on their way move no more than `most_bytes`.

    On the first error nothing more is sent; what is on its way is collected before the error is raised.
    """
    under_way: deque[tuple[Pending, int, int, int]] = deque()
    moving_bytes = 0
    with _collecting_the_rest(under_way, collect):
        for number, start, length in requests:
            if job.abandoned:
                raise AbandonedError
            while under_way and (len(under_way) == _MOST_REQUESTS or moving_bytes + length > most_bytes):
                moving_bytes -= under_way[0][3]
                collect(*under_way.popleft())
            under_way.append((send(number, start, length), number, start, length))
            moving_bytes += length
        while under_way:
            collect(*under_way.popleft())
        if job.abandoned:
            raise AbandonedError


@contextmanager
def _collecting_the_rest(
    under_way: deque[tuple[Pending, int, int, int]], collect: Callable[[Pending, int, int, int], None]
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


def _cut(lengths: Sequence[int], most_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Pieces of these lengths in requests: the number of the piece, the start in it, the length."""
    for number, total in enumerate(lengths):
        for start in range(0, total, most_bytes):
            yield number, start, min(most_bytes, total - start)
