"""What changes a VHDX file without ever leaving it damaged: headers, log entries, and the order of it all. Pure.

A change is a list of stages. Whoever carries it out does everything in one stage, in any order, makes it durable
(flush), and only then begins the next. Wherever that is cut short, even inside a sector of 4 KiB, the file is sound.
Nobody else may have the file open meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from struct import Struct
from typing import TypeAlias

from .crc32c import crc32c
from .facts import HeaderFacts
from .headers import HEADER_BYTES, HEADER_OFFSETS, Headers
from .log import DATA_DESCRIPTOR, DESCRIPTOR_BYTES, ENTRY_HEADER
from .reading import SECTOR_BYTES, guid_bytes

_HEADER = Struct("<4sIQ16s16s16sHHIQ")
_NO_GUID = bytes(16)


@dataclass(frozen=True, slots=True)
class Write:
    """Put `data` at `offset_bytes`; the file grows where it ends before that."""

    offset_bytes: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Zeros:
    """Make these bytes of the file zeros; the file grows where it ends before that."""

    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Extend:
    """Let the file be at least `size_bytes` long; what is new reads as zeros."""

    size_bytes: int


Change: TypeAlias = Write | Zeros | Extend
Stage: TypeAlias = tuple[Change, ...]
Stages: TypeAlias = tuple[Stage, ...]


def sealed(data: bytes) -> bytes:
    """`data` with its CRC-32C in bytes 4 to 8, as a header and a log entry have it (MS-VHDX §2.2.2, §2.3.1.1)."""
    data = data[:4] + bytes(4) + data[8:]
    return data[:4] + crc32c(data).to_bytes(4, "little") + data[8:]


def header_bytes(header: HeaderFacts) -> bytes:
    """The 4 KiB of a header (MS-VHDX §2.2.2)."""
    body = _HEADER.pack(
        b"head", 0, header.sequence_number, guid_bytes(header.file_write_guid), guid_bytes(header.data_write_guid),
        guid_bytes(header.log_guid) if header.log_guid else _NO_GUID, header.log_version, header.version,
        header.log_length_bytes, header.log_offset_bytes,
    )  # fmt: skip
    return sealed(body.ljust(HEADER_BYTES, b"\0"))


class HeaderUpdates:
    """The headers of a file that is being changed, from its first update on (MS-VHDX §2.2.2.1).

    FileWriteGuid is a new one from the first update on. DataWriteGuid stays: nothing that is done here changes
    what is read from the disk, and the children of this disk know it by that GUID.
    """

    def __init__(self, headers: Headers, file_write_guid: str) -> None:
        self._header = replace(headers.current, file_write_guid=file_write_guid)
        self._offset = headers.offset_bytes

    def naming(self, log_guid: str | None) -> Stages:
        """Two stages, one for each header, after which the file names this log (None: none) and this alone.

        Each time it is the older header that is overwritten, so at every moment there is one that is whole; and
        afterwards either of them may be lost.
        """
        return self._update(log_guid), self._update(log_guid)

    def _update(self, log_guid: str | None) -> Stage:
        self._header = replace(self._header, sequence_number=self._header.sequence_number + 1, log_guid=log_guid)
        self._offset = next(offset for offset in HEADER_OFFSETS if offset != self._offset)
        return (Write(self._offset, header_bytes(self._header)),)


def log_entry(log_guid: str, sectors: Sequence[tuple[int, bytes]], flushed_bytes: int, last_bytes: int) -> bytes:
    """The one entry of a new log, its own tail, that lies at the log's start (MS-VHDX §2.3.1).

    `sectors` are the updates: the offset in the file, and what these 4 KiB will be. The sizes are the entry's
    FlushedFileOffset and LastFileOffset.
    """
    sequence = 1
    descriptors, data = b"", b""
    for offset, sector in sectors:
        descriptors += DATA_DESCRIPTOR.pack(b"desc", sector[-4:], sector[:8], offset, sequence)
        data += b"data" + (sequence >> 32).to_bytes(4, "little") + sector[8:-4]
        data += (sequence & 0xFFFFFFFF).to_bytes(4, "little")
    described = -(-(ENTRY_HEADER.size + len(sectors) * DESCRIPTOR_BYTES) // SECTOR_BYTES) * SECTOR_BYTES
    head = ENTRY_HEADER.pack(
        b"loge", 0, described + len(data), 0, sequence, len(sectors), 0, guid_bytes(log_guid), flushed_bytes, last_bytes
    )
    return sealed((head + descriptors).ljust(described, b"\0") + data)
