"""READ and WRITE as bytes (MS-SMB2 §2.2.1.2, §2.2.19–§2.2.22, §2.2.41). Pure."""

from __future__ import annotations

import struct
from typing import NamedTuple

from replicad.storage.port import Buffer

READ, WRITE = 8, 9
HEADER_BYTES = 64
ANSWER_BYTES = 80
"""The header and the fixed part of the answer to a READ or WRITE."""
TRANSFORM_BYTES = 52
SMB2, TRANSFORM = b"\xfeSMB", b"\xfdSMB"
UNSIGNED = bytes(16)

FROM_SERVER, ASYNC, SIGNED = 0x1, 0x2, 0x8

_HEADER = struct.Struct("<4sHHIHHIIQIIQ16s")
_READ_BODY = struct.Struct("<HBBIQ16sIIIHHx")
_WRITE_BODY = struct.Struct("<HHIQ16sIIHHI")
_READ_ANSWER = struct.Struct("<HBxI8x")
_WRITE_ANSWER = struct.Struct("<HxxI")
_TRANSFORM = struct.Struct("<4s16s16sIHHQ")
_SIGNATURE = slice(48, 64)
_WRITE_DATA_OFFSET = HEADER_BYTES + _WRITE_BODY.size
_FILE_ID_BYTES = 16


class Request(NamedTuple):
    """What READ and WRITE have in common. `credit_charge` is 0 where the dialect knows no larger requests."""

    message_id: int
    session_id: int
    tree_id: int
    credit_charge: int
    credit_request: int
    file_id: bytes
    offset_bytes: int
    length_bytes: int


class Answer(NamedTuple):
    """The header of an answer."""

    status: int
    command: int
    credits: int
    flags: int
    next_command: int
    message_id: int
    session_id: int
    signature: bytes


class Transform(NamedTuple):
    """The header of an encrypted message. `size_bytes` is the length of what is in it."""

    tag: bytes
    nonce: bytes
    size_bytes: int
    flags: int
    session_id: int


def read_request(request: Request, *, signed: bool) -> bytearray:
    """A READ (§2.2.19), whose answer has its data right behind its fixed part, if the server heeds that."""
    return bytearray(_header(READ, request, signed=signed)) + _READ_BODY.pack(
        49, ANSWER_BYTES, 0, request.length_bytes, request.offset_bytes, request.file_id, 0, 0, 0, 0, 0
    )


def write_request(request: Request, *, signed: bool) -> bytearray:
    """A WRITE (§2.2.21) up to its data, which follow."""
    return bytearray(_header(WRITE, request, signed=signed)) + _WRITE_BODY.pack(
        49, _WRITE_DATA_OFFSET, request.length_bytes, request.offset_bytes, request.file_id, 0, 0, 0, 0, 0
    )


def _header(command: int, request: Request, *, signed: bool) -> bytes:
    if len(request.file_id) != _FILE_ID_BYTES:
        raise ValueError(f"a file id has {_FILE_ID_BYTES} bytes")
    return _HEADER.pack(
        SMB2, HEADER_BYTES, request.credit_charge, 0, command, request.credit_request, SIGNED if signed else 0, 0,
        request.message_id, 0, request.tree_id, request.session_id, UNSIGNED,
    )  # fmt: skip


def put_signature(message: bytearray | memoryview, signature: bytes) -> None:
    """Sign a message, or with `UNSIGNED` make it what its signature was computed of."""
    message[_SIGNATURE] = signature


def parse_answer(message: Buffer) -> Answer | None:
    """The header of an answer; None if it is none."""
    if len(message) < HEADER_BYTES:
        return None
    protocol, size, _, status, command, credits_, flags, following, message_id, _, _, session_id, signature = (
        _HEADER.unpack_from(message)
    )
    if protocol != SMB2 or size != HEADER_BYTES:
        return None
    return Answer(status, command, credits_, flags, following, message_id, session_id, signature)


def parse_read_answer(message: Buffer, length_bytes: int) -> tuple[int, int] | None:
    """Where the data of a READ's answer are in the message, and how many bytes (§2.2.20).

    None if they can't be there in a message of `length_bytes`, of which `message` is the beginning.
    """
    if len(message) < ANSWER_BYTES:
        return None
    size, start, count = _READ_ANSWER.unpack_from(message, HEADER_BYTES)
    if size != 17 or (count and start < ANSWER_BYTES) or start + count > length_bytes:
        return None
    return max(start, ANSWER_BYTES), count


def parse_write_answer(message: Buffer) -> int | None:
    """How many bytes a WRITE wrote (§2.2.22); None if the answer is no such one."""
    if len(message) < ANSWER_BYTES:
        return None
    size, count = _WRITE_ANSWER.unpack_from(message, HEADER_BYTES)
    return int(count) if size == 17 else None


def transform(nonce: bytes, size_bytes: int, session_id: int) -> bytearray:
    """The header of an encrypted message, still without its tag (§2.2.41)."""
    return bytearray(_TRANSFORM.pack(TRANSFORM, UNSIGNED, nonce.ljust(16, b"\0"), size_bytes, 0, 1, session_id))


def put_tag(header: bytearray | memoryview, tag: bytes) -> None:
    """Complete the header of an encrypted message."""
    header[4:20] = tag


def parse_transform(message: Buffer) -> Transform | None:
    """The header of an encrypted message; None if it is none."""
    if len(message) < TRANSFORM_BYTES:
        return None
    protocol, tag, nonce, size, _, flags, session_id = _TRANSFORM.unpack_from(message)
    return Transform(tag, nonce, size, flags, session_id) if protocol == TRANSFORM else None


AUTHENTICATED = slice(20, TRANSFORM_BYTES)
"""The part of that header which the tag covers beside the message."""
