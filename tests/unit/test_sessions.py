"""Codes and keys of who signs in with a browser."""

from __future__ import annotations

from replicad.service.api.sessions import CODE_S, SESSION_S, Sessions


class _Time:
    def __init__(self) -> None:
        self.now_s = 5.0
        self.sessions = Sessions(lambda: self.now_s)


def test_a_code_is_good_once_and_for_two_minutes() -> None:
    time = _Time()
    first, second = time.sessions.new_code(), time.sessions.new_code()
    assert first != second
    assert len(first) >= 43
    assert time.sessions.take(first)
    assert not time.sessions.take(first)
    time.now_s += CODE_S
    assert not time.sessions.take(second)
    assert not time.sessions.take("")
    assert not time.sessions.take("\ud800")


def test_a_key_is_good_until_it_is_closed_or_old() -> None:
    time = _Time()
    key, other = time.sessions.open().encode(), time.sessions.open().encode()
    assert time.sessions.knows(key)
    assert not time.sessions.knows(b"")
    assert not time.sessions.knows(key + b"x")
    time.sessions.close(key)
    time.sessions.close(b"nobody's")
    assert not time.sessions.knows(key)
    time.now_s += SESSION_S - 1
    assert time.sessions.knows(other)
    time.now_s += 1
    assert not time.sessions.knows(other)


def test_a_code_is_no_key_and_a_key_no_code() -> None:
    sessions = _Time().sessions
    assert not sessions.knows(sessions.new_code().encode())
    assert not sessions.take(sessions.open())


def test_there_are_never_many_and_none_is_kept_as_it_is() -> None:
    sessions = _Time().sessions
    keys = [sessions.open() for _ in range(65)]
    codes = [sessions.new_code() for _ in range(17)]
    assert [sessions.knows(key.encode()) for key in keys] == [False] + [True] * 64
    kept = repr(vars(sessions))
    assert not any(secret in kept for secret in (*keys, *codes))
    assert [sessions.take(code) for code in codes] == [False] + [True] * 16
