"""What a lock file says of its holder, and what may be concluded from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.storage.holder import MAX_HOLDER_BYTES, decode, describe, encode, is_dead
from replicad.storage.port import LockHolder

HOLDER = LockHolder(
    host="nas-a",
    machine_id="0123456789abcdef",
    boot_id="boot-1",
    pid=4711,
    process_start="1000",
    since="2026-01-31T12:00:00Z",
    session_id=0xFEDC_BA98_7654_3210,
    extra={"pid_namespace": "pid:[4026531836]", "가상": "머신 🖥"},
)
ME = replace(HOLDER, pid=4800, process_start="2000", session_id=0)


def nobody_runs(pid: int) -> str | None:
    return None


def test_what_is_encoded_can_be_decoded() -> None:
    assert decode(encode(HOLDER)) == HOLDER


def test_unknown_fields_of_a_later_version_are_ignored() -> None:
    assert decode(encode(HOLDER).replace(b'{"', b'{"colour": ["blue"], "', 1)) == HOLDER


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b"[" * 10_000,
        encode(HOLDER).replace(b"4711", b"-1"),
        encode(HOLDER).replace(b"4711", b"true"),
        encode(HOLDER).replace(b"4711", b"1e3"),
        encode(HOLDER).replace(b"4711", b"9" * 5000),
        encode(HOLDER).replace(b'"nas-a"', b"null"),
        encode(HOLDER).replace(b"nas-a", b"n" * 300),
        encode(HOLDER).replace(b"nas-a", b"\\ud800"),
        encode(HOLDER)[:-10],
        encode(HOLDER) + b" " * MAX_HOLDER_BYTES,
        encode(replace(HOLDER, extra={str(n): "" for n in range(17)})),
    ],
)
def test_anything_else_names_no_holder(content: bytes) -> None:
    assert decode(content) is None


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_decoding_never_raises(content: bytes) -> None:
    result = decode(content)
    assert result is None or decode(encode(result)) == result


def test_a_holder_is_dead_when_its_process_is_gone() -> None:
    assert is_dead(HOLDER, ME, nobody_runs)


def test_a_holder_is_dead_when_its_number_belongs_to_a_younger_process() -> None:
    assert is_dead(HOLDER, ME, {4711: "1500"}.get)


def test_a_holder_is_dead_when_the_host_was_started_anew() -> None:
    assert is_dead(replace(HOLDER, boot_id="boot-0"), ME, {4711: "1000"}.get)


@pytest.mark.parametrize(
    "holder",
    [
        pytest.param(replace(HOLDER, machine_id="other"), id="another machine"),
        pytest.param(replace(HOLDER, host="nas-b"), id="a clone under another name"),
        pytest.param(replace(HOLDER, machine_id=""), id="no machine id"),
        pytest.param(replace(HOLDER, boot_id=""), id="no boot id"),
        pytest.param(replace(HOLDER, extra={"pid_namespace": "pid:[1]"}), id="another container"),
        pytest.param(replace(HOLDER, pid=0), id="no process number"),
    ],
)
def test_what_is_not_known_does_not_make_a_holder_dead(holder: LockHolder) -> None:
    assert not is_dead(holder, ME, nobody_runs)


@pytest.mark.parametrize("start", ["1000", ""])
def test_a_holder_lives_while_its_process_or_one_that_may_be_it_does(start: str) -> None:
    assert not is_dead(HOLDER, ME, {4711: start}.get)


def test_a_network_address_alone_does_not_tell_a_restart_from_another_host() -> None:
    mine, other = replace(ME, machine_id="mac-0242ac110002"), replace(HOLDER, machine_id="mac-0242ac110002")
    assert not is_dead(replace(other, boot_id="boot-0"), mine, nobody_runs)
    assert is_dead(other, mine, nobody_runs)


def test_a_holder_is_described_in_words_safe_for_a_terminal() -> None:
    assert describe(HOLDER) == "host nas-a, process 4711, since 2026-01-31T12:00:00Z"
    assert "\x1b" not in describe(replace(HOLDER, host="nas\x1b[31m", since="\x1b"))
