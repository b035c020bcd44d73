"""READ and WRITE as bytes, with smbprotocol's slower classes as the judge."""

from __future__ import annotations

import struct

import pytest
from smbprotocol.connection import SMB2TransformHeader
from smbprotocol.header import Commands, Smb2Flags, SMB2HeaderRequest
from smbprotocol.open import SMB2ReadRequest, SMB2ReadResponse, SMB2WriteRequest

from replicad.storage.smb.data import frame

FILE_ID = bytes(range(1, 17))
REQUEST = frame.Request(0x0102030405060708, 0x1112131415161718, 0x21222324, 16, 300, FILE_ID, 1 << 45, 1 << 20)


def judged(command: int, body: bytes, *, signed: bool) -> bytes:
    header = SMB2HeaderRequest()
    header["credit_charge"] = 16
    header["command"] = command
    header["credit_request"] = 300
    header["message_id"] = REQUEST.message_id
    header["tree_id"] = REQUEST.tree_id
    header["session_id"] = REQUEST.session_id
    if signed:
        header["flags"].set_flag(Smb2Flags.SMB2_FLAGS_SIGNED)
    header["data"] = body
    packed: bytes = header.pack()
    return packed


@pytest.mark.parametrize("signed", [True, False])
def test_a_read_is_the_one_that_smbprotocol_sends(signed: bool) -> None:
    message = SMB2ReadRequest()
    message["padding"] = b"\x50"
    message["length"] = 1 << 20
    message["offset"] = 1 << 45
    message["file_id"] = FILE_ID
    message["minimum_count"] = 0
    assert frame.read_request(REQUEST, signed=signed) == judged(Commands.SMB2_READ, message.pack(), signed=signed)


@pytest.mark.parametrize("signed", [True, False])
def test_a_write_is_the_one_that_smbprotocol_sends(signed: bool) -> None:
    data = b"disk" * (1 << 18)
    message = SMB2WriteRequest()
    message["offset"] = 1 << 45
    message["file_id"] = FILE_ID
    message["buffer"] = data
    found = frame.write_request(REQUEST, signed=signed) + data
    assert found == judged(Commands.SMB2_WRITE, message.pack(), signed=signed)


def test_a_file_id_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        frame.read_request(REQUEST._replace(file_id=b"short"), signed=True)


def answer(command: int = frame.READ, body: bytes = b"") -> bytes:
    return (
        struct.pack("<4sHHIHHIIQIIQ16s", b"\xfeSMB", 64, 1, 0xC0000011, command, 7, 9, 0, 5, 0, 3, 11, b"s" * 16) + body
    )


def test_the_header_of_an_answer_is_read() -> None:
    found = frame.parse_answer(answer())
    assert found == frame.Answer(0xC0000011, frame.READ, 7, 9, 0, 5, 11, b"s" * 16)


@pytest.mark.parametrize(
    "message", [b"", answer()[:63], b"\xfdSMB" + answer()[4:], answer()[:4] + b"\0\0" + answer()[6:]]
)
def test_what_is_no_answer_is_none(message: bytes) -> None:
    assert frame.parse_answer(message) is None


def test_the_data_of_a_read_are_where_the_answer_says() -> None:
    body = SMB2ReadResponse()
    body["data_offset"] = 88
    body["data_length"] = 5
    body["buffer"] = b"12345"
    packed = body.pack()[:16] + bytes(8) + b"12345"
    message = answer(body=packed)
    assert frame.parse_read_answer(message, len(message)) == (88, 5)


@pytest.mark.parametrize(
    ("size", "start", "count", "length"),
    [(17, 80, 6, 85), (17, 88, 5, 85), (17, 79, 5, 85), (17, 0, 5, 85), (9, 80, 5, 85), (17, 80, 0xFFFFFFFF, 85)],
)
def test_data_that_can_t_be_where_the_answer_says_are_none(size: int, start: int, count: int, length: int) -> None:
    message = answer(body=struct.pack("<HBxI8x", size, start, count))
    assert frame.parse_read_answer(message, length) is None


def test_an_answer_that_is_too_short_says_nothing() -> None:
    assert frame.parse_read_answer(answer(body=bytes(15)), 79) is None
    assert frame.parse_write_answer(answer(frame.WRITE, body=bytes(15))) is None


def test_an_answer_to_a_write_says_how_much_was_written() -> None:
    assert frame.parse_write_answer(answer(frame.WRITE, struct.pack("<HxxI8x", 17, 77))) == 77
    assert frame.parse_write_answer(answer(frame.WRITE, struct.pack("<HxxI8x", 9, 77))) is None


def test_the_header_of_an_encrypted_message_is_smbprotocol_s() -> None:
    judge = SMB2TransformHeader()
    judge["signature"] = b"t" * 16
    judge["nonce"] = b"n" * 11 + bytes(5)
    judge["original_message_size"] = 99
    judge["session_id"] = 0x1112131415161718
    header = frame.transform(b"n" * 11, 99, 0x1112131415161718)
    frame.put_tag(header, b"t" * 16)
    assert header == judge.pack()
    assert frame.parse_transform(header) == frame.Transform(b"t" * 16, b"n" * 11 + bytes(5), 99, 1, 0x1112131415161718)
    assert frame.parse_transform(header[:51]) is None
    assert frame.parse_transform(b"\xfeSMB" + header[4:]) is None
