"""How the parser asks for bytes: it yields `ReadRequest`s and is sent the bytes. Pure.

Every step of the parser is a generator. Whoever drives it answers each request with exactly the bytes asked for; fewer
mean that the file has become shorter, which the parser reports. No request is longer than `MAX_READ_BYTES` or
reaches beyond the size of the file that the parser was told.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from struct import pack, unpack
from typing import TypeAlias, TypeVar

from .facts import DamagedVhdxError

MIB = 1024 * 1024
SECTOR_BYTES = 4096  # the log's unit (MS-VHDX §2.3.1)
MAX_READ_BYTES = MIB

T = TypeVar("T")
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """Wants the bytes [offset_bytes, offset_bytes + length_bytes) of the file; never empty."""

    offset_bytes: int
    length_bytes: int


Step: TypeAlias = Generator[ReadRequest, bytes, T]


@dataclass(frozen=True, slots=True)
class LogWrite:
    """What replaying one descriptor of the log writes at `offset_bytes` (MS-VHDX §2.3.1.2, §2.3.1.3).

    `data_at_bytes` is where in the file its data sector lies, and None for zeros.
    """

    offset_bytes: int
    length_bytes: int
    data_at_bytes: int | None = None
    leading: bytes = b""
    trailing: bytes = b""


@dataclass(frozen=True, slots=True)
class View:
    """The file as it will be once its log has been replayed.

    `writes` are sorted and do not overlap. `size_bytes` is the size after the replay, `file_size_bytes` that of now.
    """

    file_size_bytes: int
    size_bytes: int
    writes: tuple[LogWrite, ...] = ()


def plain_view(file_size_bytes: int) -> View:
    """The view of a file that has no log to replay."""
    return View(file_size_bytes, file_size_bytes)


def guid(data: bytes) -> str:
    """A GUID as text, from its 16 bytes."""
    first, second, third = unpack("<IHH", data[:8])
    return f"{first:08x}-{second:04x}-{third:04x}-{data[8:10].hex()}-{data[10:16].hex()}"


def guid_bytes(text: str) -> bytes:
    """The 16 bytes of a GUID that is written as `guid` writes it. ValueError for anything else."""
    if not _GUID.fullmatch(text):
        raise ValueError(f"{text!r} is no GUID in lower case without braces")
    first, second, third, fourth, fifth = text.split("-")
    return pack("<IHH", int(first, 16), int(second, 16), int(third, 16)) + bytes.fromhex(fourth + fifth)


def resolve(writes: Sequence[LogWrite]) -> tuple[LogWrite, ...]:
    """The same outcome as `writes` one after the other, sorted and without overlaps."""
    starts: list[int] = []  # what later writes cover: sorted, disjoint
    ends: list[int] = []
    result: list[LogWrite] = []
    for write in reversed(writes):
        low, high = write.offset_bytes, write.offset_bytes + write.length_bytes
        first, last = bisect_left(ends, low), bisect_right(starts, high)
        position = low
        for start, end in zip(starts[first:last], ends[first:last], strict=True):
            if start > position:
                result.append(_part(write, position, start))
            position = max(position, end)
        if position < high:
            result.append(_part(write, position, high))
        if first < last:
            low, high = min(low, starts[first]), max(high, ends[last - 1])
        starts[first:last], ends[first:last] = [low], [high]
    return tuple(sorted(result, key=lambda write: write.offset_bytes))


def _part(write: LogWrite, start: int, end: int) -> LogWrite:
    # A data sector is one aligned unit, and everything in a log is aligned to units: only zeros are ever cut.
    return write if write.data_at_bytes is not None else LogWrite(start, end - start)


def read_raw(file_size_bytes: int, offset: int, length: int, structure: str) -> Step[bytes]:
    """Bytes of the file as they are now. DamagedVhdxError if the file ends before them."""
    if offset + length > file_size_bytes:
        raise DamagedVhdxError(structure, offset, f"it needs {length} bytes, and the file ends at {file_size_bytes}")
    data = yield ReadRequest(offset, length)
    if len(data) != length:
        raise DamagedVhdxError(
            structure, offset, f"the file became shorter than {file_size_bytes} bytes while being read"
        )
    return data


def read(view: View, offset: int, length: int, structure: str) -> Step[bytes]:
    """Bytes of the file as they will be after the log's replay. DamagedVhdxError if the file ends before them."""
    if offset + length > view.size_bytes:
        raise DamagedVhdxError(structure, offset, f"it needs {length} bytes, and the file ends at {view.size_bytes}")
    here = max(0, min(length, view.file_size_bytes - offset))
    data = b""
    if here:
        data = yield from read_raw(view.file_size_bytes, offset, here, structure)
    touching = view.writes[
        bisect_right(view.writes, offset, key=lambda w: w.offset_bytes + w.length_bytes) : bisect_left(
            view.writes, offset + length, key=lambda w: w.offset_bytes
        )
    ]
    if here == length and not touching:
        return data
    patched = bytearray(data.ljust(length, b"\0"))
    for write in touching:
        start, end = max(write.offset_bytes, offset), min(write.offset_bytes + write.length_bytes, offset + length)
        new = yield from replayed(view, write, start, end)
        patched[start - offset : end - offset] = new
    return bytes(patched)


def replayed(view: View, write: LogWrite, start: int, end: int) -> Step[bytes]:
    """What the replay puts at the bytes [start, end) of the file, all of which are inside `write`."""
    if write.data_at_bytes is None:
        return bytes(end - start)
    sector = yield from read_raw(view.file_size_bytes, write.data_at_bytes, SECTOR_BYTES, "log data sector")
    whole = write.leading + sector[8:-4] + write.trailing
    return whole[start - write.offset_bytes : end - write.offset_bytes]
