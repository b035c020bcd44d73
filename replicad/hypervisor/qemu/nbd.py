"""The network block device protocol, as far as we need it: bytes out, facts in. Pure.

Newstyle negotiation with structured replies, one export, its metadata contexts; reading, block status. What
the other side says is held against what was asked for: IntegrityError if it does not fit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from replicad.model.errors import IntegrityError
from replicad.model.extents import Extent

GREETING = struct.Struct(">QQH")
OPTION_REPLY = struct.Struct(">QIII")
CHUNK = struct.Struct(">IHHQI")
CHUNK_MAGIC_BYTES = 4
SIMPLE_REST = struct.Struct(">IQ")
DATA_PREFIX = struct.Struct(">Q")
HOLE = struct.Struct(">QI")

MAX_READ_BYTES = 32 * 1024 * 1024
"""What QEMU serves in one request."""
MAX_STATUS_BYTES = 0xFFFF_0000
"""What one request for block status can be about, in whole clusters of any size we use."""

STRUCTURED_REPLY, SET_META_CONTEXT, GO = 8, 10, 7
READ, DISCONNECT, BLOCK_STATUS = 0, 2, 7
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS = 0, 1, 2, 5
_CHUNK_ERROR = 0x8000

_MAGIC, _OPTIONS_MAGIC = 0x4E42444D41474943, 0x49484156454F5054
_REPLY_MAGIC, _REQUEST_MAGIC = 0x0003E889045565A9, 0x25609513
_SIMPLE_MAGIC, _CHUNK_MAGIC = 0x67446698, 0x668E33EF
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_ACK, _INFO, _META_CONTEXT, _REFUSED = 1, 3, 4, 0x8000_0000
_INFO_EXPORT = 0
_MAX_OPTION_BYTES = 64 * 1024
_MAX_STATUS_REPLY_BYTES = 4 + 8 * 256 * 1024
_DONE = 1


def refuse(what: str) -> IntegrityError:
    """The error for an answer that does not fit."""
    return IntegrityError("read from", "QEMU's NBD server", what)


def check_greeting(data: bytes) -> bytes:
    """What to answer to the first words of a server."""
    magic, options, flags = GREETING.unpack(data)
    if magic != _MAGIC or options != _OPTIONS_MAGIC or not flags & _FIXED_NEWSTYLE:
        raise refuse("it does not speak the protocol")
    return struct.pack(">I", _FIXED_NEWSTYLE | flags & _NO_ZEROES)


def option(kind: int, data: bytes = b"") -> bytes:
    """A request of the negotiation."""
    return struct.pack(">QII", _OPTIONS_MAGIC, kind, len(data)) + data


def contexts_option(export: str, contexts: Sequence[str]) -> bytes:
    """The request to be told the block status in these contexts."""
    name = export.encode()
    queries = b"".join(struct.pack(">I", len(c.encode())) + c.encode() for c in contexts)
    return option(SET_META_CONTEXT, struct.pack(">I", len(name)) + name + struct.pack(">I", len(contexts)) + queries)


def go_option(export: str) -> bytes:
    """The request to use an export."""
    name = export.encode()
    return option(GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))


@dataclass(frozen=True, slots=True)
class OptionReply:
    """One answer of the negotiation: its kind, and how many bytes follow. The last one to an option is `over`."""

    kind: int
    length_bytes: int

    @property
    def over(self) -> bool:
        return self.kind == _ACK

    @property
    def is_context(self) -> bool:
        return self.kind == _META_CONTEXT

    @property
    def is_info(self) -> bool:
        return self.kind == _INFO


def parse_option_reply(data: bytes, asked: int) -> OptionReply:
    """The head of an answer to the option `asked`. What was refused is an error."""
    magic, kind_asked, kind, length = OPTION_REPLY.unpack(data)
    if magic != _REPLY_MAGIC or kind_asked != asked or length > _MAX_OPTION_BYTES:
        raise refuse("its answer in the negotiation makes no sense")
    if kind & _REFUSED:
        raise refuse(f"it refused the option {asked} with {kind:#x}")
    return OptionReply(kind, length)


def parse_context(data: bytes) -> tuple[str, int]:
    """The name and the number of a context."""
    if len(data) < 4:
        raise refuse("a context without a name")
    return data[4:].decode(errors="replace"), int.from_bytes(data[:4], "big")


def parse_size(data: bytes) -> int | None:
    """The size that an information about the export tells; None if it tells something else."""
    if len(data) < 2:
        raise refuse("an information without a kind")
    if int.from_bytes(data[:2], "big") != _INFO_EXPORT:
        return None
    if len(data) != 12:
        raise refuse("an export without a size")
    return int.from_bytes(data[2:10], "big")


def request(kind: int, cookie: int, offset: int, length: int) -> bytes:
    """The head of a request."""
    return struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, kind, cookie, offset, length)


def is_simple(magic: bytes) -> bool:
    """Whether an answer that begins so is of the simple kind, without chunks."""
    if (number := int.from_bytes(magic, "big")) not in (_SIMPLE_MAGIC, _CHUNK_MAGIC):
        raise refuse("its answer has no beginning")
    return number == _SIMPLE_MAGIC


@dataclass(frozen=True, slots=True)
class Chunk:
    """The head of a piece of an answer; `length_bytes` follow."""

    kind: int
    length_bytes: int
    is_last: bool
    is_error: bool


def parse_chunk(data: bytes, cookie: int, asked_bytes: int) -> Chunk:
    """The head of a piece of the answer to the request `cookie`, about `asked_bytes` at most."""
    magic, flags, kind, of, length = CHUNK.unpack(data)
    if magic != _CHUNK_MAGIC or of != cookie:
        raise refuse("an answer to something that was not asked")
    limit = {
        CHUNK_NONE: 0,
        CHUNK_DATA: DATA_PREFIX.size + asked_bytes,
        CHUNK_HOLE: HOLE.size,
        CHUNK_STATUS: _MAX_STATUS_REPLY_BYTES,
    }.get(kind, _MAX_OPTION_BYTES if kind & _CHUNK_ERROR else -1)
    if length > limit:
        raise refuse(f"a piece of kind {kind} and {length} bytes where {asked_bytes} bytes were asked for")
    return Chunk(kind, length, bool(flags & _DONE), bool(kind & _CHUNK_ERROR))


def parse_error(data: bytes) -> tuple[int, str]:
    """The number of an error, and what it says."""
    if len(data) < 6:
        raise refuse("an error without a number")
    return int.from_bytes(data[:4], "big"), data[6 : 6 + int.from_bytes(data[4:6], "big")].decode(errors="replace")


def parse_status(data: bytes, context: int, offset: int, length: int) -> list[tuple[Extent, int]]:
    """Extents from `offset` on, with their flags in one context; they end within `length` bytes, or shortly after."""
    if len(data) < 12 or len(data) % 8 != 4:
        raise refuse("a block status without extents")
    if int.from_bytes(data[:4], "big") != context:
        raise refuse("a block status of another context")
    found: list[tuple[Extent, int]] = []
    end = offset + length
    for size, flags in _pairs(data):
        if not size or offset >= end:
            raise refuse("a block status of nothing")
        found.append((Extent(offset, size), flags))
        offset += size
    return found


def _pairs(data: bytes) -> Iterator[tuple[int, int]]:
    numbers = iter(struct.unpack(f">{(len(data) - 4) // 4}I", data[4:]))
    return zip(numbers, numbers, strict=True)
